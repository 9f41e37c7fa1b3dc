//! The follower's side: keeps a link to whoever leads.

use std::time::Duration;

use identity::{Security, SpiffeId, client};
use rand::Rng;
use runtime::{BoxError, CancellationToken};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::messages::{Down, Up};
use super::server::PATH;
use super::{MAX_MESSAGE, UPS};
use crate::hub::{HubHandle, Input, Uplink};
use crate::raft::Replica;

/// How often it looks who leads. Streams wait for the new leader, so this is short.
const LOOK: Duration = Duration::from_millis(50);
/// Wait before another attempt, in milliseconds.
const RETRY_MS: std::ops::Range<u64> = 50..150;
/// A leader that does not answer within this is dialled again.
const DIAL_LIMIT: Duration = Duration::from_secs(1);

/// Dials the leader while another replica leads.
pub struct UplinkTask {
    replica: Replica,
    security: Security,
    identity: SpiffeId,
    hub: HubHandle,
}

impl UplinkTask {
    /// Leaders must be `identity`, unless in plaintext.
    pub fn new(replica: Replica, (security, identity): (Security, SpiffeId), hub: HubHandle) -> Self {
        Self { replica, security, identity, hub }
    }

    /// Runs until stopped.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            ready = self.security.ready() => ready?,
        }
        let mut number = 0;
        loop {
            number += 1;
            let wait = Duration::from_millis(rand::rng().random_range(RETRY_MS));
            let attempt = async {
                if let Some(leader) = self.replica.leader()
                    && let Err(status) = self.link(number, &leader).await
                {
                    tracing::debug!(error = %status, leader, "link to the leader ended");
                }
                tokio::time::sleep(wait).await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = attempt => {}
            }
        }
    }

    async fn link(&self, number: u64, leader: &str) -> Result<(), Status> {
        let tls = self.security.client(self.identity.clone());
        // A connection of its own: tables must not delay heartbeats, nor the other way round.
        let channel = client::channel(leader, tls).map_err(|e| Status::unavailable(e.to_string()))?;
        let (ups, queue) = mpsc::channel::<Up>(UPS);
        let dial = async {
            let mut grpc =
                Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
            grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
            let path = http::uri::PathAndQuery::from_static(PATH);
            grpc.streaming(Request::new(ReceiverStream::new(queue)), path, ProstCodec::<Up, Down>::default()).await
        };
        let answer = tokio::time::timeout(DIAL_LIMIT, dial).await;
        let mut downs =
            answer.map_err(|_elapsed| Status::deadline_exceeded("the leader does not answer"))??.into_inner();
        let (open, mut closed) = oneshot::channel();
        self.hub.send(Input::Uplinked(Uplink::new(number, ups, open))).await;
        let ended = loop {
            tokio::select! {
                biased;
                _ = &mut closed => break Ok(()),
                () = self.until_another_leads(leader) => break Ok(()),
                down = downs.message() => match down {
                    Ok(Some(Down { told: Some(told) })) => self.hub.send(Input::Told { link: number, told }).await,
                    Ok(Some(Down { told: None })) => {}
                    Ok(None) => break Ok(()),
                    Err(status) => break Err(status),
                },
            }
        };
        self.hub.send(Input::Downlinked { link: number }).await;
        ended
    }

    async fn until_another_leads(&self, leader: &str) {
        while self.replica.leader().as_deref() == Some(leader) {
            tokio::time::sleep(LOOK).await;
        }
    }
}
