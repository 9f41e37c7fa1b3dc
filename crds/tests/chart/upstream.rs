//! Our renders against upstream's (recorded by `upstream/record.sh`) for every case of `cases/`,
//! with `differences.yaml` as the complete, reviewed list of deliberate differences.
//!
//! Order counts where it matters to Kubernetes or to our reader: not in lists of named things, not
//! in rights (each right is one leaf), and an argument goes with its flag.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::render::{Objects, crate_folder, objects, render};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reviewed {
    /// Pattern of `Kind/name`.
    object: String,
    /// Pattern of the path within the object; absent for whole objects.
    #[serde(default = "anything")]
    path: String,
    why: String,
}

fn anything() -> String {
    "*".to_owned()
}

#[test]
fn renders_differ_from_upstreams_only_as_reviewed() {
    let reviewed: Vec<Reviewed> = serde_yaml::from_str(include_str!("differences.yaml")).unwrap();
    assert!(reviewed.iter().all(|entry| !entry.why.trim().is_empty()), "an entry lacks its reason");
    let mut used = BTreeSet::new();
    let mut unreviewed = Vec::new();
    for case in cases() {
        let name = case.file_name().unwrap().to_str().unwrap().to_owned();
        let recorded = std::fs::read_to_string(crate_folder().join("tests/upstream/chart").join(&name)).unwrap();
        let upstream = leaves(&objects(&recorded));
        let ours = leaves(&render(&["--values", case.to_str().unwrap()]));
        for place in upstream.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
            if upstream.get(place) == ours.get(place) {
                continue;
            }
            let matching: Vec<_> = reviewed
                .iter()
                .enumerate()
                .filter(|(_, entry)| matches(&entry.object, &place.0) && matches(&entry.path, &place.1))
                .map(|(index, _)| index)
                .collect();
            if matching.is_empty() {
                let found = (upstream.get(place), ours.get(place));
                unreviewed.push(format!("{name}: {} {}: {found:?}", place.0, place.1));
            }
            used.extend(matching);
        }
    }
    assert!(unreviewed.is_empty(), "not in differences.yaml:\n{}", unreviewed.join("\n"));
    let stale: Vec<_> = reviewed.iter().enumerate().filter(|(index, _)| !used.contains(index)).collect();
    assert!(stale.is_empty(), "in differences.yaml but nothing differs: {stale:#?}");
}

#[test]
fn every_case_is_recorded_and_every_record_has_its_case() {
    let names = |folder: &str| -> BTreeSet<_> {
        let entries = std::fs::read_dir(crate_folder().join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    let cases = names("tests/chart/cases");
    assert!(!cases.is_empty());
    assert_eq!(cases, names("tests/upstream/chart"));
}

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(crate_folder().join("tests/chart/cases")).unwrap();
    let mut cases: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

type Leaves = BTreeMap<(String, String), Value>;

fn leaves(objects: &Objects) -> Leaves {
    let mut leaves = Leaves::new();
    for ((kind, namespace, name), object) in objects {
        let place = format!("{kind}/{name}");
        leaves.insert((place.clone(), "/metadata/namespace".to_owned()), json!(namespace));
        collect(object, String::new(), &mut |path, value| {
            if path != "/metadata/namespace" {
                leaves.insert((place.clone(), path), value);
            }
        });
    }
    leaves
}

fn collect(value: &Value, path: String, found: &mut dyn FnMut(String, Value)) {
    match value {
        Value::Object(map) => {
            for (key, below) in map {
                match key.as_str() {
                    "rules" if below[0]["verbs"].is_array() => rights(below, &path, found),
                    "args" => flags(below, &path, found),
                    _ => collect(below, format!("{path}/{key}"), found),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, format!("{path}/{}", item_key(item, index)), found);
            }
        }
        // Upstream emits empty maps where we may emit nothing, and the other way round.
        Value::Null => {}
        leaf => found(path, leaf.clone()),
    }
}

fn item_key(item: &Value, index: usize) -> String {
    ["name", "mountPath", "containerPort"]
        .iter()
        .find_map(|key| match &item[*key] {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
        .unwrap_or_else(|| index.to_string())
}

/// One leaf for each verb on each resource.
fn rights(rules: &Value, path: &str, found: &mut dyn FnMut(String, Value)) {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    for rule in rules.as_array().unwrap() {
        let mut names = texts(&rule["resourceNames"]);
        if names.is_empty() {
            names.push("*".to_owned());
        }
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for name in &names {
                    for verb in texts(&rule["verbs"]) {
                        found(format!("{path}/rules/{group}/{resource}/{name}/{verb}"), json!(true));
                    }
                }
            }
        }
    }
}

/// One leaf for each flag, with the value it has.
fn flags(arguments: &Value, path: &str, found: &mut dyn FnMut(String, Value)) {
    let mut texts = arguments.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).peekable();
    while let Some(text) = texts.next() {
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) => (flag, format!("={value}")),
            None => match texts.next_if(|next| !next.starts_with('-') && text.starts_with("--")) {
                Some(value) => (text, value.to_owned()),
                None => (text, String::new()),
            },
        };
        found(format!("{path}/args/{flag}"), json!(value));
    }
}

/// A pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|tail| {
            tail.char_indices().map(|(index, _)| index).chain([tail.len()]).any(|index| matches(rest, &tail[index..]))
        }),
    }
}

#[test]
fn patterns_match_whole_texts() {
    for (pattern, text, expected) in [
        ("a/b", "a/b", true),
        ("a/b", "a/bc", false),
        ("a/*", "a/", true),
        ("*/c", "a/b/c", true),
        ("a*c*e", "abcde", true),
        ("a*c*e", "abcd", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
}
