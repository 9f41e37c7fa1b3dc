//! The two plain HTTP endpoints of every process: health and metrics.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio_util::sync::CancellationToken;

use crate::{BoxError, health::Health, metrics::Registry};

/// How long open connections may take to finish once the process stops.
const GRACE: Duration = Duration::from_secs(5);
/// Connections that may wait to be accepted. Sidecars of a whole cluster arrive within milliseconds,
/// and whoever finds no room tries again only after a second or is reset; the default of 128 is for
/// smaller crowds. The kernel cuts this to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// An endpoint could not listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    /// Address and port wanted.
    address: String,
    #[source]
    source: io::Error,
}

/// Opens a listener; an empty `address` means all addresses (IPv6 and IPv4 where both exist).
pub async fn listen(address: &str, port: u16) -> Result<TcpListener, ListenError> {
    let fail = |source| ListenError { address: format!("{address}:{port}"), source };
    if !address.is_empty() {
        return open_first((address.trim_matches(['[', ']']), port)).await.map_err(fail);
    }
    match open(SocketAddr::from(([0u16; 8], port))) {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(fail(error)),
        Err(_) => open(SocketAddr::from(([0u8; 4], port))).map_err(fail),
    }
}

/// Listens on the first address of a name that can be used.
async fn open_first(name: (&str, u16)) -> io::Result<TcpListener> {
    let mut outcome = Err(io::Error::new(io::ErrorKind::InvalidInput, "the name has no address"));
    for address in lookup_host(name).await? {
        outcome = open(address);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    // A restart need not wait until the connections of its predecessor are forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `/healthz` (200 when every target is ready, else 503; no body) and the routes of `more`.
///
/// Goes on serving while the process shuts down, until `stop` is cancelled.
pub async fn serve_health(
    listener: TcpListener,
    health: Health,
    more: Router,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    serve_http(listener, health_router(health).merge(more), stop).await
}

/// The router behind [`serve_health`].
pub fn health_router(health: Health) -> Router {
    Router::new().route("/healthz", any(healthz)).with_state(health)
}

async fn healthz(State(health): State<Health>) -> StatusCode {
    let waiting = health.waiting_for();
    if waiting.is_empty() {
        return StatusCode::OK;
    }
    tracing::debug!(targets = waiting.join(","), "not ready");
    StatusCode::SERVICE_UNAVAILABLE
}

/// Serves `registry` on every path: OpenMetrics to those who ask for it, else the classic format.
pub async fn serve_metrics(
    listener: TcpListener,
    registry: Arc<Registry>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    serve_http(listener, metrics_router(registry), stop).await
}

/// The router behind [`serve_metrics`].
pub fn metrics_router(registry: Arc<Registry>) -> Router {
    Router::new().fallback(scrape).with_state(registry)
}

async fn scrape(State(registry): State<Arc<Registry>>, headers: HeaderMap) -> Response {
    let open_metrics = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let (content_type, text) = if open_metrics {
        let mut text = String::new();
        let written = prometheus_client::encoding::text::encode(&mut text, &registry);
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", written.map(|()| text))
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", crate::metrics::exposition(&registry))
    };
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Serves `router` over plain HTTP until `stop`, then gives open connections five seconds.
pub async fn serve_http(listener: TcpListener, router: Router, stop: CancellationToken) -> Result<(), BoxError> {
    let graceful = stop.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move { graceful.cancelled().await });
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = async { server.await } => served.map_err(Into::into),
        () = overdue => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("the server listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.expect("the server answers");
        reply
    }

    #[tokio::test]
    async fn healthz_follows_the_targets_and_other_paths_are_unknown() {
        let health = Health::new();
        let target = health.target("part");
        let stop = CancellationToken::new();
        let listener = listen("127.0.0.1", 0).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = serve_health(listener, health, Router::new(), stop.clone());
        let client = async {
            assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 503"));
            target.ready();
            assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
            assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));
            stop.cancel();
        };
        let (served, ()) = tokio::join!(server, client);
        served.expect("the server ends in order");
    }

    #[tokio::test]
    async fn a_crowd_that_is_not_yet_accepted_finds_room() {
        let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_else(|_| "128".into());
        let crowd: usize = allowed.trim().parse::<usize>().expect("a number").min(400) - 50;
        let listener = listen("127.0.0.1", 0).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let mut waiting = Vec::new();
        for number in 0..crowd {
            // Without room the kernel answers after a second at the earliest.
            let connect = tokio::net::TcpStream::connect(address);
            let connected = tokio::time::timeout(Duration::from_millis(900), connect).await;
            waiting.push(connected.unwrap_or_else(|_| panic!("no room for connection {number}")).expect("it connects"));
        }
    }

    #[tokio::test]
    async fn metrics_are_served_on_every_path() {
        let stop = CancellationToken::new();
        let listener = listen("127.0.0.1", 0).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = serve_metrics(listener, Arc::new(crate::metrics::registry()), stop.clone());
        let client = async {
            for path in ["/", "/metrics", "/x/y"] {
                let reply = get(address, path).await;
                assert!(reply.contains("# TYPE process_cpu_seconds_total counter"), "{reply}");
            }
            stop.cancel();
        };
        let (served, ()) = tokio::join!(server, client);
        served.expect("the server ends in order");
    }
}
