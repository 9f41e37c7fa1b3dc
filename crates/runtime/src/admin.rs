//! The two plain HTTP endpoints of every process: health and metrics.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{BoxError, health::Health, metrics::Registry};

/// How long open connections may take to finish once the process stops.
const GRACE: Duration = Duration::from_secs(5);

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
        return TcpListener::bind((address.trim_matches(['[', ']']), port)).await.map_err(fail);
    }
    match TcpListener::bind(SocketAddr::from(([0u16; 8], port))).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(fail(error)),
        Err(_) => TcpListener::bind(SocketAddr::from(([0u8; 4], port))).await.map_err(fail),
    }
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
