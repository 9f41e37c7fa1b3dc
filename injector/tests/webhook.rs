//! The webhook as the API server, and anyone else who reaches the port, meets it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use identity::AnchorsRx;
use injector::args::Config;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{ApiServer, anchors, ask, chart_env, config, failure, not_found, routes, take_patch, webhook};
use testkit::ca::TestCa;

fn no_objects() -> ApiServer {
    Arc::new(|_, _| not_found())
}

fn settings() -> (Config, AnchorsRx) {
    (config(&chart_env(), &[]).unwrap(), anchors(&TestCa::new().root_pem()))
}

fn review(annotations: &Value, user: &str) -> String {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "kind": {"kind": "Pod"}, "namespace": "shop", "userInfo": {"username": user},
            "object": {"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "app"}]}},
        },
    })
    .to_string()
}

const CONTROLLER: &str = "system:serviceaccount:kube-system:replicaset-controller";

async fn answer_from(server: ApiServer, body: String) -> Value {
    let (config, anchors) = settings();
    let (status, content_type, body) =
        ask(&routes(&config, anchors, server), "/mutate", "application/json", body).await;
    assert_eq!((status, content_type.as_str()), (200, "application/json"));
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn an_unlisted_requester_is_told_why_there_is_no_sidecar() {
    let enabled = json!({"dapr.io/enabled": "true", "dapr.io/app-id": "a"});
    let answer = answer_from(no_objects(), review(&enabled, "jane")).await;
    let response = &answer["response"];
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(warning.contains("jane") && warning.contains("ALLOWED_SERVICE_ACCOUNTS"), "{warning}");
    let answer = answer_from(no_objects(), review(&json!({}), "jane")).await;
    assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
}

#[tokio::test]
async fn a_truthy_value_that_is_not_true_gets_a_warning() {
    let answer = answer_from(no_objects(), review(&json!({"dapr.io/enabled": "yes"}), CONTROLLER)).await;
    assert!(answer["response"]["warnings"][0].as_str().unwrap().contains("only \"true\" enables injection"));
}

#[tokio::test]
async fn no_trust_anchors_means_no_sidecar_and_no_pod() {
    let (config, _) = settings();
    let (_tx, none) = tokio::sync::watch::channel(None);
    let enabled = json!({"dapr.io/enabled": "true", "dapr.io/app-id": "a"});
    let router = routes(&config, none, no_objects());
    let (_, _, body) = ask(&router, "/mutate", "application/json", review(&enabled, CONTROLLER)).await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["response"]["allowed"], false);
}

#[tokio::test]
async fn an_unreadable_system_configuration_means_mtls() {
    for server in [
        failure(500, "InternalError"),
        failure(403, "Forbidden"),
        (200, json!({"spec": {"mtls": {}}})),
        (200, json!("?")),
    ] {
        let server: ApiServer = Arc::new(move |_, _| server.clone());
        let enabled = json!({"dapr.io/enabled": "true", "dapr.io/app-id": "a"});
        let mut answer = answer_from(server, review(&enabled, CONTROLLER)).await;
        let patch = take_patch(&mut answer).unwrap();
        assert!(patch.to_string().contains("--enable-mtls"), "{patch}");
    }
}

#[tokio::test]
async fn components_that_cannot_be_listed_deny_the_pod_that_needs_them() {
    let server: ApiServer =
        Arc::new(|_, path| if path.contains("components") { failure(500, "boom") } else { not_found() });
    let wants =
        json!({"dapr.io/enabled": "true", "dapr.io/app-id": "a", "dapr.io/inject-pluggable-components": "true"});
    let answer = answer_from(server.clone(), review(&wants, CONTROLLER)).await;
    let message = answer["response"]["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("error when fetching components: "), "{message}");
    let does_not = json!({"dapr.io/enabled": "true", "dapr.io/app-id": "a"});
    assert_eq!(answer_from(server, review(&does_not, CONTROLLER)).await["response"]["allowed"], true);
}

#[tokio::test(start_paused = true)]
async fn many_pods_ask_for_the_system_configuration_once_per_second() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server: ApiServer = Arc::new(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        not_found()
    });
    let (config, anchors) = settings();
    let (webhook, _) = webhook(&config, anchors, server);
    let enabled = review(&json!({"dapr.io/enabled": "true", "dapr.io/app-id": "a"}), CONTROLLER);
    for _ in 0..20 {
        webhook.answer(enabled.as_bytes()).await;
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_millis(1001)).await;
    webhook.answer(enabled.as_bytes()).await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_oversized_body_is_refused() {
    let (config, anchors) = settings();
    let router = routes(&config, anchors, no_objects());
    let body = Body::from(vec![b' '; 8 * 1024 * 1024 + 1]);
    let (status, ..) = ask(&router, "/mutate", "application/json", body).await;
    assert_eq!(status, 413);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let start = tokio::time::Instant::now();
    let (config, anchors) = settings();
    let router = routes(&config, anchors, no_objects());
    let body = Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let (status, ..) = ask(&router, "/mutate", "application/json", body).await;
    assert_eq!((status, start.elapsed()), (408, Duration::from_secs(10)));
}

#[tokio::test]
async fn a_broken_body_counts_as_none() {
    let (config, anchors) = settings();
    let router = routes(&config, anchors, no_objects());
    let broken = futures::stream::iter([Ok("{"), Err(std::io::Error::other("gone"))]);
    let (status, _, text) = ask(&router, "/mutate", "application/json", Body::from_stream(broken)).await;
    assert_eq!((status, text.as_slice()), (400, b"empty body\n".as_slice()));
}

#[tokio::test]
async fn a_review_that_asks_nothing_is_denied() {
    let answer =
        answer_from(no_objects(), json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).to_string())
            .await;
    assert_eq!(answer["response"]["allowed"], false);
    assert_eq!(answer["kind"], "AdmissionReview");
}

#[tokio::test]
async fn deeply_nested_bodies_do_not_overflow_the_stack() {
    let nested = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let object =
        json!({"request": {"uid": "u", "kind": {"kind": "Pod"}, "userInfo": {"username": CONTROLLER}}}).to_string();
    let inside = object.replace("\"kind\":{\"kind\"", &format!("\"object\":{nested},\"kind\":{{\"kind\""));
    for body in [nested, inside] {
        assert_eq!(answer_from(no_objects(), body).await["response"]["allowed"], false);
    }
}

#[tokio::test]
async fn each_outcome_is_counted() {
    let (config, anchors) = settings();
    let (webhook, registry) = webhook(&config, anchors, no_objects());
    let enabled = |id: &str| json!({"dapr.io/enabled": "true", "dapr.io/app-id": id});
    let router = injector::webhook::router(webhook);
    for body in [
        review(&enabled("web"), CONTROLLER),
        review(&enabled("web"), "jane"),
        review(&enabled("B_AD"), CONTROLLER),
        review(&json!({}), "jane"),
        "nonsense".to_owned(),
        String::new(),
    ] {
        ask(&router, "/mutate", "application/json", body).await;
    }
    let text = runtime::metrics::exposition(&registry).unwrap();
    for line in [
        "dapr_injector_sidecar_injection_requests_total 6",
        "dapr_sidecar_injection_requests_total 6",
        "dapr_injector_sidecar_injection_succeeded_total{app_id=\"web\"} 1",
        "dapr_injector_sidecar_injection_failed_total{app_id=\"web\",reason=\"pod_patch\"} 1",
        "dapr_injector_sidecar_injection_failed_total{app_id=\"B_AD\",reason=\"patch\"} 1",
        "dapr_injector_sidecar_injection_failed_total{app_id=\"\",reason=\"patch\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let failures = text.lines().filter(|line| line.starts_with("dapr_injector_sidecar_injection_failed_total"));
    assert_eq!(failures.count(), 3, "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(body in proptest::collection::vec(any::<u8>(), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            let (config, anchors) = settings();
            let (webhook, _) = webhook(&config, anchors, no_objects());
            webhook.answer(&body).await.to_json()
        });
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        prop_assert_eq!(&answer["response"]["allowed"], &json!(false));
    }
}
