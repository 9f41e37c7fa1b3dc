//! Admits a stream (placement.md §4.1): the leader check precedes everything, then the stream gets its
//! outbox and its reader. Orders are encoded once elsewhere, so this is a plain tower service instead
//! of a generated one.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, header};
use identity::Peer;
use proto::placement::v1::Host as WireHost;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Streaming};
use tonic::server::NamedService;
use tonic_prost::ProstCodec;
use tower::Service;

use super::reader::{Admitted, Reader, ReadersTask};
use crate::core::{Caller, StreamId};
use crate::hub::HubHandle;
use crate::outbox::Outbox;
use crate::status::{Ending, status};

const METHOD: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";
/// How long a refusal waits for a leader to appear here: sidecars retry without delay (W16).
const PARKING: Duration = Duration::from_millis(500);
/// grpc's default, which is upstream's limit.
const MAX_MESSAGE: usize = 4 << 20;
/// The default of 8 KiB is a tenth of what an idle stream costs, and sidecars send some dozen bytes at
/// a time. Longer messages grow it.
const READ_BUFFER: usize = 256;
/// The default; nothing is encoded with it.
const YIELD_THRESHOLD: usize = 32 << 10;

/// What the service needs to know.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// `--id`, named in refusals.
    pub node: String,
    /// This replica's number.
    pub replica: u64,
    /// Whether peers prove who they are.
    pub mtls: bool,
}

/// `dapr.proto.placement.v1.Placement`.
#[derive(Clone)]
pub struct PlacementService {
    options: Arc<ServiceOptions>,
    hub: HubHandle,
    accepts: watch::Receiver<bool>,
    readers: mpsc::Sender<Admitted>,
    next: Arc<AtomicU64>,
    leaving: Arc<AtomicBool>,
}

impl NamedService for PlacementService {
    const NAME: &'static str = "dapr.proto.placement.v1.Placement";
}

impl PlacementService {
    /// The service and the task that reads its streams.
    pub fn new(options: ServiceOptions, hub: HubHandle) -> (Self, ReadersTask) {
        let (task, readers) = ReadersTask::new();
        let service = Self {
            options: Arc::new(options),
            accepts: hub.accepts(),
            hub,
            readers,
            next: Arc::default(),
            leaving: Arc::default(),
        };
        (service, task)
    }

    /// From now on new streams are refused with `Unavailable`.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    async fn admit(self, request: http::Request<Body>) -> Result<http::Response<Body>, Ending> {
        self.require_leader().await?;
        if self.leaving.load(Ordering::Acquire) {
            return Err(Ending::ShuttingDown);
        }
        let (parts, body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>();
        let (outbox, orders, closed) = Outbox::new();
        let decoder = ProstCodec::<WireHost, WireHost>::raw_decoder(BufferSettings::new(READ_BUFFER, YIELD_THRESHOLD));
        let reader = Reader {
            hub: self.hub.clone(),
            stream: StreamId { replica: self.options.replica, seq: self.next.fetch_add(1, Ordering::Relaxed) },
            caller: self.caller(peer),
            ed25519: peer.and_then(Peer::key_kind) == Some(identity::LeafKey::Ed25519),
            messages: Streaming::new_request(decoder, body, None, Some(MAX_MESSAGE)),
            closed,
        };
        self.readers.send((Box::new(reader), outbox)).await.map_err(|_| Ending::ShuttingDown)?;
        let mut response = http::Response::new(orders);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(response)
    }

    /// Streams are taken while this replica leads or has a lease of the leader (RULINGS 18).
    async fn require_leader(&self) -> Result<(), Ending> {
        let mut accepts = self.accepts.clone();
        match tokio::time::timeout(PARKING, accepts.wait_for(|accepts| *accepts)).await {
            Ok(Ok(_)) => Ok(()),
            // A closed channel and the end of the wait both mean that nobody is known to lead.
            Ok(Err(_)) | Err(_) => Err(Ending::NotLeader { node: self.options.node.clone() }),
        }
    }

    fn caller(&self, peer: Option<&Peer>) -> Caller {
        if !self.options.mtls {
            return Caller::Unauthenticated;
        }
        match peer.and_then(|p| p.id().ok()) {
            Some(id) => {
                Caller::Named { namespace: id.namespace().as_str().into(), app_id: id.app_id().as_str().into() }
            }
            None => Caller::Nameless,
        }
    }
}

impl Service<http::Request<Body>> for PlacementService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("unknown method").into_http());
            }
            let admitted = service.admit(request).await;
            Ok(admitted.unwrap_or_else(|ending| status(&ending).into_http()))
        })
    }
}
