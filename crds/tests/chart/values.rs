//! values.yaml, its schema, the index that the templates read, and the notes.

use std::{collections::BTreeSet, fs};

use serde_json::{Map, Value, json};

use crate::render::{chart_folder, container, object, render, render_chart};

fn defaults() -> Value {
    serde_yaml::from_str(&fs::read_to_string(chart_folder().join("values.yaml")).unwrap()).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&fs::read_to_string(chart_folder().join("values.schema.json")).unwrap()).unwrap()
}

#[test]
fn the_index_is_made_of_the_values_and_the_schema() {
    let mut known = known(&schema());
    known.as_object_mut().unwrap().remove("dapr");
    let index = json!({ "defaults": defaults(), "known": known });
    let text = serde_json::to_string_pretty(&index).unwrap() + "\n";
    testkit::golden(env!("CARGO_MANIFEST_DIR"), "../charts/dapr/files/values-index.json", &text);
}

/// The keys of a schema; `true` where any key may follow.
fn known(schema: &Value) -> Value {
    let Some(properties) = schema["properties"].as_object() else { return json!(true) };
    Value::Object(properties.iter().map(|(key, below)| (key.clone(), known(below))).collect())
}

#[test]
fn the_schema_knows_every_key_of_the_values() {
    let mut unknown = Vec::new();
    compare(&defaults(), &known(&schema()), "", &mut unknown);
    assert!(unknown.is_empty(), "{unknown:?}");
}

fn compare(values: &Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    let (Some(values), Some(known)) = (values.as_object(), known.as_object()) else { return };
    for (key, below) in values {
        match known.get(key) {
            Some(known) => compare(below, known, &format!("{path}{key}."), unknown),
            None => unknown.push(format!("{path}{key}")),
        }
    }
}

#[test]
fn every_part_may_also_be_given_below_dapr() {
    let schema = schema();
    let properties = schema["properties"].as_object().unwrap();
    let parts: BTreeSet<&String> = properties.keys().filter(|key| *key != "dapr").collect();
    let below: BTreeSet<&String> = schema["properties"]["dapr"]["properties"].as_object().unwrap().keys().collect();
    assert_eq!(parts, below);
}

#[test]
fn keys_with_a_second_spelling_are_left_unset() {
    let values = defaults();
    for path in [
        "/global/mtls/controlPlaneTrustDomain",
        "/dapr_sentry/trustDomain",
        "/dapr_operator/replicaCount",
        "/dapr_sentry/replicaCount",
        "/dapr_sidecar_injector/replicaCount",
        "/dapr_placement/replicas",
    ] {
        assert_eq!(values.pointer(path), None, "{path}");
    }
}

#[test]
fn the_documentation_has_every_key() {
    let text = fs::read_to_string(chart_folder().join("../../docs/helm-values.md")).unwrap();
    let schema = schema();
    let mut missing = Vec::new();
    for (part, below) in schema["properties"].as_object().unwrap() {
        if part == "dapr" {
            continue;
        }
        for key in below["properties"].as_object().map(Map::keys).into_iter().flatten() {
            if !text.contains(&format!("`{key}")) && !text.contains(&format!("`{part}.{key}")) {
                missing.push(format!("{part}.{key}"));
            }
        }
    }
    assert!(missing.is_empty(), "docs/helm-values.md lacks {missing:?}");
}

/// The notes, rendered as an object of a copy of the chart.
fn notes(arguments: &[&str]) -> String {
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-r").arg(chart_folder()).arg(copy.path()).status().unwrap();
    assert!(status.success());
    fs::write(
        copy.path().join("dapr/templates/probe.yaml"),
        "{{- include \"dapr.prepare\" . }}\napiVersion: v1\nkind: Probe\nmetadata: {name: notes}\n\
         text: {{ include \"dapr.notes\" . | toJson }}\n",
    )
    .unwrap();
    let objects = render_chart(&copy.path().join("dapr"), arguments);
    object(&objects, "Probe", "notes")["text"].as_str().unwrap().to_owned()
}

#[test]
fn the_notes_list_unknown_keys_and_only_these() {
    let text = notes(&["--set", "global.reminders.skipMigration=true,mine.x=1,dapr.theirs=1,dapr_sentry.replicas=2"]);
    let listed: Vec<&str> = text.lines().filter(|line| line.starts_with("    ")).map(str::trim).collect();
    assert_eq!(listed, ["global.reminders.skipMigration", "mine", "dapr.theirs"]);
    assert!(!notes(&[]).contains("Warning"), "{}", notes(&[]));
}

#[test]
fn the_notes_warn_of_what_will_not_do() {
    let text = notes(&["--set", "dapr_scheduler.cluster.storageSize=1Gi,dapr_placement.replicas=2"]);
    assert!(text.contains("1Gi of storage"), "{text}");
    assert!(text.contains("dapr_placement.replicas is 2"), "{text}");
}

#[test]
fn values_of_an_older_chart_still_render() {
    // `helm upgrade --reuse-values` brings the values of the old chart, without what is new here.
    let old = json!({
        "global": {"extraContainers": null, "initContainers": null, "controlPlane": null, "networkPolicy": null,
                   "ha": {"topologyKey": null, "podAntiAffinityPolicy": null}},
        "dapr_scheduler": {"workers": null}, "dapr_operator": {"secretNamespaces": null},
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), old.to_string()).unwrap();
    assert_eq!(render(&["--values", file.path().to_str().unwrap()]), render(&[]));
}

#[test]
fn null_removes_a_label_as_in_helm() {
    let objects = render(&["--set", "global.k8sLabels.app\\.kubernetes\\.io/part-of=null"]);
    let labels = object(&objects, "Deployment", "dapr-operator")["metadata"]["labels"].as_object().unwrap();
    assert!(!labels.contains_key("app.kubernetes.io/part-of"), "{labels:?}");
}

#[test]
fn one_value_moves_our_images_and_another_daprd() {
    let objects = render(&["--set", "global.controlPlane.registry=mine.example/x,global.registry=theirs.example"]);
    for name in ["dapr-operator", "dapr-sentry", "dapr-placement-server"] {
        let image = container(&objects, name)["image"].as_str().unwrap();
        assert!(image.starts_with("mine.example/x/") && image.ends_with(":1.18.3"), "{image}");
    }
    assert_eq!(container(&objects, "dapr-sidecar-injector")["image"], "mine.example/x/injector:1.18.3");
    assert_eq!(container(&objects, "dapr-scheduler-server")["image"], "theirs.example/scheduler:1.18.3");
    let whole = render(&["--set", "dapr_operator.image.name=a.example/op@sha256:00"]);
    assert_eq!(container(&whole, "dapr-operator")["image"], "a.example/op@sha256:00");
}

#[test]
fn secrets_can_be_narrowed_to_namespaces() {
    let objects = render(&["--set", "dapr_operator.secretNamespaces={fuse,shop}"]);
    let cluster = serde_json::to_string(object(&objects, "ClusterRole", "dapr-operator-admin")).unwrap();
    assert!(!cluster.contains("secrets"), "{cluster}");
    for namespace in ["fuse", "shop"] {
        let key = |kind: &str| (kind.to_owned(), namespace.to_owned(), "dapr-operator-secrets".to_owned());
        let role = &objects[&key("Role")];
        assert_eq!(
            role["rules"],
            json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}])
        );
        let binding = &objects[&key("RoleBinding")];
        assert_eq!(binding["subjects"][0]["namespace"], "dapr-system");
    }
}

#[test]
fn the_charts_version_is_the_packages() {
    let chart: Value = serde_yaml::from_str(&fs::read_to_string(chart_folder().join("Chart.yaml")).unwrap()).unwrap();
    for key in ["version", "appVersion"] {
        assert_eq!(chart[key], env!("CARGO_PKG_VERSION"), "{key}");
    }
}
