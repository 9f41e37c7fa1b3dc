//! The webhook: an admission review in, an answer out.
//!
//! Requests share no mutable state. Bodies have a limit in size and in time, connections a
//! limit in number; beyond it new ones wait to be accepted. The server owns its connections
//! and, once stopped, lets requests under way finish for a while.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use identity::{AnchorsRx, server::Incoming};
use runtime::{BoxError, CancellationToken};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    cluster::Cluster,
    core::{
        self, Install, Patch, Plan, Settings, app_id,
        callers::Callers,
        plan::needs_components,
        review::{Answer, Gate, Pass, Review, Verdict},
        settings::TokenVolume,
    },
    departure::Arrivals,
    metrics::{Metrics, Reason},
    status::{BadRequest, InjectError},
};

/// The API server's own limit for objects is 3 MiB; a review holds one of them, and little else.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// As upstream, for headers; the same again for the body.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// One API server keeps few connections open; this is for their number, with room.
const MAX_CONNECTIONS: usize = 1024;
/// How long requests under way may take once the door is closed.
const DRAIN: Duration = Duration::from_secs(5);
/// Where the injector's own token for sentry lies.
pub const TOKENS: [&str; 2] =
    ["/var/run/secrets/dapr.io/sentrytoken/token", "/var/run/secrets/kubernetes.io/serviceaccount/token"];

/// Everything an answer depends on.
pub struct Webhook {
    /// What this installation fixes.
    pub install: Install,
    /// Who may ask.
    pub callers: Callers,
    /// The trust anchors in force.
    pub anchors: AnchorsRx,
    /// The cluster.
    pub cluster: Cluster,
    /// What happened.
    pub metrics: Metrics,
    /// The files of which one exists where sidecars can have a token too: [`TOKENS`].
    pub tokens: Vec<PathBuf>,
}

/// Routes of the webhook: exactly `/mutate`, by any method.
pub fn router(webhook: Arc<Webhook>) -> Router {
    Router::new()
        .route("/mutate", any(mutate))
        .fallback(async || (StatusCode::NOT_FOUND, "404 page not found\n"))
        .with_state(webhook)
}

/// Serves `router` on `incoming` until `stop`, then drains.
pub async fn serve(
    mut incoming: Incoming,
    router: Router,
    arrivals: Arrivals,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let mut connections = JoinSet::new();
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(READ_LIMIT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => log_end(ended),
            connection = incoming.accept(), if connections.len() < MAX_CONNECTIONS => {
                arrivals.note();
                let service = TowerToHyperService::new(router.clone());
                let served = builder.serve_connection(TokioIo::new(connection), service).into_owned();
                connections.spawn(graceful.watch(served));
            }
        }
    }
    drop(incoming);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!(open = connections.len(), "requests still under way are cut off");
    }
    Ok(())
}

fn log_end(ended: Result<Result<(), BoxError>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection ended"),
        Err(error) => tracing::error!(%error, "a request panicked"),
    }
}

async fn mutate(State(webhook): State<Arc<Webhook>>, request: Request) -> Response {
    webhook.metrics.requested();
    let (parts, body) = request.into_parts();
    match read(&parts.headers, body).await {
        Ok(body) => {
            let answer = webhook.answer(&body).await;
            ([(header::CONTENT_TYPE, "application/json")], answer.to_json()).into_response()
        }
        Err(bad) => {
            tracing::warn!(error = %bad, "request is no admission review");
            bad.into_response()
        }
    }
}

/// The body is looked at before its type, as upstream does.
async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, BadRequest> {
    let limited = Limited::new(body, MAX_BODY);
    let body = match timeout(READ_LIMIT, limited.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(BadRequest::TooLarge { limit: MAX_BODY });
        }
        Ok(Err(_broken)) => return Err(BadRequest::Empty),
        Err(_elapsed) => return Err(BadRequest::TooSlow),
    };
    if body.is_empty() {
        return Err(BadRequest::Empty);
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type.is_some_and(is_json) { Ok(body) } else { Err(BadRequest::ContentType) }
}

fn is_json(content_type: &str) -> bool {
    content_type == "application/json"
}

impl Webhook {
    /// Answers one review.
    pub async fn answer(&self, body: &[u8]) -> Answer {
        let review = match Review::parse(body) {
            Ok(review) => review,
            Err(error) => {
                tracing::warn!(%error, "request body is no admission review");
                self.metrics.failed("", Reason::patch);
                return Answer::unreadable(&error);
            }
        };
        let verdict = self.verdict(&review).await;
        review.answer(verdict)
    }

    async fn verdict(&self, review: &Review) -> Verdict {
        let Some(request) = &review.request else {
            return self.deny(&InjectError::NoRequest, "", "");
        };
        let pod = match request.gate(&self.callers) {
            Gate::Pass(pass) => return self.pass(&pass, || request.reported_app_id()),
            Gate::Plan(pod) => pod,
            Gate::Unreadable(error) => return self.deny(&error.into(), request.namespace(), ""),
        };
        let app_id = app_id::reported(&pod);
        match self.inject(&pod, request.namespace()).await {
            Ok((patch, warnings)) => {
                if !patch.is_empty() {
                    self.metrics.succeeded(app_id);
                    tracing::info!(ns = request.namespace(), app_id, "sidecar injected");
                }
                Verdict::Patch { patch, warnings }
            }
            Err(error) => self.deny(&error, request.namespace(), app_id),
        }
    }

    fn deny(&self, error: &InjectError, ns: &str, app_id: &str) -> Verdict {
        self.metrics.failed(app_id, Reason::patch);
        if error.is_ours() {
            tracing::error!(%error, ns, app_id, "sidecar cannot be injected");
        } else {
            tracing::info!(%error, ns, app_id, "pod refused");
        }
        error.verdict()
    }

    fn pass(&self, pass: &Pass, app_id: impl FnOnce() -> String) -> Verdict {
        if pass.is_failure() {
            let app_id = app_id();
            self.metrics.failed(&app_id, Reason::pod_patch);
            match pass {
                Pass::UnlistedRequester { username } => tracing::warn!(
                    app_id,
                    username,
                    "requester is not on the list of allowed accounts, no sidecar injected"
                ),
                Pass::NotAPod { kind } => tracing::warn!(kind, "request is not about a pod"),
                Pass::NotEnabled | Pass::AlmostEnabled { .. } => {}
            }
        }
        Verdict::Pass { warnings: pass.warning().into_iter().collect() }
    }

    async fn inject(
        &self,
        pod: &k8s_openapi::api::core::v1::Pod,
        namespace: &str,
    ) -> Result<(Patch, Vec<String>), InjectError> {
        let anchors = self.anchors.borrow().clone().ok_or(InjectError::NoTrustAnchors)?;
        let components = if needs_components(pod) { self.cluster.components(namespace).await? } else { Vec::new() };
        let settings = Settings {
            install: &self.install,
            namespace,
            trust_anchors: &String::from_utf8_lossy(anchors.pem()),
            mtls: self.cluster.mtls().await,
            token_volume: self.token_volume(),
            components: &components,
        };
        let plan = core::plan(pod, &settings)?;
        let patch = core::patch(pod, &plan);
        let warnings = match plan {
            Plan::Inject(injection) => injection.warnings,
            Plan::Leave => Vec::new(),
        };
        Ok((patch, warnings))
    }

    /// Looked at for every request: the mount may come late.
    fn token_volume(&self) -> TokenVolume {
        if self.tokens.iter().any(|token| token.exists()) { TokenVolume::Project } else { TokenVolume::Leave }
    }
}
