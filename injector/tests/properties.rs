//! Properties of the patch: injecting twice is injecting once, nothing is lost, any
//! annotation is answered, and the same pod gives the same bytes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;

use injector::core::{
    self, Install, Plan, Settings,
    components::ComponentResource,
    settings::{Mtls, TokenVolume},
};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{chart_env, config};

const KEYS: &[&str] = &[
    "app-port",
    "app-protocol",
    "app-ssl",
    "app-channel-address",
    "app-max-concurrency",
    "config",
    "log-level",
    "log-as-json",
    "enable-api-logging",
    "enable-profiling",
    "enable-metrics",
    "metrics-port",
    "grpc-port",
    "internal-grpc-port",
    "sidecar-listen-addresses",
    "enable-debug",
    "debug-port",
    "env",
    "env-from-secret",
    "api-token-secret",
    "app-token-secret",
    "sidecar-cpu-request",
    "sidecar-cpu-limit",
    "sidecar-memory-request",
    "sidecar-memory-limit",
    "sidecar-liveness-probe-delay-seconds",
    "sidecar-readiness-probe-threshold",
    "sidecar-image",
    "sidecar-seccomp-profile-type",
    "http-max-request-size",
    "max-body-size",
    "http-read-buffer-size",
    "read-buffer-size",
    "graceful-shutdown-seconds",
    "block-shutdown-duration",
    "unix-domain-socket-path",
    "volume-mounts",
    "volume-mounts-rw",
    "disable-builtin-k8s-secret-store",
    "enable-app-health-check",
    "app-health-check-path",
    "app-health-probe-interval",
    "app-binding-options-timeout",
    "placement-host-address",
    "scheduler-host-address",
    "actors-disseminate-timeout",
    "disable-init-endpoints",
    "sentry-request-jwt-audiences",
    "pluggable-components",
    "pluggable-components-sockets-folder",
    "inject-pluggable-components",
    "enable-native-sidecar",
    "novelty",
];

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        "-?[0-9]{1,20}",
        "[a-z]{1,3}[:=,][a-z/]{1,5}(,[A-Z]=[a-z:]{0,3}){0,3}",
        "[0-9.]{1,4}(m|Mi|Gi|k|)",
        "(app|comp|v1|v2)(,(app|comp|v1:/a|v2:/b)){0,2}",
        "\\PC{0,24}",
    ]
}

fn container() -> impl Strategy<Value = Value> {
    let env = proptest::option::of(proptest::collection::vec("(DAPR_HTTP_PORT|APP_PROTOCOL|X)", 0..3));
    let mounts = proptest::option::of(proptest::collection::vec("(v1|v2|dapr-unix-domain-socket)", 0..2));
    ("(app|comp|side)[0-9]?", env, mounts).prop_map(|(name, env, mounts)| {
        let env =
            env.map(|names| names.into_iter().map(|name| json!({"name": name, "value": "1"})).collect::<Vec<_>>());
        let mounts = mounts.map(|names| {
            names.into_iter().map(|name| json!({"name": name, "mountPath": format!("/{name}")})).collect::<Vec<_>>()
        });
        json!({"name": name, "image": "i", "env": env, "volumeMounts": mounts, "unknownField": {"keep": [1, 2]}})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let annotations = proptest::collection::btree_map(proptest::sample::select(KEYS), value(), 0..12);
    let volumes = proptest::option::of(proptest::collection::vec(
        "(v1|v2|dapr-identity-token|dapr-components-unix-domain-socket)",
        0..3,
    ));
    let labels = proptest::option::of(proptest::collection::btree_map("[a-z]{1,5}", "[a-z]{1,5}", 0..3));
    let containers = proptest::collection::vec(container(), 0..4);
    let init = proptest::option::of(proptest::collection::vec(container(), 0..2));
    (annotations, volumes, labels, containers, init).prop_map(|(annotations, volumes, labels, containers, init)| {
        let mut all: BTreeMap<String, String> =
            annotations.into_iter().map(|(key, value)| (format!("dapr.io/{key}"), value)).collect();
        all.insert("dapr.io/enabled".to_owned(), "true".to_owned());
        all.insert("dapr.io/app-id".to_owned(), "app".to_owned());
        let volumes = volumes
            .map(|names| names.into_iter().map(|name| json!({"name": name, "emptyDir": {}})).collect::<Vec<_>>());
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"annotations": all, "labels": labels, "futureField": "kept"},
            "spec": {"containers": containers, "initContainers": init, "volumes": volumes, "futureSpec": {"a": null}},
        })
    })
}

fn components() -> Vec<ComponentResource> {
    let component = |name: &str, json: &str| ComponentResource {
        name: name.to_owned(),
        container: Some(json.to_owned()),
        scopes: Vec::new(),
    };
    vec![
        component(
            "c1",
            r#"{"image":"i1","volumeMounts":[{"name":"new","mountPath":"/n"},{"name":"v1","mountPath":"/v"}]}"#,
        ),
        component("app", r#"{"image":"i2"}"#),
        component("c3", "nonsense"),
    ]
}

fn install() -> Install {
    config(&chart_env(), &[]).unwrap().install
}

fn planned(pod: &Value) -> (Plan, Value) {
    let install = install();
    let components = components();
    let settings = Settings {
        install: &install,
        namespace: "shop",
        trust_anchors: "PEM",
        mtls: Mtls::On,
        token_volume: TokenVolume::Project,
        components: &components,
    };
    let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
    let plan = core::plan(&typed, &settings).unwrap();
    let patch = serde_json::to_value(core::patch(&typed, &plan)).unwrap();
    (plan, patch)
}

fn patched(pod: &Value, patch: &Value) -> Value {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

/// Whether everything in `before` is still in `after`, lists as prefixes.
fn survives(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            before.iter().all(|(key, value)| after.get(key).is_some_and(|found| survives(value, found)))
        }
        (Value::Array(before), Value::Array(after)) => {
            before.len() <= after.len() && before.iter().zip(after).all(|(before, after)| survives(before, after))
        }
        // An absent list or map may have been begun.
        (Value::Null, Value::Null | Value::Array(_) | Value::Object(_)) => true,
        (before, after) => before == after,
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|item| item["name"].as_str().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn patching_a_patched_pod_changes_nothing(pod in pod()) {
        let (_, patch) = planned(&pod);
        let once = patched(&pod, &patch);
        let (plan, again) = planned(&once);
        prop_assert_eq!(plan, Plan::Leave);
        prop_assert_eq!(again, json!([]));
    }

    #[test]
    fn what_the_pod_had_survives(pod in pod()) {
        let (_, patch) = planned(&pod);
        let after = patched(&pod, &patch);
        prop_assert!(survives(&pod, &after), "{pod}\n{after}");
    }

    #[test]
    fn exactly_one_sidecar_and_no_volume_twice(pod in pod()) {
        let (_, patch) = planned(&pod);
        let after = patched(&pod, &patch);
        let spec = &after["spec"];
        let sidecars = [names(&spec["containers"]), names(&spec["initContainers"])].concat();
        prop_assert_eq!(sidecars.iter().filter(|name| **name == "daprd").count(), 1);
        let before = names(&pod["spec"]["volumes"]);
        let mut added: Vec<_> = names(&spec["volumes"]).into_iter().skip(before.len()).collect();
        added.sort_unstable();
        let count = added.len();
        added.dedup();
        prop_assert_eq!(added.len(), count, "{}", spec["volumes"]);
        prop_assert!(added.iter().all(|name| !before.contains(name)), "{}", spec["volumes"]);
    }

    #[test]
    fn the_same_pod_gives_the_same_bytes(pod in pod()) {
        prop_assert_eq!(planned(&pod).1.to_string(), planned(&pod).1.to_string());
    }

    #[test]
    fn every_value_of_an_argument_follows_its_flag(pod in pod()) {
        let Plan::Inject(injection) = planned(&pod).0 else { return Err(TestCaseError::fail("no plan")) };
        let args = injection.container.args.unwrap();
        let at = args.iter().position(|arg| arg == "--app-id").unwrap();
        prop_assert_eq!(args[at + 1].as_str(), "app");
    }
}

#[test]
fn the_core_is_pure() {
    testkit::assert_core_is_pure(env!("CARGO_MANIFEST_DIR"));
}
