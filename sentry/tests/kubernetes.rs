//! A real sentry process against a fake API server; tests are named after the rows of contract
//! §19.
#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions of a test")]

mod support;

use std::{sync::atomic::Ordering, time::Duration};

use proto::sentry::v1::{
    SignCertificateRequest, SignCertificateResponse, ca_client::CaClient, sign_certificate_request::TokenValidator,
};
use serde_json::{Value, json};
use support::{
    Ca,
    api::{Api, NAMESPACE, configuration, pod, token},
    certificates,
    process::Sentry,
    request,
};
use tonic::{Code, Status, transport::Channel};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const SENTRY: &str = "spiffe://cluster.local/ns/dapr-system/dapr-sentry";
const UID_CHECK: &str = "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK";
const PATIENCE: Duration = Duration::from_secs(30);

fn connect(api: &Api, sentry: &Sentry) -> CaClient<Channel> {
    CaClient::new(sentry.channel(api.value("configmaps", "ca.crt").unwrap(), SENTRY))
}

async fn sign(client: &CaClient<Channel>, request: SignCertificateRequest) -> Result<SignCertificateResponse, Status> {
    client.clone().sign_certificate(request).await.map(tonic::Response::into_inner)
}

fn asked(app_id: &str, namespace: &str, token: impl Into<String>) -> SignCertificateRequest {
    SignCertificateRequest { token: token.into(), ..request(app_id, namespace) }
}

/// All names of the leaf.
fn names(answer: &SignCertificateResponse) -> Vec<String> {
    let chain = certificates(&answer.workload_certificate);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::URI(name) | GeneralName::DNSName(name) => (*name).to_owned(),
        other => panic!("{other:?}"),
    };
    san.value.general_names.iter().map(name).collect()
}

/// Pods of every kind.
fn populate(api: &Api) {
    api.pod("p", "app", "sa", &json!({"dapr.io/app-id": "my-app"}));
    api.pod("plain", "app", "sa", &json!({"dapr.io/enabled": "true"}));
    api.pod("bare", "app", "sa", &Value::Null);
    api.pod("empty", "app", "sa", &json!({"dapr.io/app-id": ""}));
    api.pod("configured", "app", "sa", &json!({"dapr.io/app-id": "c", "dapr.io/config": "with-domain"}));
    api.pod("default", "app", "sa", &json!({"dapr.io/app-id": "d", "dapr.io/config": "without-domain"}));
    api.pod("lost", "app", "sa", &json!({"dapr.io/app-id": "l", "dapr.io/config": "elsewhere"}));
    api.pod("broken", "app", "sa", &json!({"dapr.io/app-id": "b", "dapr.io/config": "bad-domain"}));
    api.pod("injector", NAMESPACE, "i", &json!({"dapr.io/control-plane": "injector", "dapr.io/config": "with-domain"}));
    api.pod("operator", NAMESPACE, "o", &json!({"dapr.io/control-plane": "operator"}));
    api.pod("both", NAMESPACE, "o", &json!({"dapr.io/control-plane": "operator", "dapr.io/app-id": "x"}));
    api.pod("unknown", NAMESPACE, "o", &json!({"dapr.io/control-plane": "root"}));
    api.pod("fake", "app", "sa", &json!({"dapr.io/control-plane": "operator"}));
    let domain = |domain: &str| json!({"accessControl": {"trustDomain": domain}});
    api.world.configurations.lock().extend([
        configuration("with-domain", "app", &domain("shop.example")),
        configuration("without-domain", "app", &json!({"accessControl": {}})),
        configuration("elsewhere", "other", &domain("other.example")),
        configuration("bad-domain", "app", &domain("Bad!")),
    ]);
}

#[tokio::test]
async fn a_new_cluster_gets_a_ca_in_secret_and_configmap() {
    let api = Api::start().await;
    let _sentry = api.sentry().ready().await;
    assert_eq!(api.value("secrets", "ca.crt"), api.value("configmaps", "ca.crt"));
    assert!(api.value("secrets", "issuer.key").unwrap().starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(*api.world.writes.lock(), ["secrets", "configmaps"]);
}

#[tokio::test]
async fn token_review_carries_exactly_the_two_audiences_in_order() {
    let api = Api::start().await;
    populate(&api);
    let sentry = api.sentry().ready().await;
    let client = connect(&api, &sentry);
    sign(&client, asked("my-app", "app", token("app", "sa", "p"))).await.unwrap();
    assert_eq!(*api.world.reviews.lock(), [("application/json".to_owned(), json!(["dapr.io/sentry", SENTRY]))]);
    assert_eq!(api.world.live_lookups.load(Ordering::Relaxed), 0, "the cache answers");
}

#[tokio::test]
async fn every_caller_gets_its_own_identity() {
    let api = Api::start().await;
    populate(&api);
    let sentry = api.sentry().ready().await;
    let client = connect(&api, &sentry);
    let rows: [(&str, &str, &str, &str, &[&str]); 8] = [
        ("my-app", "app", "sa", "p", &["spiffe://public/ns/app/my-app"]),
        ("plain", "app", "sa", "plain", &["spiffe://public/ns/app/plain"]),
        ("bare", "app", "sa", "bare", &["spiffe://public/ns/app/bare"]),
        ("c", "app", "sa", "configured", &["spiffe://shop.example/ns/app/c"]),
        ("d", "app", "sa", "default", &["spiffe://public/ns/app/d"]),
        (
            "dapr-injector",
            NAMESPACE,
            "i",
            "injector",
            &["dapr-sidecar-injector.dapr-system.svc", "spiffe://cluster.local/ns/dapr-system/dapr-injector"],
        ),
        (
            "dapr-operator",
            NAMESPACE,
            "o",
            "operator",
            &["dapr-webhook.dapr-system.svc", "spiffe://cluster.local/ns/dapr-system/dapr-operator"],
        ),
        ("my-app", "app", "sa", "p", &["spiffe://public/ns/app/my-app"]),
    ];
    for (app_id, namespace, account, pod, expected) in rows {
        let ask = SignCertificateRequest {
            // Ignored by this validator, whatever it says.
            trust_domain: "wanted.example".into(),
            ..asked(app_id, namespace, token(namespace, account, pod))
        };
        let answer = sign(&client, ask).await.unwrap_or_else(|status| panic!("{pod}: {status}"));
        assert_eq!(names(&answer), expected, "{pod}");
    }
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one table of attempts")]
async fn nobody_gets_an_identity_other_than_its_own() {
    let api = Api::start().await;
    populate(&api);
    let sentry = api.sentry().ready().await;
    let client = connect(&api, &sentry);
    let own = || token("app", "sa", "p");
    let rows: Vec<(&str, SignCertificateRequest, &str)> = vec![
        ("other app id", asked("other", "app", own()), "app-id mismatch. expected: my-app, received: other"),
        ("case", asked("My-App", "app", own()), "app-id mismatch"),
        ("unicode", asked("my\u{2010}app", "app", own()), "app-id mismatch"),
        ("trailing dot", asked("my-app.", "app", own()), "cannot contain dots"),
        ("path trick", asked("../x", "app", own()), "cannot contain dots"),
        ("slash", asked("my-app/x", "app", own()), "app-id mismatch"),
        ("pod name", asked("p", "app", own()), "app-id mismatch"),
        ("empty id", asked("", "app", own()), "cannot be empty"),
        ("legacy id", asked("app:sa", "app", own()), "app-id mismatch"),
        ("65 chars", asked(&"a".repeat(65), "app", own()), "app ID must be 64 characters or less"),
        ("control plane name", asked("dapr-operator", "app", own()), "app-id mismatch"),
        (
            "control plane namespace",
            asked("dapr-operator", NAMESPACE, own()),
            "namespace mismatch; received namespace: dapr-system",
        ),
        ("other namespace", asked("my-app", "other", own()), "namespace mismatch"),
        ("no such pod", asked("my-app", "app", token("app", "sa", "nobody")), "failed to get pod of identity"),
        ("pod path trick", asked("my-app", "app", token("app", "sa", "../pods/p")), "failed to get pod of identity"),
        (
            "another's service account",
            asked("my-app", "app", token("app", "other", "p")),
            "pod service account mismatch",
        ),
        (
            "service account of another namespace",
            asked("my-app", "app", token("other", "sa", "p")),
            "failed to get pod of identity",
        ),
        ("empty pod claim", asked("my-app", "app", token("app", "sa", "")), "kubernetes.io/pod/name claim is missing"),
        ("no token", asked("my-app", "app", ""), "token review failed: "),
        ("garbage token", asked("my-app", "app", "garbage"), "authentication failed"),
        ("faulty token", asked("my-app", "app", "faulty"), "invalid token: it is faulty"),
        (
            "a user's token",
            asked("my-app", "app", json!({"user": "admin"}).to_string()),
            "not a properly structured service account token",
        ),
        (
            "empty app-id annotation",
            asked("empty", "app", token("app", "sa", "empty")),
            "app-id mismatch. expected: , received: empty",
        ),
        ("missing configuration", asked("l", "app", token("app", "sa", "lost")), "failed to get configuration"),
        ("bad trust domain", asked("b", "app", token("app", "sa", "broken")), "failed to parse trust domain \"Bad!\""),
        (
            "control plane elsewhere",
            asked("dapr-operator", "app", token("app", "sa", "fake")),
            "control plane service in namespace 'app' is not allowed",
        ),
        (
            "unknown service",
            asked("dapr-root", NAMESPACE, token(NAMESPACE, "o", "unknown")),
            "unknown control plane service 'unknown'",
        ),
        (
            "both annotations",
            asked("dapr-operator", NAMESPACE, token(NAMESPACE, "o", "both")),
            "cannot have annotation 'dapr.io/app-id'",
        ),
        (
            "the injector as operator",
            asked("dapr-operator", NAMESPACE, token(NAMESPACE, "i", "injector")),
            "app-id mismatch",
        ),
        (
            "bad requested domain",
            SignCertificateRequest { trust_domain: "A".into(), ..asked("my-app", "app", own()) },
            "trust domain characters",
        ),
    ];
    for (what, ask, text) in rows {
        let status = sign(&client, ask).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
        assert!(status.message().contains(text), "{what}: {status}");
    }
    for validator in [TokenValidator::Jwks, TokenValidator::Insecure] {
        let ask = SignCertificateRequest { token_validator: validator.into(), ..asked("my-app", "app", own()) };
        let status = sign(&client, ask).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("not enabled"), "{status}");
    }
}

#[tokio::test]
async fn a_pod_newer_than_the_cache_is_looked_up_live_once() {
    let api = Api::start().await;
    populate(&api);
    let sentry = api.sentry().ready().await;
    let client = connect(&api, &sentry);
    api.world.unlisted.lock().push(pod("new", "app", "sa", &json!({"dapr.io/app-id": "new-app"})));
    sign(&client, asked("new-app", "app", token("app", "sa", "new"))).await.unwrap();
    assert_eq!(api.world.live_lookups.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn transient_trouble_is_held_inside_the_call_and_never_a_verdict() {
    let api = Api::start().await;
    populate(&api);
    let sentry = api.sentry().ready().await;
    let client = connect(&api, &sentry);
    api.world.broken.store(true, Ordering::Relaxed);
    let ask = || asked("my-app", "app", token("app", "sa", "p"));
    let started = std::time::Instant::now();
    let status = sign(&client, ask()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let held = started.elapsed();
    assert!((1900..3000).contains(&held.as_millis()), "{held:?}");
    // Mended while a call is held: it succeeds.
    let reviews = api.world.reviews.lock().len();
    let mending = async {
        let more = || async { (api.world.reviews.lock().len() > reviews).then_some(()) };
        testkit::wait_until("an attempt failed", PATIENCE, more).await;
        api.world.broken.store(false, Ordering::Relaxed);
    };
    let (answer, ()) = tokio::join!(sign(&client, ask()), mending);
    answer.unwrap();
}

#[tokio::test]
async fn a_call_under_way_at_sigterm_is_answered_and_an_idle_connection_delays_nothing() {
    let api = Api::start().await;
    populate(&api);
    let mut sentry = api.sentry().ready().await;
    let (idle, busy) = (connect(&api, &sentry), connect(&api, &sentry));
    let ask = || asked("my-app", "app", token("app", "sa", "p"));
    sign(&idle, ask()).await.unwrap();
    api.world.broken.store(true, Ordering::Relaxed);
    let reviews = api.world.reviews.lock().len();
    let ending = async {
        let more = || async { (api.world.reviews.lock().len() > reviews).then_some(()) };
        testkit::wait_until("an attempt failed", PATIENCE, more).await;
        sentry.tell_to_end();
        let told = || async { sentry.log().contains("received signal").then_some(()) };
        testkit::wait_until("it was told to end", PATIENCE, told).await;
        api.world.broken.store(false, Ordering::Relaxed);
    };
    let (answer, ()) = tokio::join!(sign(&busy, ask()), ending);
    answer.unwrap();
    assert!(sentry.end().await.success());
    assert!(!sentry.log().contains("ending although"), "{}", sentry.log());
}

#[tokio::test]
async fn a_spoiled_configmap_is_repaired_and_the_ca_stays() {
    let api = Api::start().await;
    let sentry = api.sentry().ready().await;
    let ca = api.value("secrets", "ca.crt");
    drop(sentry);
    for change in [json!({"ca.crt": "spoiled"}), json!({}), Value::Null] {
        api.edit("configmaps", |object| object["data"] = change);
        let sentry = api.sentry().ready().await;
        assert_eq!(api.value("configmaps", "ca.crt"), ca);
        drop(sentry);
    }
    assert_eq!(api.value("secrets", "ca.crt"), ca);
}

#[tokio::test]
async fn an_emptied_secret_is_written_back_by_a_running_replica() {
    let api = Api::start().await;
    let _sentry = api.sentry().ready().await;
    let ca = api.value("secrets", "ca.crt");
    api.edit("secrets", |object| object["data"] = json!({"other": "a2VwdA=="}));
    let back = || async { (api.value("secrets", "ca.crt") == ca).then_some(()) };
    testkit::wait_until("the bundle is back", PATIENCE, back).await;
    assert_eq!(api.value("secrets", "other").unwrap(), b"kept");
}

#[tokio::test]
async fn a_partial_secret_keeps_a_running_replica_signing_and_is_reported() {
    let api = Api::start().await;
    populate(&api);
    let sentry = api.sentry().ready().await;
    let client = connect(&api, &sentry);
    api.edit("secrets", |object| {
        object["data"].as_object_mut().unwrap().remove("issuer.crt");
    });
    let reported = || async { api.world.events.lock().first().cloned() };
    let event = testkit::wait_until("an Event tells", PATIENCE, reported).await;
    assert_eq!((&event["reason"], &event["type"]), (&json!("TrustBundleUnusable"), &json!("Warning")));
    assert!(event["message"].as_str().unwrap().contains("issuer.crt missing or empty"), "{event}");
    assert_eq!(sentry.metric("dapr_sentry_bundle_problem").await, Some(1.0));
    assert!(api.value("secrets", "issuer.crt").is_none(), "nothing was written over it");
    sign(&client, asked("my-app", "app", token("app", "sa", "p"))).await.unwrap();
}

#[tokio::test]
async fn an_annotated_reset_makes_a_new_ca_once() {
    let api = Api::start().await;
    let _sentry = api.sentry().ready().await;
    let ca = api.value("secrets", "ca.crt");
    api.edit("secrets", |object| {
        object["data"] = Value::Null;
        object["metadata"]["annotations"] = json!({"dapr.io/ca-reset": "true"});
    });
    let changed = || async {
        let found = api.value("secrets", "ca.crt");
        (found.is_some() && found != ca && api.value("configmaps", "ca.crt") == found).then_some(())
    };
    testkit::wait_until("there is a new CA", PATIENCE, changed).await;
    assert!(api.world.bundle.lock()["secrets"]["metadata"]["annotations"]["dapr.io/ca-reset"].is_null());
}

#[tokio::test]
async fn a_partial_secret_ends_the_start_and_is_left_alone() {
    let api = Api::start().await;
    let sentry = api.sentry().ready().await;
    drop(sentry);
    api.edit("secrets", |object| {
        object["data"].as_object_mut().unwrap().remove("issuer.key");
    });
    let before = api.world.bundle.lock()["secrets"].clone();
    let (status, log) = api.sentry().ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("issuer.key missing or empty"), "{log}");
    assert_eq!(api.world.bundle.lock()["secrets"], before);
}

#[tokio::test]
async fn a_bundle_written_to_the_secret_alone_is_taken_up_and_published() {
    use base64::Engine as _;
    let api = Api::start().await;
    populate(&api);
    let sentry = api.sentry().ready().await;
    let client = connect(&api, &sentry);
    sign(&client, asked("my-app", "app", token("app", "sa", "p"))).await.unwrap();
    let stored = Ca::new(&rcgen::PKCS_ECDSA_P256_SHA256).stored();
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    api.edit("secrets", |object| {
        object["data"] = json!({
            "ca.crt": encode(&stored.anchors), "issuer.crt": encode(&stored.chain), "issuer.key": encode(&stored.key),
        });
    });
    let published = || async { (api.value("configmaps", "ca.crt").unwrap() == stored.anchors).then_some(()) };
    testkit::wait_until("the copy follows", PATIENCE, published).await;
    let signed = || async {
        let answer = sign(&client, asked("my-app", "app", token("app", "sa", "p"))).await.unwrap();
        (answer.trust_chain_certificates == std::slice::from_ref(&stored.anchors)).then_some(())
    };
    testkit::wait_until("the new issuer signs on the same connection", PATIENCE, signed).await;
}

#[tokio::test]
async fn two_replicas_starting_at_once_end_on_one_bundle() {
    let api = Api::start().await;
    populate(&api);
    let (one, two) = tokio::join!(api.sentry().ready(), api.sentry().ready());
    let ca = api.value("secrets", "ca.crt").unwrap();
    for sentry in [&one, &two] {
        let answer = sign(&connect(&api, sentry), asked("my-app", "app", token("app", "sa", "p"))).await.unwrap();
        assert_eq!(answer.trust_chain_certificates, std::slice::from_ref(&ca));
    }
    let writes = api.world.writes.lock().iter().filter(|kind| *kind == "secrets").count();
    assert_eq!(writes, 1, "only one of them stored a bundle");
}

#[tokio::test]
async fn missing_objects_end_the_start_naming_them() {
    for (kind, text) in
        [("secrets", "trust bundle secret dapr-trust-bundle"), ("configmaps", "configmap dapr-trust-bundle")]
    {
        let api = Api::start().await;
        api.world.bundle.lock().remove(kind);
        let (status, log) = api.sentry().ended().await;
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(text), "{log}");
    }
    let api = Api::start().await;
    api.world.configurations.lock().clear();
    let (status, log) = api.sentry().ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("config CRD not found"), "{log}");
}

/// Helm applies the Configuration after the Deployment.
#[tokio::test]
async fn a_configuration_that_comes_after_sentry_is_waited_for() {
    let api = Api::start().await;
    let later = std::mem::take(&mut *api.world.configurations.lock());
    let sentry = api.sentry().spawn();
    let waits = || async { sentry.log().contains("waiting for it").then_some(()) };
    testkit::wait_until("sentry asked and was told that there is none", PATIENCE, waits).await;
    *api.world.configurations.lock() = later;
    let serves = || async { sentry.log().contains("Sentry server is listening").then_some(()) };
    testkit::wait_until("sentry serves", PATIENCE, serves).await;
}

#[tokio::test]
async fn in_kubernetes_mode_sentry_starts_as_root_only_with_the_uid_check_override() {
    let api = Api::start().await;
    drop(api.sentry().ready().await);
    for value in [None, Some("TRUE"), Some("1")] {
        let mut start = api.sentry();
        start.environment.retain(|(name, _)| *name != UID_CHECK);
        start.environment.extend(value.map(|value| (UID_CHECK, value.to_owned())));
        let id = std::process::Command::new("id").arg("-u").output().unwrap().stdout;
        if id.trim_ascii() == b"0" {
            let (status, log) = start.ended().await;
            assert_eq!(status.code(), Some(1), "{log}");
            assert!(log.contains("effective user id is 0"), "{log}");
        } else {
            drop(start.ready().await);
        }
    }
}

#[tokio::test]
async fn an_app_id_of_64_with_a_namespace_and_service_account_of_253_is_accepted() {
    let api = Api::start().await;
    let (app_id, namespace, account) = ("a".repeat(64), "n".repeat(253), "s".repeat(253));
    api.pod("p", &namespace, &account, &json!({"dapr.io/app-id": app_id}));
    let sentry = api.sentry().ready().await;
    let client = connect(&api, &sentry);
    let answer = sign(&client, asked(&app_id, &namespace, token(&namespace, &account, "p"))).await.unwrap();
    assert_eq!(names(&answer), [format!("spiffe://public/ns/{namespace}/{app_id}")]);
}

#[tokio::test]
async fn each_control_plane_service_gets_the_control_plane_trust_domain_even_with_a_config() {
    let api = Api::start().await;
    let services = ["operator", "placement", "injector", "sentry", "scheduler"];
    let configured = json!({"accessControl": {"trustDomain": "shop.example"}});
    api.world.configurations.lock().push(configuration("mine", NAMESPACE, &configured));
    for service in services {
        let annotations = json!({"dapr.io/control-plane": service, "dapr.io/config": "mine"});
        api.pod(service, NAMESPACE, "sa", &annotations);
    }
    let sentry = api.sentry().ready().await;
    let client = connect(&api, &sentry);
    for service in services {
        let app_id = format!("dapr-{service}");
        let answer = sign(&client, asked(&app_id, NAMESPACE, token(NAMESPACE, "sa", service))).await.unwrap();
        let uri = format!("spiffe://cluster.local/ns/{NAMESPACE}/{app_id}");
        assert!(names(&answer).contains(&uri), "{service}");
        let status = sign(&client, asked("my-app", NAMESPACE, token(NAMESPACE, "sa", service))).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{service} has no other name: {status}");
    }
}
