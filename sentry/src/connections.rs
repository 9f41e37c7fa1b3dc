//! Serves gRPC on connections, each in one task: its handshake, HTTP/2 and its calls.
//!
//! A sidecar connects, asks once and leaves, so that most of what a certificate costs is its connection.
//! A task for each handshake, connection and call wakes a second thread several times, and each part
//! sends for itself. In one task a turn does all that there is to do and then sends once ([`Gathered`]).
//!
//! | task | owns | receives | sends | ends |
//! |---|---|---|---|---|
//! | [`serve`] | listener | connections | each to a task of its own | stop, when all of them ended |
//! | one for each connection | it, its calls | requests | answers | its end; stop, when its calls are answered |

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use identity::server::{Connection, HANDSHAKES_AT_ONCE, Listener};
use parking_lot::Mutex;
use proto::sentry::v1::ca_server::CaServer;
use runtime::{BoxError, CancellationToken};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{gathered::Gathered, grpc::CaService};

/// Streams of one connection: a sidecar needs one.
const MAX_STREAMS: u32 = 1024;
/// A connection that is silent for so long is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// Serves whoever connects, until `stop`; then answers the calls that are under way.
pub async fn serve(mut listener: Listener, service: CaService, stop: CancellationToken) {
    let service = CaServer::new(service);
    let connections = TaskTracker::new();
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    let mut arrive = async || (Arc::clone(&handshakes).acquire_owned().await, listener.accept().await);
    while let Some((place, arrival)) = stop.run_until_cancelled(arrive()).await {
        let (service, stop) = (service.clone(), stop.clone());
        connections.spawn(async move {
            let connection = stop.run_until_cancelled(arrival.handshake()).await.flatten();
            drop(place);
            if let Some(connection) = connection {
                converse(connection, service, stop).await;
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Calls that began in this turn.
#[derive(Clone, Default)]
struct Begun(Arc<Mutex<Vec<Call>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Begun {
    fn execute(&self, call: F) {
        self.0.lock().push(Box::pin(call));
    }
}

async fn converse(connection: Connection, service: CaServer<CaService>, stop: CancellationToken) {
    let (io, begun) = (Gathered::new(connection), Begun::default());
    let http2 = http2::Builder::new(begun.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEPALIVE)
        .serve_connection(TokioIo::new(io.clone()), TowerToHyperService::new(service));
    let mut http2 = pin!(http2);
    let mut calls = FuturesUnordered::new();
    let mut stopped = pin!(stop.cancelled_owned().fuse());
    let ended: Result<(), BoxError> = poll_fn(|cx| {
        if stopped.as_mut().poll(cx).is_ready() {
            http2.as_mut().graceful_shutdown();
        }
        loop {
            if let Poll::Ready(ended) = http2.as_mut().poll(cx) {
                return Poll::Ready(ended.map_err(Into::into));
            }
            calls.extend(begun.0.lock().drain(..));
            // The end of a call leaves HTTP/2 something to send.
            if !matches!(calls.poll_next_unpin(cx), Poll::Ready(Some(()))) {
                break;
            }
        }
        match io.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            _ => Poll::Pending,
        }
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
