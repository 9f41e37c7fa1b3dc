//! The chart's definitions are what the types say, and the API server's types can read them.

use std::{collections::BTreeSet, path::Path};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

const CHART_FOLDER: &str = "../charts/dapr/crds";

#[test]
fn the_charts_definitions_are_generated_from_the_types() {
    for definition in crds::definitions() {
        let yaml = definition.yaml().unwrap();
        testkit::golden(env!("CARGO_MANIFEST_DIR"), &format!("{CHART_FOLDER}/{}", definition.file), &yaml);
    }
}

#[test]
fn the_chart_has_the_seven_definitions_and_no_other_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(CHART_FOLDER);
    let found: BTreeSet<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let expected: BTreeSet<String> = crds::definitions().iter().map(|definition| definition.file.to_owned()).collect();
    assert_eq!(expected.len(), 7);
    assert_eq!(found, expected);
}

#[test]
fn every_definition_reads_as_a_custom_resource_definition_without_loss() {
    for definition in crds::definitions() {
        let typed: CustomResourceDefinition = serde_json::from_value(definition.object.clone()).unwrap();
        assert_eq!(serde_json::to_value(&typed).unwrap(), definition.object, "{}", definition.file);
    }
}

#[test]
fn exactly_one_version_of_each_definition_is_stored() {
    for definition in crds::definitions() {
        let versions = definition.object["spec"]["versions"].as_array().unwrap();
        let stored = versions.iter().filter(|version| version["storage"] == true).count();
        assert_eq!(stored, 1, "{}", definition.file);
        assert!(versions.iter().all(|version| version["served"] == true), "{}", definition.file);
    }
}

#[test]
fn no_schema_has_what_the_api_server_or_upstream_lacks() {
    for definition in crds::definitions() {
        let text = definition.yaml().unwrap();
        for word in ["$ref", "anyOf", "oneOf", "allOf", "nullable", "x-crdgen", "title:", "minimum"] {
            assert!(!text.contains(word), "{} contains {word}", definition.file);
        }
    }
}
