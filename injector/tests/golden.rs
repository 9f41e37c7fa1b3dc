//! What upstream's injector answered, recorded by `golden/recorder`, against our answers.
//!
//! Every case must get the same answer, warnings apart, except those listed in
//! `golden/differences.json` with the reason and our answer. A listed case that stops
//! differing fails too. Our warnings, which upstream has none of, are in `golden/warnings.txt`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::Arc,
};

use injector::core::{glob::Glob, quantity};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use support::{anchors, ask, config, not_found, routes, take_patch};

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the file")]
struct Cases {
    env: BTreeMap<String, String>,
    anchors: String,
    cases: Vec<Case>,
    quantities: Vec<String>,
    globs: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    scheduler: Option<bool>,
    mtls: Option<bool>,
    #[serde(default)]
    components: Vec<Component>,
    user: Option<Value>,
    pod: Option<Value>,
    body: Option<String>,
    content_type: Option<String>,
    path: Option<String>,
}

#[derive(Deserialize)]
struct Component {
    name: String,
    container: Option<String>,
    scopes: Vec<String>,
}

#[derive(Deserialize)]
struct Upstream {
    cases: BTreeMap<String, Value>,
    quantities: BTreeMap<String, String>,
    globs: Vec<String>,
}

#[derive(Deserialize, Serialize)]
struct Difference {
    reason: String,
    ours: Value,
}

fn golden<T: serde::de::DeserializeOwned>(file: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Our answer in the form the recorder writes, and our warnings.
async fn answer(all: &Cases, case: &Case) -> (Value, Vec<String>) {
    let mut env = all.env.clone();
    env.extend(case.env.clone());
    env.retain(|_, value| value != "<unset>");
    let scheduler = format!("--scheduler-enabled={}", case.scheduler.unwrap_or(true));
    let config = config(&env, &[&scheduler]).unwrap();
    let router = routes(&config, anchors(&all.anchors), api_server(case));
    let body = case.body.clone().unwrap_or_else(|| review(case).to_string());
    let path = case.path.as_deref().unwrap_or("/mutate");
    let content_type = case.content_type.as_deref().unwrap_or("application/json");
    let (status, content_type, body) = ask(&router, path, content_type, body).await;
    let mut record = json!({"status": status, "contentType": content_type});
    let Ok(mut review) = serde_json::from_slice::<Value>(&body) else {
        record["text"] = String::from_utf8(body).unwrap().into();
        return (record, Vec::new());
    };
    if let Some(patch) = take_patch(&mut review) {
        record["patch"] = patch;
    }
    let warnings = review["response"].as_object_mut().unwrap().shift_remove("warnings");
    record["review"] = review;
    (record, warnings.map(|found| serde_json::from_value(found).unwrap()).unwrap_or_default())
}

fn review(case: &Case) -> Value {
    let controller = json!({"username": "system:serviceaccount:kube-system:replicaset-controller"});
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "7f0e3a52-0000-4000-8000-000000000001",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": case.user.clone().unwrap_or(controller),
            "object": case.pod,
        },
    })
}

fn api_server(case: &Case) -> support::ApiServer {
    let mtls = case.mtls;
    let components: Vec<Value> = case
        .components
        .iter()
        .map(|component| {
            let annotations = component.container.as_ref().map(|json| json!({"dapr.io/component-container": json}));
            json!({
                "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
                "metadata": {"name": component.name, "annotations": annotations},
                "scopes": component.scopes,
            })
        })
        .collect();
    Arc::new(move |method, path| match (method, path.split('?').next().unwrap_or_default()) {
        ("GET", path) if path.ends_with("/configurations/daprsystem") => match mtls {
            Some(enabled) => (
                200,
                json!({
                    "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
                    "metadata": {"name": "daprsystem"}, "spec": {"mtls": {"enabled": enabled}},
                }),
            ),
            None => not_found(),
        },
        ("GET", "/apis/dapr.io/v1alpha1/namespaces/shop/components") => (
            200,
            json!({
                "apiVersion": "dapr.io/v1alpha1", "kind": "ComponentList", "metadata": {}, "items": components,
            }),
        ),
        other => panic!("unexpected call {other:?}"),
    })
}

#[tokio::test]
async fn every_answer_is_upstreams_except_the_listed_differences() {
    let all: Cases = golden("cases.json");
    let upstream: Upstream = golden("upstream.json");
    let mut differences: BTreeMap<String, Difference> = golden("differences.json");
    let names: BTreeSet<&String> = all.cases.iter().map(|case| &case.name).collect();
    assert_eq!(names, upstream.cases.keys().collect(), "record the cases again");
    let unknown: Vec<_> = differences.keys().filter(|name| !names.contains(name)).collect();
    assert!(unknown.is_empty(), "differences of no case: {unknown:?}");
    let (mut wrong, mut warnings) = (String::new(), String::new());
    for case in &all.cases {
        let (ours, warned) = answer(&all, case).await;
        for warning in warned {
            writeln!(warnings, "{}\n    {warning}", case.name).unwrap();
        }
        let theirs = &upstream.cases[&case.name];
        match differences.get_mut(&case.name) {
            None if ours != *theirs => {
                writeln!(wrong, "{}\n  upstream: {theirs}\n  ours:     {ours}", case.name).unwrap();
            }
            Some(_) if ours == *theirs => writeln!(wrong, "{}: no longer a difference", case.name).unwrap(),
            Some(difference) if std::env::var_os("UPDATE_GOLDEN").is_some() => difference.ours = ours,
            Some(difference) if ours != difference.ours => {
                writeln!(wrong, "{}\n  listed: {}\n  ours:   {ours}", case.name, difference.ours).unwrap();
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let text = serde_json::to_string_pretty(&differences).unwrap() + "\n";
    testkit::golden(env!("CARGO_MANIFEST_DIR"), "tests/golden/differences.json", &text);
    testkit::golden(env!("CARGO_MANIFEST_DIR"), "tests/golden/warnings.txt", &warnings);
}

#[test]
fn quantities_are_upstreams() {
    let all: Cases = golden("cases.json");
    let upstream: Upstream = golden("upstream.json");
    for text in &all.quantities {
        let ours = quantity::canonical(text).unwrap_or_else(|_| "error".to_owned());
        assert_eq!(ours, upstream.quantities[text], "{text:?}");
    }
}

#[test]
fn patterns_match_as_upstreams_do() {
    let all: Cases = golden("cases.json");
    let upstream: Upstream = golden("upstream.json");
    for ((pattern, text), theirs) in all.globs.iter().zip(&upstream.globs) {
        let ours = Glob::parse(pattern).map_or("error".to_owned(), |glob| glob.matches(text).to_string());
        assert_eq!(ours, *theirs, "{pattern:?} {text:?}");
    }
}
