//! The trust anchors in the webhook configuration: written, kept, never fought over.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Request, Response};
use http_body_util::BodyExt;
use identity::TrustAnchors;
use injector::{ca_bundle::CaBundle, metrics::Metrics};
use kube::client::Body as KubeBody;
use parking_lot::Mutex;
use runtime::{CancellationToken, health::Health};
use serde_json::{Value, json};
use testkit::ca::TestCa;
use tokio::{sync::watch, task::JoinSet, time::Instant};

const PATH: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// An API server that knows one object.
#[derive(Default)]
struct ApiServer {
    /// Bundles written, with the time.
    written: Mutex<Vec<(Instant, String)>>,
    /// Refuse this many writes.
    refuse_writes: Mutex<u32>,
    /// Refuse lists and watches with this code.
    refuse_watch: Option<u16>,
    /// Events that a watch delivers, as the bundle of the object; then it stays open.
    events: Mutex<VecDeque<String>>,
    listed: Mutex<String>,
}

fn object(bundle: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "dapr-sidecar-injector", "resourceVersion": "1", "uid": "u"},
        "webhooks": [{
            "name": "sidecar-injector.dapr.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"caBundle": STANDARD.encode(bundle)},
        }],
    })
}

fn status(code: u16) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no", "reason": "No"}),
    )
}

impl ApiServer {
    async fn answer(self: Arc<Self>, request: Request<KubeBody>) -> Result<Response<Body>, io::Error> {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        if parts.method == "PATCH" {
            assert_eq!(parts.uri.path(), format!("{PATH}/dapr-sidecar-injector"));
            assert_eq!(parts.headers["content-type"], "application/json-patch+json");
            let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
            return Ok(json_response(self.write(&body)));
        }
        assert_eq!(parts.uri.path(), PATH);
        assert!(query.contains("fieldSelector=metadata.name%3Ddapr-sidecar-injector"), "{query}");
        if let Some(code) = self.refuse_watch {
            return Ok(json_response(status(code)));
        }
        if !query.contains("watch=true") {
            let items = json!([object(&self.listed.lock())]);
            let list = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfigurationList",
                              "metadata": {"resourceVersion": "1"}, "items": items});
            return Ok(json_response((200, list)));
        }
        let events: Vec<String> = self.events.lock().drain(..).collect();
        let lines = events.into_iter().map(|bundle| {
            let line = json!({"type": "MODIFIED", "object": object(&bundle)}).to_string() + "\n";
            Ok::<_, io::Error>(line)
        });
        let stream = futures::StreamExt::chain(futures::stream::iter(lines), futures::stream::pending());
        Ok(Response::new(Body::from_stream(stream)))
    }

    fn write(&self, patch: &Value) -> (u16, Value) {
        let mut refuse = self.refuse_writes.lock();
        if *refuse > 0 {
            *refuse -= 1;
            return status(500);
        }
        assert_eq!((&patch[0]["op"], &patch[0]["path"]), (&json!("add"), &json!("/webhooks/0/clientConfig/caBundle")));
        let bundle = String::from_utf8(STANDARD.decode(patch[0]["value"].as_str().unwrap()).unwrap()).unwrap();
        self.listed.lock().clone_from(&bundle);
        self.written.lock().push((Instant::now(), bundle.clone()));
        (200, object(&bundle))
    }
}

fn json_response((code, body): (u16, Value)) -> Response<Body> {
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(Body::from(body.to_string().into_bytes())).unwrap()
}

struct Run {
    server: Arc<ApiServer>,
    anchors: watch::Sender<Option<Arc<TrustAnchors>>>,
    health: Health,
    _tasks: JoinSet<()>,
}

fn start(server: ApiServer) -> Run {
    let server = Arc::new(server);
    let shared = server.clone();
    let client = kube::Client::new(tower::service_fn(move |request| shared.clone().answer(request)), "default");
    let (anchors, anchors_rx) = watch::channel(None);
    let health = Health::new();
    let bundle = CaBundle::new(client, anchors_rx, health.target("webhook-configuration"), Metrics::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { bundle.run(CancellationToken::new()).await.unwrap() });
    Run { server, anchors, health, _tasks: tasks }
}

impl Run {
    fn know(&self, pem: &str) {
        self.anchors.send_replace(Some(Arc::new(TrustAnchors::parse(pem.to_owned()).unwrap())));
    }

    /// Lets time pass and returns the bundles written by then.
    async fn after(&self, duration: Duration) -> Vec<String> {
        tokio::time::sleep(duration).await;
        self.server.written.lock().iter().map(|(_, bundle)| bundle.clone()).collect()
    }
}

const SOON: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn the_bundle_is_written_verbatim_once_anchors_are_known_and_when_they_change() {
    let (first, second) = (TestCa::new().root_pem(), TestCa::new().root_pem());
    let run = start(ApiServer::default());
    assert!(run.after(SOON).await.is_empty());
    assert!(!run.health.is_ready());
    let odd = format!("# comment\n{first}\n\n");
    run.know(&odd);
    assert_eq!(run.after(SOON).await, std::slice::from_ref(&odd));
    assert!(run.health.is_ready());
    run.know(&second);
    assert_eq!(run.after(SOON).await, [odd, second]);
    assert_eq!(run.after(Duration::from_mins(10)).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn failed_writes_are_retried_and_only_success_makes_ready() {
    let run = start(ApiServer { refuse_writes: Mutex::new(3), ..ApiServer::default() });
    run.know(&TestCa::new().root_pem());
    assert!(run.after(Duration::from_secs(3)).await.is_empty());
    assert!(!run.health.is_ready());
    assert_eq!(run.after(Duration::from_secs(1)).await.len(), 1);
    assert!(run.health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_someone_removed_is_written_again_at_once() {
    let server = ApiServer { events: Mutex::new(VecDeque::from([String::new()])), ..ApiServer::default() };
    let run = start(server);
    run.know(&TestCa::new().root_pem());
    assert_eq!(run.after(SOON).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_larger_bundle_of_another_replica_is_left_alone() {
    let (old, new) = (TestCa::new().root_pem(), TestCa::new().root_pem());
    let both = format!("{new}{old}");
    let run = start(ApiServer { events: Mutex::new(VecDeque::from([both])), ..ApiServer::default() });
    run.know(&old);
    assert_eq!(run.after(Duration::from_mins(1)).await, [old]);
}

#[tokio::test(start_paused = true)]
async fn repairs_of_what_others_insist_on_are_spaced_out() {
    let other = TestCa::new().root_pem();
    let run = start(ApiServer { events: Mutex::new(vec![other; 8].into()), ..ApiServer::default() });
    run.know(&TestCa::new().root_pem());
    run.after(Duration::from_mins(1)).await;
    let times: Vec<Instant> = run.server.written.lock().iter().map(|(at, _)| *at).collect();
    let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis() / 100 * 100).collect();
    assert_eq!(gaps, [0, 200, 400, 800, 1600, 3200, 5000, 5000]);
}

#[tokio::test(start_paused = true)]
async fn where_watching_is_forbidden_the_bundle_is_written_regularly() {
    let run = start(ApiServer { refuse_watch: Some(403), ..ApiServer::default() });
    run.know(&TestCa::new().root_pem());
    assert_eq!(run.after(SOON).await.len(), 1);
    assert_eq!(run.after(Duration::from_secs(61)).await.len(), 3);
}
