//! A fake API server: the objects and answers that contract §12 allows sentry to ask for, and
//! nothing else. Like upstream's test rigs it answers a watch with a plain list.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::process::Start;

pub const NAMESPACE: &str = "dapr-system";

/// What the server holds and was asked.
#[derive(Default)]
pub struct World {
    /// Secret and ConfigMap, by `secrets` and `configmaps`.
    pub bundle: Mutex<BTreeMap<String, Value>>,
    pub pods: Mutex<Vec<Value>>,
    /// Pods that only a live look-up finds: the cache has not seen them.
    pub unlisted: Mutex<Vec<Value>>,
    pub configurations: Mutex<Vec<Value>>,
    pub reviews: Mutex<Vec<(String, Value)>>,
    /// Token reviews fail with 500 while set.
    pub broken: AtomicBool,
    /// Pods may not be listed while set, as under `global.rbac.namespaced`.
    pub forbidden: AtomicBool,
    pub live_lookups: AtomicU32,
    pub writes: Mutex<Vec<String>>,
    pub events: Mutex<Vec<Value>>,
}

pub struct Api {
    pub world: Arc<World>,
    pub port: u16,
    _server: tokio::task::JoinSet<()>,
}

impl Api {
    /// With both bundle objects, empty, and the Configuration `daprsystem`.
    pub async fn start() -> Self {
        let world = Arc::new(World::default());
        for kind in ["secrets", "configmaps"] {
            let object =
                json!({"metadata": {"name": "dapr-trust-bundle", "namespace": NAMESPACE, "resourceVersion": "1"}});
            world.bundle.lock().insert(kind.into(), object);
        }
        world.configurations.lock().push(configuration("daprsystem", NAMESPACE, &json!({})));
        let router = Router::new()
            .route("/api/v1/namespaces/{ns}/{kind}/{name}", get(get_object).put(put_object))
            .route("/api/v1/namespaces/{ns}/pods", get(list_sentries))
            .route("/api/v1/namespaces/{ns}/events", post(take_event))
            .route("/api/v1/pods", get(list_pods))
            .route("/apis/dapr.io/v1alpha1/configurations", get(list_configurations))
            .route("/apis/dapr.io/v1alpha1/namespaces/{ns}/configurations/{name}", get(get_configuration))
            .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
            .with_state(Arc::clone(&world));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { world, port, _server: server }
    }

    /// A sentry in this cluster.
    pub fn sentry(&self) -> Start {
        let mut start = Start::standalone();
        start.flags.clear();
        let kubeconfig = start.dir.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{}'}}}}]\n\
             users: [{{name: u, user: {{token: t}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
            self.port
        );
        std::fs::write(&kubeconfig, text).unwrap();
        start
            .flag("--mode=kubernetes")
            .flag("--trust-domain=cluster.local")
            .flag(&format!("--kubeconfig={}", kubeconfig.display()))
            .variable("NAMESPACE", NAMESPACE)
            .variable("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
    }

    /// A key of the Secret or ConfigMap, decoded.
    pub fn value(&self, kind: &str, key: &str) -> Option<Vec<u8>> {
        use base64::Engine as _;
        let bundle = self.world.bundle.lock();
        let text = bundle[kind]["data"][key].as_str()?;
        Some(match kind {
            "secrets" => base64::engine::general_purpose::STANDARD.decode(text).unwrap(),
            _ => text.as_bytes().to_vec(),
        })
    }

    /// Changes one of the two objects as a user would.
    pub fn edit(&self, kind: &str, change: impl FnOnce(&mut Value)) {
        let mut bundle = self.world.bundle.lock();
        let object = bundle.get_mut(kind).unwrap();
        change(object);
        bump(object);
    }

    pub fn pod(&self, name: &str, namespace: &str, account: &str, annotations: &Value) {
        self.world.pods.lock().push(pod(name, namespace, account, annotations));
    }
}

pub fn pod(name: &str, namespace: &str, account: &str, annotations: &Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations, "labels": {"x": "y"}},
        "spec": {"serviceAccountName": account, "containers": [{"name": "c"}]},
    })
}

pub fn configuration(name: &str, namespace: &str, spec: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// A token of `account` bound to `pod`; the server below reads whose it is from it.
pub fn token(namespace: &str, account: &str, pod: &str) -> String {
    json!({"user": format!("system:serviceaccount:{namespace}:{account}"), "kubernetes.io": {"pod": {"name": pod}}})
        .to_string()
}

fn bump(object: &mut Value) {
    let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    object["metadata"]["resourceVersion"] = json!((version + 1).to_string());
}

fn status(code: u16, reason: &str, message: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message});
    (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
}

fn find(objects: &[Value], namespace: &str, name: &str) -> Option<Value> {
    let is = |object: &&Value| object["metadata"]["name"] == name && object["metadata"]["namespace"] == namespace;
    objects.iter().find(is).cloned()
}

async fn get_object(
    State(world): State<Arc<World>>,
    Path((ns, kind, name)): Path<(String, String, String)>,
) -> Response {
    let found = match kind.as_str() {
        "pods" => {
            world.live_lookups.fetch_add(1, Ordering::Relaxed);
            find(&world.pods.lock(), &ns, &name).or_else(|| find(&world.unlisted.lock(), &ns, &name))
        }
        _ => world.bundle.lock().get(&kind).cloned(),
    };
    found.map_or_else(|| status(404, "NotFound", "not found"), |object| Json(object).into_response())
}

async fn put_object(
    State(world): State<Arc<World>>,
    Path((_, kind, _)): Path<(String, String, String)>,
    Json(mut object): Json<Value>,
) -> Response {
    let mut bundle = world.bundle.lock();
    let current = bundle.get_mut(&kind).unwrap();
    if current["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
        return status(409, "Conflict", "the object has been modified");
    }
    bump(&mut object);
    *current = object.clone();
    drop(bundle);
    world.writes.lock().push(kind);
    Json(object).into_response()
}

async fn list_sentries(State(_): State<Arc<World>>) -> Response {
    Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []})).into_response()
}

async fn take_event(State(world): State<Arc<World>>, Json(event): Json<Value>) -> Json<Value> {
    world.events.lock().push(event.clone());
    Json(event)
}

async fn list_pods(State(world): State<Arc<World>>) -> Response {
    if world.forbidden.load(Ordering::Relaxed) {
        return status(403, "Forbidden", "pods is forbidden");
    }
    Json(json!({"metadata": {}, "items": *world.pods.lock()})).into_response()
}

async fn list_configurations(State(world): State<Arc<World>>) -> Json<Value> {
    Json(json!({"metadata": {}, "items": *world.configurations.lock()}))
}

async fn get_configuration(State(world): State<Arc<World>>, Path((ns, name)): Path<(String, String)>) -> Response {
    find(&world.configurations.lock(), &ns, &name)
        .map_or_else(|| status(404, "NotFound", "not found"), |object| Json(object).into_response())
}

async fn review(State(world): State<Arc<World>>, headers: HeaderMap, Json(mut review): Json<Value>) -> Response {
    let content_type = headers["content-type"].to_str().unwrap().to_owned();
    world.reviews.lock().push((content_type, review["spec"]["audiences"].clone()));
    if world.broken.load(Ordering::Relaxed) {
        return status(500, "InternalError", "broken on purpose");
    }
    let token = review["spec"]["token"].as_str().unwrap_or_default().to_owned();
    if token.is_empty() {
        return status(400, "BadRequest", "token is required for TokenReview in authentication");
    }
    review["status"] = match serde_json::from_str::<Value>(&token)
        .ok()
        .and_then(|claims| claims["user"].as_str().map(str::to_owned))
    {
        Some(user) => json!({"authenticated": true, "user": {"username": user}}),
        None if token == "faulty" => json!({"authenticated": false, "error": "it is faulty"}),
        None => json!({"authenticated": false}),
    };
    Json(review).into_response()
}
