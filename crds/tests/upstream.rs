//! Our definitions against upstream's of the same version (recorded in `upstream/crds/`), with
//! `differences.yaml` as the complete, reviewed list of deliberate differences.
//!
//! Descriptions are left out: ours are written anew. To record another version, copy the files of
//! `charts/dapr/crds` from the Go module `github.com/dapr/dapr` at that version.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail as the tests do")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reviewed {
    file: String,
    path: String,
    upstream: Option<Value>,
    ours: Option<Value>,
    why: String,
}

type Found = BTreeMap<(String, String), (Option<Value>, Option<Value>)>;

#[test]
fn definitions_differ_from_upstreams_only_as_reviewed() {
    let mut found = Found::new();
    for definition in crds::definitions() {
        let upstream = flatten(&recorded(definition.file));
        let ours = flatten(&definition.object);
        let paths: BTreeSet<_> = upstream.keys().chain(ours.keys()).collect();
        for path in paths {
            let pair = (upstream.get(path).cloned(), ours.get(path).cloned());
            if pair.0 != pair.1 {
                found.insert((definition.file.to_owned(), path.clone()), pair);
            }
        }
    }
    let mut reviewed = Found::new();
    for entry in reviewed_differences() {
        assert!(!entry.why.trim().is_empty(), "{} {}: no reason", entry.file, entry.path);
        reviewed.insert((entry.file, entry.path), (entry.upstream, entry.ours));
    }
    let unreviewed: Vec<_> = found.iter().filter(|(key, pair)| reviewed.get(key) != Some(pair)).collect();
    let stale: Vec<_> = reviewed.keys().filter(|key| !found.contains_key(key)).collect();
    assert!(unreviewed.is_empty(), "not in differences.yaml: {unreviewed:#?}");
    assert!(stale.is_empty(), "in differences.yaml but equal: {stale:#?}");
}

#[test]
fn every_recorded_definition_has_one_of_ours() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upstream/crds");
    let recorded: BTreeSet<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let ours: BTreeSet<String> = crds::definitions().iter().map(|definition| definition.file.to_owned()).collect();
    assert_eq!(recorded, ours);
}

#[test]
fn nothing_that_upstream_accepts_is_required_or_restricted_beyond_the_reviewed_rules() {
    for definition in crds::definitions() {
        let upstream = flatten(&recorded(definition.file));
        for (path, value) in flatten(&definition.object) {
            let restricts = ["required", "minLength", "minItems", "enum", "x-kubernetes-list-type"]
                .iter()
                .any(|keyword| path.split('/').any(|part| part == *keyword));
            if restricts && !path.contains("/properties/enum") {
                assert_eq!(upstream.get(&path), Some(&value), "{} {path}", definition.file);
            }
        }
    }
}

fn recorded(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upstream/crds").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

fn reviewed_differences() -> Vec<Reviewed> {
    serde_yaml::from_str(include_str!("differences.yaml")).unwrap()
}

/// Leaves by path. Lists of texts count as sets (`required` has no order), versions go by name.
fn flatten(value: &Value) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    collect(value, String::new(), &mut leaves);
    leaves
}

fn collect(value: &Value, path: String, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, below) in map {
                // A property may be called `description`; the keyword holds a text.
                if key == "description" && below.is_string() {
                    continue;
                }
                collect(below, format!("{path}/{key}"), leaves);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let key = match item {
                    Value::String(text) => text.clone(),
                    _ => item["name"].as_str().map_or(index.to_string(), str::to_owned),
                };
                collect(item, format!("{path}/{key}"), leaves);
            }
        }
        leaf => drop(leaves.insert(path, leaf.clone())),
    }
}
