//! Running Helm and reading what it renders.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use serde_json::Value;

/// Kind, namespace and name.
pub type Key = (String, String, String);
/// Rendered objects.
pub type Objects = BTreeMap<Key, Value>;

pub const NAMESPACE: &str = "dapr-system";

pub fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn chart_folder() -> PathBuf {
    crate_folder().join("../charts/dapr")
}

pub fn acceptance_values() -> PathBuf {
    crate_folder().join("../e2e/acceptance/values.yaml")
}

/// What our chart renders with these further arguments.
pub fn render(arguments: &[&str]) -> Objects {
    render_chart(&chart_folder(), arguments)
}

/// What a chart renders; fails with Helm's message.
pub fn render_chart(chart: &Path, arguments: &[&str]) -> Objects {
    let output = template(chart, arguments);
    assert!(output.status.success(), "helm template: {}", String::from_utf8_lossy(&output.stderr));
    objects(&String::from_utf8(output.stdout).unwrap())
}

/// Why our chart does not render with these arguments.
pub fn refusal(arguments: &[&str]) -> String {
    let output = template(&chart_folder(), arguments);
    assert!(!output.status.success(), "{arguments:?} rendered, though it must not");
    String::from_utf8(output.stderr).unwrap()
}

fn template(chart: &Path, arguments: &[&str]) -> Output {
    let helm = helm();
    Command::new(&helm)
        .args(["template", "dapr"])
        .arg(chart)
        .args(["--namespace", NAMESPACE, "--kube-version", "1.30.0"])
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; set HELM to a Helm 3 program", helm.display()))
}

fn helm() -> PathBuf {
    static HELM: OnceLock<PathBuf> = OnceLock::new();
    HELM.get_or_init(|| {
        std::env::var_os("HELM")
            .map(PathBuf::from)
            .or_else(helm_on_path)
            .or_else(cached_helm)
            .unwrap_or_else(build_helm)
    })
    .clone()
}

fn helm_on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("helm")).find(|file| file.is_file())
}

/// Builds the pinned version, once for each target folder.
fn build_helm() -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("helm");
    let status = Command::new("go")
        .env("CGO_ENABLED", "0")
        .args(["build", "-trimpath", "-o"])
        .arg(&program)
        .arg("helm.sh/helm/v3/cmd/helm")
        .current_dir(crate_folder().join("../e2e/modules/helm"))
        .status();
    match status {
        Ok(status) if status.success() => program,
        outcome => panic!("no helm, and building it from e2e/modules/helm failed ({outcome:?}): set HELM to a Helm 3"),
    }
}

/// The Helm that the local cluster's harness built.
fn cached_helm() -> Option<PathBuf> {
    let cache = std::env::var_os("DAPRCP_CACHE").map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))?;
        Some(base.join("dapr-control-plane"))
    })?;
    let folders = std::fs::read_dir(cache).ok()?.filter_map(Result::ok);
    let mut found: Vec<PathBuf> = folders
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("helm-3"))
        .map(|entry| entry.path().join("helm"))
        .filter(|file| file.is_file())
        .collect();
    found.sort();
    found.pop()
}

/// The objects of a stream of YAML documents.
pub fn objects(text: &str) -> Objects {
    let mut objects = Objects::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value: Value = serde::Deserialize::deserialize(document).unwrap();
        if value.is_null() {
            continue;
        }
        let key = key(&value);
        let earlier = objects.insert(key.clone(), value);
        assert!(earlier.is_none(), "{key:?} is rendered twice");
    }
    objects
}

fn key(object: &Value) -> Key {
    let kind = object["kind"].as_str().unwrap().to_owned();
    let cluster_wide = ["ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"].contains(&kind.as_str());
    let default = if cluster_wide { "" } else { NAMESPACE };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(default).to_owned();
    (kind, namespace, object["metadata"]["name"].as_str().unwrap().to_owned())
}

/// The object of a kind and name; there must be one.
pub fn object<'a>(objects: &'a Objects, kind: &str, name: &str) -> &'a Value {
    let mut found = objects.iter().filter(|((k, _, n), _)| k == kind && n == name);
    let (_, value) = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    assert!(found.next().is_none(), "two {kind} {name}");
    value
}

/// The main container of a workload: the one that has its name, which must come first.
pub fn container<'a>(objects: &'a Objects, name: &str) -> &'a Value {
    let kind = if name.ends_with("-server") { "StatefulSet" } else { "Deployment" };
    let container = &object(objects, kind, name)["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["name"], name, "the CLI reads the version from the first container");
    container
}

pub fn arguments(container: &Value) -> Vec<String> {
    container["args"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The value of an environment variable, if it is there.
pub fn variable<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    let variables = container["env"].as_array()?;
    variables.iter().find(|variable| variable["name"] == name)?["value"].as_str()
}
