//! A webhook in this process, in front of an API server made of answers.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "test helpers; each test file uses its own part")]

use std::{collections::BTreeMap, io, sync::Arc};

use axum::{Router, body::Body};
use http::{Request, Response};
use http_body_util::BodyExt;
use identity::{AnchorsRx, TrustAnchors};
use injector::{
    args::{Args, Config, ConfigError, Given},
    cluster::Cluster,
    core::callers::Callers,
    metrics::Metrics,
    webhook::{Webhook, router},
};
use kube::client::Body as KubeBody;
use serde_json::Value;

/// Answers the API server's part: method and path in, status and body out.
pub type ApiServer = Arc<dyn Fn(&str, &str) -> (u16, Value) + Send + Sync>;

/// A client of `server`.
pub fn client(server: ApiServer) -> kube::Client {
    let service = tower::service_fn(move |request: Request<KubeBody>| {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let (status, body) = server(request.method().as_str(), &path);
        async move {
            let response = Response::builder().status(status).header("content-type", "application/json");
            Ok::<_, io::Error>(response.body(KubeBody::from(body.to_string().into_bytes())).unwrap())
        }
    });
    kube::Client::new(service, "default")
}

/// What a missing object looks like.
pub fn not_found() -> (u16, Value) {
    failure(404, "NotFound")
}

/// A Status with this code.
pub fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    });
    (code, status)
}

/// The configuration made of `env` and `flags`.
pub fn config(env: &BTreeMap<String, String>, flags: &[&str]) -> Result<Config, ConfigError> {
    let args: Args = runtime::args::try_parse("injector", flags).unwrap();
    let variable = |name: &str| env.get(name).cloned();
    let resolv_conf = || Ok(String::new());
    Config::new(args, &Given { variable: &variable, resolv_conf: &resolv_conf })
}

/// The environment the chart sets by default.
pub fn chart_env() -> BTreeMap<String, String> {
    let pairs = [
        ("NAMESPACE", "dapr-system"),
        ("KUBE_CLUSTER_DOMAIN", "cluster.local"),
        ("SIDECAR_IMAGE", "ghcr.io/dapr/daprd:1.18.3"),
        ("SIDECAR_IMAGE_PULL_POLICY", "IfNotPresent"),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Trust anchors that are `pem` and never change.
pub fn anchors(pem: &str) -> AnchorsRx {
    let anchors = TrustAnchors::parse(pem.to_owned()).unwrap();
    tokio::sync::watch::channel(Some(Arc::new(anchors))).1
}

/// A webhook of `config`, with a token at hand, and its metrics.
pub fn webhook(
    config: &Config,
    anchors: AnchorsRx,
    server: ApiServer,
) -> (Arc<Webhook>, Arc<runtime::metrics::Registry>) {
    let mut registry = runtime::metrics::Registry::default();
    let webhook = Webhook {
        install: config.install.clone(),
        callers: Callers::new(config.patterns.clone()),
        anchors,
        cluster: Cluster::new(client(server), config.install.namespace.clone()),
        metrics: Metrics::register(&mut registry),
        tokens: vec!["/proc/self/status".into()],
    };
    (Arc::new(webhook), Arc::new(registry))
}

/// Routes of [`webhook`].
pub fn routes(config: &Config, anchors: AnchorsRx, server: ApiServer) -> Router {
    router(webhook(config, anchors, server).0)
}

/// An answer: status, content type, body.
pub async fn ask(router: &Router, path: &str, content_type: &str, body: impl Into<Body>) -> (u16, String, Vec<u8>) {
    let request = Request::post(path).header("content-type", content_type).body(body.into()).unwrap();
    let response = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap();
    let content_type = response.headers().get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, content_type, body.to_vec())
}

/// Takes the patch out of an AdmissionReview, decoded.
pub fn take_patch(review: &mut Value) -> Option<Value> {
    use base64::Engine;
    let patch = review.get_mut("response")?.as_object_mut()?.shift_remove("patch")?;
    let json = base64::engine::general_purpose::STANDARD.decode(patch.as_str().unwrap()).unwrap();
    Some(serde_json::from_slice(&json).unwrap())
}
