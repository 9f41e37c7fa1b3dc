//! The leader's side: one reader for each follower's link.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use runtime::{BoxError, CancellationToken};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::Streaming;
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::messages::{Announce, Down, Said, Up};
use super::{DOWNS, MAX_MESSAGE};
use crate::handed::each;
use crate::hub::{HubHandle, Input};
use crate::raft::Leadership;

/// Path of the one method.
pub const PATH: &str = "/daprcp.placement.raft.v1.Links/Carry";
/// A follower announces itself at once.
const FIRST_MESSAGE: Duration = Duration::from_secs(5);
/// A follower may know of the leader a little earlier than the leader does.
const PARKING: Duration = Duration::from_secs(1);
/// Links being handed from their connection to the task that reads them.
const HANDED: usize = 16;

struct Link {
    ups: Streaming<Up>,
    downs: mpsc::Sender<Result<Down, Status>>,
}

/// Where the raft port hands links to; clones share it.
#[derive(Clone)]
pub struct Links {
    handed: mpsc::Sender<Link>,
}

impl Links {
    /// Serves a request for [`PATH`].
    pub async fn serve(self, request: http::Request<Body>) -> http::Response<Body> {
        let codec = ProstCodec::<Down, Up>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        grpc.streaming(self, request).await
    }
}

type Downs = Pin<Box<dyn Stream<Item = Result<Down, Status>> + Send>>;

impl StreamingService<Up> for Links {
    type Response = Down;
    type ResponseStream = Downs;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Downs>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Up>>) -> Self::Future {
        let handed = self.handed.clone();
        Box::pin(async move {
            let (downs, queue) = mpsc::channel(DOWNS);
            let link = Link { ups: request.into_inner(), downs };
            handed.send(link).await.map_err(|_| Status::unavailable("shutting down"))?;
            Ok(Response::new(ReceiverStream::new(queue).boxed()))
        })
    }
}

/// Owns the readers of all links.
pub struct LinksTask {
    handed: mpsc::Receiver<Link>,
    reader: Reader,
}

impl LinksTask {
    /// The task, and where to hand links to.
    pub fn new(hub: HubHandle, leadership: watch::Receiver<Leadership>) -> (Self, Links) {
        let (tx, handed) = mpsc::channel(HANDED);
        (Self { handed, reader: Reader { hub, leadership, next: Arc::default() } }, Links { handed: tx })
    }

    /// Runs until stopped; readers end with their links.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let reader = self.reader;
        each(self.handed, stop, |link| reader.clone().read(link)).await
    }
}

#[derive(Clone)]
struct Reader {
    hub: HubHandle,
    leadership: watch::Receiver<Leadership>,
    next: Arc<AtomicU64>,
}

impl Reader {
    async fn read(mut self, link: Link) {
        let Link { mut ups, downs } = link;
        let refuse = |downs: mpsc::Sender<_>, status| drop(downs.try_send(Err(status)));
        // A closed channel and the end of the wait both mean that nobody leads here.
        drop(tokio::time::timeout(PARKING, self.leadership.wait_for(Leadership::is_leading)).await);
        if !self.leadership.borrow().is_leading() {
            return refuse(downs, Status::failed_precondition("this replica does not lead"));
        }
        let Ok(Some(announce)) = first(&mut ups).await else {
            return refuse(downs, Status::invalid_argument("a link begins with an announcement"));
        };
        let link = self.next.fetch_add(1, Ordering::Relaxed);
        let replica = announce.replica;
        self.hub.send(Input::Linked { link, announce, downs }).await;
        while let Ok(Some(up)) = ups.message().await {
            if let Some(said) = up.said {
                self.hub.send(Input::Said { replica, link, said }).await;
            }
        }
        self.hub.send(Input::Unlinked { replica, link }).await;
    }
}

async fn first(ups: &mut Streaming<Up>) -> Result<Option<Announce>, Status> {
    let first = tokio::time::timeout(FIRST_MESSAGE, ups.message()).await;
    let first = first.map_err(|_elapsed| Status::deadline_exceeded("nothing was announced"))??;
    Ok(first.and_then(|up| up.said).and_then(|said| if let Said::Announce(a) = said { Some(a) } else { None }))
}
