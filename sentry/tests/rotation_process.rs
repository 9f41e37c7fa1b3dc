//! A whole change of the root in real sentry processes against a fake API server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions of a test")]

mod support;

use std::{sync::atomic::Ordering, time::Duration};

use proto::sentry::v1::ca_client::CaClient;
use serde_json::{Value, json};
use support::{
    api::{Api, configuration, pod, token},
    certificates,
    process::{Sentry, Start},
    request,
};

const SENTRY: &str = "spiffe://cluster.local/ns/dapr-system/dapr-sentry";
/// Longer than the slowest step: lists of pods are up to 15 s apart against this API server.
const PATIENCE: Duration = Duration::from_secs(90);

fn start(api: &Api) -> Start {
    api.sentry().flag("--root-rotation-settle=1s")
}

/// The number of certificates with which a caller that trusts `anchors` gets its own signed.
async fn signed_with(sentry: &Sentry, anchors: &[u8]) -> usize {
    let channel = sentry.channel(anchors.to_vec(), SENTRY);
    let asked =
        proto::sentry::v1::SignCertificateRequest { token: token("app", "sa", "p"), ..request("my-app", "app") };
    let answer = CaClient::new(channel).sign_certificate(asked).await.unwrap().into_inner();
    let chain = certificates(&answer.workload_certificate).into_iter().map(Into::into).collect::<Vec<_>>();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let trust = identity::TrustAnchors::parse(anchors.to_vec()).unwrap();
    trust.verify(&chain, rustls_pki_types::UnixTime::since_unix_epoch(since)).unwrap();
    chain.len()
}

fn anchors(api: &Api) -> Vec<u8> {
    api.value("configmaps", "ca.crt").unwrap_or_default()
}

fn with_anchors(name: &str, anchors: &[u8]) -> Value {
    let mut pod = pod(name, "app", "sa", &json!({"dapr.io/app-id": "my-app"}));
    let text = String::from_utf8(anchors.to_vec()).unwrap();
    pod["spec"]["containers"] =
        json!([{"name": "c"}, {"name": "daprd", "env": [{"name": "DAPR_TRUST_ANCHORS", "value": text}]}]);
    pod["status"] = json!({"phase": "Running"});
    pod
}

async fn until(what: &str, done: impl Fn() -> bool) {
    testkit::wait_until(what, PATIENCE, || async { done().then_some(()) }).await;
}

fn reasons(api: &Api) -> Vec<String> {
    api.world.events.lock().iter().map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_root_is_changed_on_command_with_two_replicas_and_a_restart_and_no_failed_call() {
    let api = Api::start().await;
    let short = json!({"mtls": {"workloadCertTTL": "5s", "allowedClockSkew": "1s"}});
    *api.world.configurations.lock() = vec![configuration("daprsystem", support::api::NAMESPACE, &short)];
    let (one, two) = tokio::join!(start(&api).ready(), start(&api).ready());
    let old = anchors(&api);
    let mut ended = with_anchors("job", &old);
    ended["status"]["phase"] = json!("Succeeded");
    *api.world.pods.lock() = vec![with_anchors("p", &old), ended];
    assert_eq!(signed_with(&one, &old).await, 2);
    let counted = || async { one.metric("dapr_sentry_root_rotation_old_anchor_pods").await.filter(|n| *n < 0.5) };
    testkit::wait_until("the metric is there", PATIENCE, counted).await;

    api.edit("secrets", |secret| secret["metadata"]["annotations"] = json!({"dapr.io/ca-rotation": "start"}));
    until("both anchors are published", || certificates(&anchors(&api)).len() == 2).await;
    let both = anchors(&api);
    until("the new issuer is stored", || certificates(&api.value("secrets", "issuer.crt").unwrap()).len() == 3).await;
    // A replica that is killed between a write and its Event cannot tell.
    until("it is told", || reasons(&api).iter().any(|reason| reason == "RootRotationSigning")).await;
    // A restart finds the phase where it is.
    drop(one);
    let one = start(&api).ready().await;
    for sentry in [&one, &two] {
        let signed = || async { (signed_with(sentry, &old).await == 4).then_some(()) };
        testkit::wait_until("the new issuer signs for who holds the old anchor", PATIENCE, signed).await;
        assert_eq!(signed_with(sentry, &both).await, 4);
        let counted = || async {
            let left = sentry.metric("dapr_sentry_root_rotation_old_anchor_pods").await;
            (left == Some(1.0)).then_some(())
        };
        testkit::wait_until("the pod is counted, the ended one is not", PATIENCE, counted).await;
    }
    assert_eq!(anchors(&api), both, "while a pod holds only the old anchor it stays");

    *api.world.pods.lock() = vec![with_anchors("p", &both)];
    until("the old root is retired", || certificates(&anchors(&api)).len() == 1).await;
    let new = anchors(&api);
    assert_ne!(new, old);
    for sentry in [&one, &two] {
        let signed = || async { (signed_with(sentry, &both).await == 2).then_some(()) };
        testkit::wait_until("the chain is short again", PATIENCE, signed).await;
        assert_eq!(signed_with(sentry, &new).await, 2);
    }
    let secret = api.world.bundle.lock()["secrets"].clone();
    for key in ["root-rotation.json", "next-issuer.crt", "next-issuer.key"] {
        assert!(secret["data"][key].is_null(), "{key}");
    }
    assert!(secret["metadata"]["annotations"]["dapr.io/ca-rotation"].is_null());
    let told: Vec<String> = reasons(&api).into_iter().filter(|reason| reason.starts_with("Root")).collect();
    assert_eq!(told, ["RootRotationAnnounced", "RootRotationSigning", "RootRotationDone"], "each once, whoever did it");
}

/// A pod of the scheduler that began at this time.
fn scheduler(started: time::OffsetDateTime) -> Value {
    let format = time::format_description::well_known::Rfc3339;
    let mut pod = pod("dapr-scheduler-server-0", "dapr-system", "s", &json!({"dapr.io/control-plane": "scheduler"}));
    let started = json!({"startedAt": started.format(&format).unwrap()});
    pod["status"] = json!({"phase": "Running", "containerStatuses": [{"state": {"running": started}}]});
    pod
}

#[tokio::test]
async fn the_old_root_waits_for_the_scheduler_to_start_after_the_new_issuer_signs() {
    let api = Api::start().await;
    let short = json!({"mtls": {"workloadCertTTL": "1s", "allowedClockSkew": "1s"}});
    *api.world.configurations.lock() = vec![configuration("daprsystem", support::api::NAMESPACE, &short)];
    *api.world.pods.lock() = vec![scheduler(time::OffsetDateTime::now_utc())];
    let sentry = start(&api).ready().await;
    api.edit("secrets", |secret| secret["metadata"]["annotations"] = json!({"dapr.io/ca-rotation": "start"}));
    until("the new issuer signs", || reasons(&api).iter().any(|reason| reason == "RootRotationSigning")).await;
    let told = api.world.events.lock().iter().map(|event| event["message"].to_string()).collect::<Vec<_>>();
    let names_it = |text: &String| text.contains("restart 1 pods") && text.contains("/dapr-scheduler-server-0");
    assert!(told.iter().any(names_it), "{told:?}");
    let state = api.value("secrets", "root-rotation.json").unwrap();
    let leaves_until = serde_json::from_slice::<Value>(&state).unwrap()["leaves_until"].as_i64().unwrap();
    // A look after the time of the old leaves: nothing but the scheduler keeps the old root.
    let looked = || async {
        let count = sentry.metric("dapr_sentry_root_rotation_old_anchor_pods").await;
        (time::OffsetDateTime::now_utc().unix_timestamp() > leaves_until + 3 && count == Some(1.0)).then_some(())
    };
    testkit::wait_until("the scheduler is counted after the old leaves are gone", PATIENCE, looked).await;
    assert_eq!(certificates(&anchors(&api)).len(), 2);
    *api.world.pods.lock() = vec![scheduler(time::OffsetDateTime::now_utc())];
    until("the old root is retired", || certificates(&anchors(&api)).len() == 1).await;
    assert!(reasons(&api).iter().any(|reason| reason == "RootRotationDone"));
}

#[tokio::test]
async fn a_secret_emptied_during_a_rotation_comes_back_with_the_rotation() {
    let api = Api::start().await;
    let sentry = api.sentry().flag("--root-rotation-settle=1h").ready().await;
    api.edit("secrets", |secret| secret["metadata"]["annotations"] = json!({"dapr.io/ca-rotation": "start"}));
    until("both anchors are published", || certificates(&anchors(&api)).len() == 2).await;
    let before = api.world.bundle.lock()["secrets"]["data"].clone();
    // The look that reads a phase for the metric is the one that remembers it.
    let in_phase = || async {
        let (_, _, text) = support::process::get(sentry.metrics, "/", &[]).await.unwrap();
        text.contains("\ndapr_sentry_root_rotation_phase{phase=\"announce\"} 1\n").then_some(())
    };
    testkit::wait_until("the phase was read", PATIENCE, in_phase).await;
    api.edit("secrets", |secret| secret["data"] = Value::Null);
    until("the bundle is back", || api.value("secrets", "issuer.key").is_some()).await;
    let after = api.world.bundle.lock()["secrets"]["data"].clone();
    for key in ["ca.crt", "issuer.crt", "issuer.key", "root-rotation.json", "next-issuer.crt", "next-issuer.key"] {
        assert!(before[key].is_string(), "{key}");
        assert_eq!(after[key], before[key], "{key}");
    }
}

#[tokio::test]
async fn where_pods_cannot_be_listed_callers_are_served_and_nobody_is_counted() {
    let api = Api::start().await;
    api.world.forbidden.store(true, Ordering::Relaxed);
    let sentry = start(&api).ready().await;
    let old = anchors(&api);
    *api.world.pods.lock() = vec![with_anchors("p", &old)];
    assert_eq!(signed_with(&sentry, &old).await, 2);
    assert_eq!(api.world.live_lookups.load(Ordering::Relaxed), 1, "found without a cache");
    api.edit("secrets", |secret| secret["metadata"]["annotations"] = json!({"dapr.io/ca-rotation": "start"}));
    let uncounted = || async {
        let count = sentry.metric("dapr_sentry_root_rotation_old_anchor_pods").await;
        (count == Some(-1.0)).then_some(())
    };
    testkit::wait_until("it is told that nobody is counted", PATIENCE, uncounted).await;
    let signed = || async { (signed_with(&sentry, &old).await == 4).then_some(()) };
    testkit::wait_until("the new issuer signs", PATIENCE, signed).await;
    assert_eq!(certificates(&anchors(&api)).len(), 2);
}

const STANDALONE: &str = "spiffe://localhost/ns/default/dapr-sentry";

fn standalone() -> Start {
    Start::standalone().flag("--root-rotation-settle=1s")
}

/// The number of certificates that a caller gets who trusts `anchors` and is in no cluster.
async fn signed_standalone(sentry: &Sentry, anchors: &[u8]) -> usize {
    let channel = sentry.channel(anchors.to_vec(), STANDALONE);
    let answer = CaClient::new(channel).sign_certificate(request("app", "ns")).await.unwrap().into_inner();
    let chain = certificates(&answer.workload_certificate).into_iter().map(Into::into).collect::<Vec<_>>();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let trust = identity::TrustAnchors::parse(anchors.to_vec()).unwrap();
    trust.verify(&chain, rustls_pki_types::UnixTime::since_unix_epoch(since)).unwrap();
    chain.len()
}

/// Another process on the files that a crash leaves, whatever the first was doing.
async fn restarted(mut sentry: Sentry) -> Sentry {
    sentry.kill();
    let again = standalone();
    copy(&sentry.dir.path().join("creds"), &again.dir.path().join("creds"));
    again.ready().await
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn in_standalone_mode_a_file_commands_a_new_root_and_a_restart_goes_on() {
    let sentry = standalone().ready().await;
    let creds = sentry.dir.path().join("creds");
    let old = sentry.creds("ca.crt");
    std::fs::write(creds.join("ca-rotation"), "start\n").unwrap();
    until("both anchors are published", || certificates(&sentry.creds("ca.crt")).len() == 2).await;
    let both = sentry.creds("ca.crt");
    assert!(both.ends_with(&old), "the old anchor stays");
    let sentry = restarted(sentry).await;
    let creds = sentry.dir.path().join("creds");
    let signed = || async { (signed_standalone(&sentry, &old).await == 4).then_some(()) };
    testkit::wait_until("the new issuer signs", PATIENCE, signed).await;
    assert_eq!(signed_standalone(&sentry, &both).await, 4);
    assert!(!creds.join("ca-rotation").exists() && !creds.join("next-issuer.key").exists());
    // Nobody can be counted, so the old root stays until it is told to go.
    assert_eq!(sentry.metric("dapr_sentry_root_rotation_old_anchor_pods").await, Some(-1.0));
    let sentry = restarted(sentry).await;
    assert_eq!(signed_standalone(&sentry, &old).await, 4);
    let creds = sentry.dir.path().join("creds");
    std::fs::write(creds.join("ca-rotation"), "retire").unwrap();
    until("the old root is gone", || !creds.join("root-rotation.json").exists()).await;
    let new = sentry.creds("ca.crt");
    assert!(certificates(&new).len() == 1 && both.starts_with(&new));
    let signed = || async { (signed_standalone(&sentry, &new).await == 2).then_some(()) };
    testkit::wait_until("the chain ends at the new root", PATIENCE, signed).await;
    let names = std::fs::read_dir(&creds).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["ca.crt", "issuer.crt", "issuer.key"]);
}

#[tokio::test]
async fn a_start_finishes_a_step_of_the_rotation_that_a_crash_left_half_copied() {
    // It stays in the step that is copied.
    let sentry = Start::standalone().flag("--root-rotation-settle=1h").ready().await;
    let old = sentry.creds("ca.crt");
    std::fs::write(sentry.dir.path().join("creds/ca-rotation"), "start").unwrap();
    let state = sentry.dir.path().join("creds/root-rotation.json");
    until("the new root is announced", || state.exists() && certificates(&sentry.creds("ca.crt")).len() == 2).await;
    let whole: Vec<(String, Vec<u8>)> = ["ca.crt", "root-rotation.json", "next-issuer.crt", "next-issuer.key"]
        .map(|name| (name.to_owned(), sentry.creds(name)))
        .into();
    // The same step as a crash leaves it after its first file, with one that a user changed since.
    let again = Start::standalone().flag("--root-rotation-settle=1h").file("ca-rotation", "cancel");
    let creds = again.dir.path().join("creds");
    for name in ["issuer.crt", "issuer.key"] {
        std::fs::write(creds.join(name), sentry.creds(name)).unwrap();
    }
    std::fs::write(creds.join("ca.crt"), &old).unwrap();
    std::fs::write(creds.join("next-issuer.key"), &whole[3].1).unwrap();
    let pending = creds.join(".sentry-pending");
    std::fs::create_dir(&pending).unwrap();
    let digest = |content: &[u8]| hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content));
    let steps =
        [("0", &whole[0].1, &old[..]), ("5", &whole[1].1, b""), ("6", &whole[2].1, b""), ("7", &whole[3].1, b"")];
    for (index, new, was) in steps {
        std::fs::write(pending.join(index), new).unwrap();
        std::fs::write(pending.join(format!("{index}.was")), digest(was)).unwrap();
    }
    // The command of the step; the user gave another one meanwhile.
    std::fs::write(pending.join("8"), "").unwrap();
    std::fs::write(pending.join("8.was"), digest(b"start")).unwrap();
    let again = again.ready().await;
    until("the later command was obeyed", || {
        let left = ["next-issuer.key", "root-rotation.json", "ca-rotation", ".sentry-pending"];
        again.creds("ca.crt") == old && left.iter().all(|name| !creds.join(name).exists())
    })
    .await;
    assert_eq!(signed_standalone(&again, &old).await, 2);
}
