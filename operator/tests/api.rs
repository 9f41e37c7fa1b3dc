//! The gRPC API over real mTLS, fed by hand: who may ask, what lists and streams say.
#![allow(clippy::unwrap_used, reason = "test helpers; a failure is the test's")]

use std::{sync::Arc, time::Duration};

use identity::{PeerRule, Svid, TrustAnchors, client, server::Incoming, tls};
use operator::{
    core::{api_kind::ApiKind, secrets::Observed, wire},
    grpc,
    hub::Hub,
    metrics::Metrics,
};
use proto::operator::v1::{self as pb, ResourceEventType, operator_client::OperatorClient};
use runtime::CancellationToken;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use testkit::ca::TestCa;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tonic::{Code, Streaming, transport::Channel};

const DEADLINE: Duration = Duration::from_secs(10);

struct Rig {
    hub: Arc<Hub>,
    ca: TestCa,
    address: String,
    stop: CancellationToken,
    _server: JoinSet<()>,
}

fn svid(ca: &TestCa, id: &str) -> watch::Receiver<Option<Arc<Svid>>> {
    let leaf = ca.leaf(id, |_| {});
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let svid = Svid::from_pem(leaf.chain_pem.as_bytes(), key).unwrap();
    watch::channel(Some(Arc::new(svid))).1
}

fn anchors(ca: &TestCa) -> watch::Receiver<Option<Arc<TrustAnchors>>> {
    watch::channel(Some(Arc::new(TrustAnchors::parse(ca.root_pem()).unwrap()))).1
}

impl Rig {
    async fn start() -> Self {
        let ca = TestCa::new();
        let own = svid(&ca, "spiffe://cluster.local/ns/dapr-system/dapr-operator");
        let tls = tls::server_mtls(own, anchors(&ca), PeerRule::AnySpiffeId);
        Self::serve(ca, Some(tls)).await
    }

    async fn serve(ca: TestCa, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let incoming = Incoming::bind("127.0.0.1:0".parse().unwrap(), tls).await.unwrap();
        let address = incoming.local_addr().unwrap().to_string();
        let hub = Hub::new(Metrics::default());
        let stop = CancellationToken::new();
        let mut server = JoinSet::new();
        let serving = grpc::serve(incoming, Arc::clone(&hub), None, stop.clone());
        server.spawn(async move { serving.await.unwrap() });
        Self { hub, ca, address, stop, _server: server }
    }

    async fn synced() -> Self {
        let rig = Self::start().await;
        for kind in ApiKind::ALL {
            rig.hub.reset(kind, Vec::new());
        }
        rig
    }

    fn channel(&self, id: &str) -> Channel {
        let tls = tls::client_mtls(svid(&self.ca, id), anchors(&self.ca), PeerRule::AnySpiffeId);
        client::channel(&self.address, Some(tls)).unwrap()
    }

    fn sidecar(&self, app: &str) -> OperatorClient<Channel> {
        OperatorClient::new(self.channel(&format!("spiffe://public/ns/fuse/{app}")))
    }

    fn component(&self, name: &str, version: u32, scopes: &[&str], secret: &str) {
        let json = serde_json::json!({
            "metadata": { "name": name, "namespace": "fuse", "resourceVersion": version.to_string() },
            "scopes": scopes,
            "spec": { "type": "state.redis", "version": "v1", "metadata": [
                { "name": "p", "secretKeyRef": { "name": secret, "key": "k" } }] },
        });
        let object = wire::read(ApiKind::Component, &json.to_string()).unwrap();
        self.hub.apply(ApiKind::Component, object);
    }

    fn secret(&self, name: &str, value: Option<&str>) {
        let key = wire::ObjectKey { namespace: identity::Namespace::parse("fuse").unwrap(), name: name.to_owned() };
        let observed = value
            .map_or(Observed::Missing, |value| Observed::Data([("k".to_owned(), value.as_bytes().to_vec())].into()));
        self.hub.observe_secret(&key, observed);
    }
}

fn fuse() -> pb::ListComponentsRequest {
    pb::ListComponentsRequest { namespace: "fuse".into() }
}

async fn names(sidecar: &mut OperatorClient<Channel>) -> Vec<String> {
    let reply = sidecar.list_components(fuse()).await.unwrap().into_inner();
    let name = |json: &bytes::Bytes| {
        let object: serde_json::Value = serde_json::from_slice(json).unwrap();
        object["metadata"]["name"].as_str().unwrap().to_owned()
    };
    reply.components.iter().map(name).collect()
}

async fn watch_components(sidecar: &mut OperatorClient<Channel>) -> Streaming<pb::ComponentUpdateEvent> {
    let request = pb::ComponentUpdateRequest { namespace: "fuse".into() };
    sidecar.component_update(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<pb::ComponentUpdateEvent>) -> (ResourceEventType, serde_json::Value) {
    let event = timeout(DEADLINE, stream.message()).await.expect("an event comes").unwrap().unwrap();
    (event.r#type(), serde_json::from_slice(&event.component).unwrap())
}

/// Waits until the server has registered `count` component streams.
async fn registered(rig: &Rig, count: usize) {
    testkit::wait_until("streams are registered", DEADLINE, || async {
        (rig.hub.streams(ApiKind::Component) == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_foreign_or_empty_namespace_is_denied_on_every_kind_of_call() {
    let rig = Rig::synced().await;
    let mut sidecar = rig.sidecar("app");
    for namespace in ["other", ""] {
        let request = pb::ListComponentsRequest { namespace: namespace.into() };
        let status = sidecar.list_components(request).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains("identity does not match requested namespace"), "{status}");
        let request = pb::ConfigurationUpdateRequest { namespace: namespace.into() };
        let status = sidecar.configuration_update(request).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains("identity does not match requested namespace"), "{status}");
    }
    let status = sidecar.list_subscriptions(()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_peer_without_identity_is_denied_and_plaintext_gets_no_reply() {
    let rig = Rig::synced().await;
    let plaintext = client::channel(&rig.address, None).unwrap();
    let status = OperatorClient::new(plaintext).list_components(fuse()).await.unwrap_err();
    assert_eq!(status.message(), "transport error", "the handshake fails");

    let open = Rig::serve(TestCa::new(), None).await;
    let anonymous = client::channel(&open.address, None).unwrap();
    let status = OperatorClient::new(anonymous).list_components(fuse()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "failed to determine identity"));
}

#[tokio::test]
async fn a_call_is_held_until_the_first_list_is_there() {
    let rig = Rig::start().await;
    let mut sidecar = rig.sidecar("app");
    let listing = async { names(&mut sidecar).await };
    let feeding = async {
        rig.component("a", 1, &[], "");
        tokio::task::yield_now().await;
        rig.hub.reset(ApiKind::Component, Vec::new());
    };
    let (listed, ()) = tokio::join!(timeout(DEADLINE, listing), feeding);
    assert_eq!(listed.expect("it ends"), Vec::<String>::new());
}

#[tokio::test]
async fn lists_and_streams_show_what_is_in_scope() {
    let rig = Rig::synced().await;
    let (mut one, mut two) = (rig.sidecar("one"), rig.sidecar("two"));
    rig.component("all", 1, &[], "");
    rig.component("mine", 1, &["one"], "");
    assert_eq!(names(&mut one).await, ["all", "mine"]);
    assert_eq!(names(&mut two).await, ["all"]);
    let (mut of_one, mut of_two) = (watch_components(&mut one).await, watch_components(&mut two).await);
    registered(&rig, 2).await;
    rig.component("mine", 2, &["two"], "");
    let (event, object) = next(&mut of_one).await;
    assert_eq!((event, object["scopes"][0].as_str()), (ResourceEventType::Deleted, Some("one")));
    let (event, object) = next(&mut of_two).await;
    assert_eq!((event, object["metadata"]["name"].as_str()), (ResourceEventType::Created, Some("mine")));
    assert_eq!(names(&mut two).await, ["all", "mine"]);
}

#[tokio::test]
async fn a_missing_secret_spares_the_rest_at_start_and_is_unavailable_to_a_running_sidecar() {
    let rig = Rig::synced().await;
    rig.component("broken", 1, &[], "gone");
    rig.component("sound", 1, &[], "");
    rig.secret("gone", None);
    let mut sidecar = rig.sidecar("app");
    assert_eq!(names(&mut sidecar).await, ["broken", "sound"]);
    let mut stream = watch_components(&mut sidecar).await;
    registered(&rig, 1).await;
    let status = sidecar.list_components(fuse()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    rig.secret("gone", Some("v"));
    let (event, object) = next(&mut stream).await;
    assert_eq!(event, ResourceEventType::Created);
    assert_eq!(object["spec"]["metadata"][0]["value"], "dg==");
    assert_eq!(names(&mut sidecar).await, ["broken", "sound"]);
    rig.secret("gone", None);
    assert_eq!(names(&mut sidecar).await, ["broken", "sound"], "the last value is served on");
}

#[tokio::test]
async fn a_slow_sidecar_loses_intermediate_states_and_never_the_last() {
    const CHANGES: u32 = 20_000;
    let rig = Rig::synced().await;
    let mut sidecar = rig.sidecar("app");
    let mut stream = watch_components(&mut sidecar).await;
    registered(&rig, 1).await;
    for version in 1..=CHANGES {
        rig.component("busy", version, &[], "");
    }
    let mut received = 0;
    loop {
        let (_, object) = next(&mut stream).await;
        received += 1;
        if object["metadata"]["resourceVersion"].as_str() == Some(&CHANGES.to_string()) {
            break;
        }
    }
    assert!(received < CHANGES, "nothing was merged");
}

#[tokio::test]
async fn a_stop_ends_streams_with_unavailable() {
    let rig = Rig::synced().await;
    let mut sidecar = rig.sidecar("app");
    let mut stream = watch_components(&mut sidecar).await;
    registered(&rig, 1).await;
    rig.stop.cancel();
    let status = timeout(DEADLINE, stream.message()).await.expect("it ends").unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    registered(&rig, 0).await;
}

#[tokio::test]
async fn what_may_be_repeated_opens_a_stream_and_the_rest_does_not() {
    let rig = Rig::synced().await;
    let resiliency = r#"{"metadata":{"name":"r","namespace":"fuse"},"spec":{}}"#;
    rig.hub.apply(ApiKind::Resiliency, wire::read(ApiKind::Resiliency, resiliency).unwrap());
    let configuration = r#"{"metadata":{"name":"theirs","namespace":"fuse"},"spec":{}}"#;
    rig.hub.apply(ApiKind::Configuration, wire::read(ApiKind::Configuration, configuration).unwrap());
    let mut sidecar = rig.sidecar("app");
    let request = pb::ResiliencyUpdateRequest { namespace: "fuse".into() };
    let mut stream = sidecar.resiliency_update(request).await.unwrap().into_inner();
    let event = timeout(DEADLINE, stream.message()).await.expect("it comes").unwrap().unwrap();
    assert_eq!(event.r#type(), ResourceEventType::Created);

    // The app's pods name no Configuration, so it hears of none, however often it changes.
    let request = pb::ConfigurationUpdateRequest { namespace: "fuse".into() };
    let mut foreign = sidecar.configuration_update(request).await.unwrap().into_inner();
    testkit::wait_until("the stream is registered", DEADLINE, || async {
        (rig.hub.streams(ApiKind::Configuration) == 1).then_some(())
    })
    .await;
    rig.hub.apply(ApiKind::Configuration, wire::read(ApiKind::Configuration, configuration).unwrap());
    rig.stop.cancel();
    let end = timeout(DEADLINE, foreign.message()).await.expect("it ends");
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}
