//! The conversion webhook's HTTPS server, for the API server only.
//!
//! Served by every replica with the operator's SVID. The reply is HTTP 200 with a review,
//! except for a body that is none.

pub mod crd;

use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use identity::server::Incoming;
use runtime::{BoxError, CancellationToken};
use tokio::task::JoinSet;

use crate::core::conversion;

/// The API server sends up to a page of objects, each at most etcd's 1.5 MiB by default;
/// its own limit for what it reads back is of this order.
const BODY_LIMIT: usize = 64 << 20;
/// How long conversions may take to finish once the process stops.
const GRACE: Duration = Duration::from_secs(5);

/// The routes.
pub fn router() -> Router {
    Router::new().route("/convert", post(convert))
}

async fn convert(body: Body) -> Response {
    let Ok(body) = to_bytes(body, BODY_LIMIT).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let answer = std::str::from_utf8(&body).map_err(|_| conversion::NoReview).and_then(conversion::answer);
    match answer {
        Ok(review) => ([(header::CONTENT_TYPE, "application/json")], review).into_response(),
        Err(error) => {
            tracing::warn!(%error, "conversion refused");
            StatusCode::BAD_REQUEST.into_response()
        }
    }
}

/// Serves until `stop`.
pub async fn serve(mut incoming: Incoming, stop: CancellationToken) -> Result<(), BoxError> {
    let builder = Builder::new(TokioExecutor::new());
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let connection = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            connection = incoming.accept() => connection,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let service = TowerToHyperService::new(router());
        let served = builder.serve_connection(TokioIo::new(connection), service).into_owned();
        let served = graceful.watch(served);
        connections.spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, "conversion webhook connection ended");
            }
        });
    }
    drop(incoming);
    let _finished_in_time = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    Ok(())
}
