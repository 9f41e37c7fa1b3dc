//! The API server that sentry asks in Kubernetes mode: its two bundle objects, its Configuration,
//! many pods to list and watch, and token reviews. Nothing else but discovery; HTTP without TLS.
//!
//! It answers as a real one does where that decides what a client keeps in memory: a list at
//! resource version 0 comes whole, other lists in pages; a metadata client gets metadata only; a
//! watch stays open.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::pods::{Pod, pods};

/// The namespace of the control plane.
pub const CONTROL_PLANE: &str = "dapr-system";
/// The group and version of Configurations.
const DAPR: &str = "dapr.io/v1alpha1";
/// The resource version of everything: nothing changes.
const VERSION: &str = "1000";

struct World {
    pods: Vec<Pod>,
    /// Secret and ConfigMap, by `secrets` and `configmaps`.
    bundle: Mutex<BTreeMap<String, Value>>,
}

/// A running API server; dropped, it ends.
pub struct Cluster {
    world: Arc<World>,
    port: u16,
    _server: JoinSet<()>,
    _runtime: Runtime,
}

impl Cluster {
    /// With `all` pods of which `dapr` have a sidecar.
    pub fn start(all: usize, dapr: usize) -> Result<Self> {
        let bundle = ["secrets", "configmaps"].map(|kind| {
            let metadata = json!({"name": "dapr-trust-bundle", "namespace": CONTROL_PLANE, "resourceVersion": "1"});
            (kind.to_owned(), json!({"metadata": metadata}))
        });
        let world = Arc::new(World { pods: pods(all, dapr), bundle: Mutex::new(bundle.into()) });
        // A thread of its own: sentry is waited for before any load begins.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("listen as an API server")?;
        let port = listener.local_addr()?.port();
        let router = router(Arc::clone(&world));
        let mut server = JoinSet::new();
        let serve = async move {
            // Serving on an open listener does not end by itself.
            let _ = axum::serve(listener, router).await;
        };
        server.spawn_on(serve, runtime.handle());
        Ok(Self { world, port, _server: server, _runtime: runtime })
    }

    /// How to reach it.
    pub fn kubeconfig(&self) -> String {
        let cluster = json!({"name": "c", "cluster": {"server": format!("http://127.0.0.1:{}", self.port)}});
        let user = json!({"name": "u", "user": {"token": "t"}});
        let context = json!({"name": "x", "context": {"cluster": "c", "user": "u"}});
        let (clusters, users, contexts) = ([cluster], [user], [context]);
        json!({
            "apiVersion": "v1", "kind": "Config", "clusters": clusters, "users": users, "contexts": contexts,
            "current-context": "x",
        })
        .to_string()
    }

    /// The trust anchors that sentry published.
    pub async fn anchors(&self) -> Result<Vec<u8>> {
        let bundle = self.world.bundle.lock().await;
        let anchors = bundle["configmaps"]["data"]["ca.crt"].as_str().context("sentry published no trust anchors")?;
        Ok(anchors.as_bytes().to_vec())
    }

    /// The pods with a sidecar.
    pub fn dapr_pods(&self) -> impl Iterator<Item = &Pod> {
        self.world.pods.iter().filter(|pod| pod.app_id.is_some())
    }

    /// Mean size of a pod's JSON in bytes.
    pub fn mean_pod_bytes(&self) -> usize {
        self.world.pods.iter().map(|pod| pod.json.len()).sum::<usize>() / self.world.pods.len().max(1)
    }
}

fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/api", get(Json(json!({"kind": "APIVersions", "versions": ["v1"]}))))
        .route("/api/v1", get(Json(resources("v1", "pods", "Pod"))))
        .route("/apis", get(Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]}))))
        .route("/apis/dapr.io", get(Json(group())))
        .route("/apis/dapr.io/v1alpha1", get(Json(resources(DAPR, "configurations", "Configuration"))))
        .route("/api/v1/pods", get(list_pods))
        .route("/api/v1/namespaces/{ns}/pods", get(no_pods))
        .route("/api/v1/namespaces/{ns}/pods/{name}", get(get_pod))
        .route("/api/v1/namespaces/{ns}/events", post(take_event))
        .route("/api/v1/namespaces/{ns}/{kind}/{name}", get(get_bundle).put(put_bundle))
        .route("/apis/dapr.io/v1alpha1/configurations", get(list_configurations))
        .route("/apis/dapr.io/v1alpha1/namespaces/{ns}/configurations/{name}", get(get_configuration))
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
        .with_state(world)
}

/// Discovery, which upstream's client wants before it lists.
fn resources(version: &str, name: &str, kind: &str) -> Value {
    let verbs = ["get", "list", "watch"];
    let resource = json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": verbs});
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": [resource]})
}

fn group() -> Value {
    let version = json!({"groupVersion": DAPR, "version": "v1alpha1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": "dapr.io", "versions": [version], "preferredVersion": version})
}

/// What a client of lists and watches may ask for.
type Params = Query<BTreeMap<String, String>>;

async fn list_pods(State(world): State<Arc<World>>, Query(params): Params, headers: HeaderMap) -> Response {
    if is_watch(&params) {
        return silence();
    }
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let metadata_only = accepts.contains("PartialObjectMetadata");
    let number = |name: &str| params.get(name).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let from = number("continue").min(world.pods.len());
    let whole = params.get("resourceVersion").is_some_and(|version| version == "0") || number("limit") == 0;
    let until = if whole { world.pods.len() } else { (from + number("limit")).min(world.pods.len()) };
    let (kind, version) =
        if metadata_only { ("PartialObjectMetadataList", "meta.k8s.io/v1") } else { ("PodList", "v1") };
    let next = if until < world.pods.len() { until.to_string() } else { String::new() };
    let metadata = json!({"resourceVersion": VERSION, "continue": next});
    let items: Vec<&str> = world.pods[from..until]
        .iter()
        .map(|pod| if metadata_only { pod.metadata_json.as_str() } else { pod.json.as_str() })
        .collect();
    let items = items.join(",");
    text(format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata},"items":[{items}]}}"#))
}

fn is_watch(params: &BTreeMap<String, String>) -> bool {
    params.get("watch").is_some_and(|watch| watch != "false" && watch != "0")
}

/// A watch on which nothing happens.
fn silence() -> Response {
    let body = Body::from_stream(futures::stream::pending::<std::io::Result<Vec<u8>>>());
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn text(json: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

fn status(code: StatusCode, reason: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "reason": reason,
        "message": reason,
    });
    (code, Json(body)).into_response()
}

/// No other sentry runs.
async fn no_pods() -> Response {
    text(
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": VERSION}, "items": []})
            .to_string(),
    )
}

async fn get_pod(State(world): State<Arc<World>>, Path((ns, name)): Path<(String, String)>) -> Response {
    let found = world.pods.iter().find(|pod| pod.name == name && pod.namespace == ns);
    found.map_or_else(|| status(StatusCode::NOT_FOUND, "NotFound"), |pod| text(pod.json.clone()))
}

async fn take_event(Json(event): Json<Value>) -> Json<Value> {
    Json(event)
}

async fn get_bundle(State(world): State<Arc<World>>, Path((_, kind, _)): Path<(String, String, String)>) -> Response {
    let found = world.bundle.lock().await.get(&kind).cloned();
    found.map_or_else(|| status(StatusCode::NOT_FOUND, "NotFound"), |object| Json(object).into_response())
}

async fn put_bundle(
    State(world): State<Arc<World>>,
    Path((_, kind, _)): Path<(String, String, String)>,
    Json(object): Json<Value>,
) -> Json<Value> {
    world.bundle.lock().await.insert(kind, object.clone());
    Json(object)
}

async fn list_configurations(Query(params): Params) -> Response {
    if is_watch(&params) {
        return silence();
    }
    let metadata = json!({"resourceVersion": VERSION});
    let items = [configuration()];
    text(json!({"kind": "ConfigurationList", "apiVersion": DAPR, "metadata": metadata, "items": items}).to_string())
}

async fn get_configuration(Path((ns, name)): Path<(String, String)>) -> Response {
    if (ns.as_str(), name.as_str()) == (CONTROL_PLANE, "daprsystem") {
        return Json(configuration()).into_response();
    }
    status(StatusCode::NOT_FOUND, "NotFound")
}

fn configuration() -> Value {
    json!({
        "apiVersion": DAPR, "kind": "Configuration",
        "metadata": {"name": "daprsystem", "namespace": CONTROL_PLANE, "resourceVersion": "1"},
        "spec": {"mtls": {"enabled": true, "workloadCertTTL": "24h", "allowedClockSkew": "15m"}},
    })
}

/// Believes every token.
async fn review(Json(mut review): Json<Value>) -> Response {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    review["status"] = match subject(token) {
        Some(user) => json!({"authenticated": true, "user": {"username": user}}),
        None => json!({"authenticated": false}),
    };
    (StatusCode::CREATED, Json(review)).into_response()
}

fn subject(token: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims["sub"].as_str().map(str::to_owned)
}

/// A token as the kubelet projects it for this pod, with a signature that nobody checks.
pub fn token(pod: &Pod) -> String {
    let header = json!({"alg": "RS256", "kid": "0123456789abcdef0123456789abcdef01234567"});
    let subject = format!("system:serviceaccount:{}:{}", pod.namespace, pod.account);
    let claims = json!({
        "aud": ["spiffe://cluster.local/ns/dapr-system/dapr-sentry"],
        "exp": 4_102_444_800_u64, "iat": 1_700_000_000, "nbf": 1_700_000_000,
        "iss": "https://kubernetes.default.svc.cluster.local",
        "kubernetes.io": {
            "namespace": pod.namespace,
            "pod": {"name": pod.name, "uid": "00000000-0000-4000-8000-000000000000"},
            "serviceaccount": {"name": pod.account, "uid": "00000000-0000-4000-8000-000000000001"},
        },
        "sub": subject,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(&header), part(&claims), URL_SAFE_NO_PAD.encode([7; 256]))
}
