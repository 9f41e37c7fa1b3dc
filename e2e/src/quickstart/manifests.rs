//! Applies manifests the way `kubectl apply --server-side` does, and waits for what they bring.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, ServiceAccount};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::access::Access;
use crate::modules::package_folder;
use crate::progress::say;
use crate::samples;

/// The namespace of the user's manifests.
pub use crate::backends::APPLICATION_NAMESPACE as NAMESPACE;
/// The applications and how many pods each has.
pub const APPLICATIONS: [(&str, usize); 3] = [("order-processor", 2), ("payment-service", 1), ("order-service", 1)];

const FIELD_MANAGER: &str = "dapr-quickstart";
/// How long an object may be refused for reasons that pass: a webhook that is not reached yet.
const APPLY_LIMIT: Duration = Duration::from_mins(1);
const INJECTION_LIMIT: Duration = Duration::from_secs(90);
const READY_LIMIT: Duration = Duration::from_mins(4);
const POLL: Duration = Duration::from_secs(1);

/// Applies the user's manifests and the samples, and waits until every application is ready with
/// its sidecar: that of `sidecar_image`, or the chart's.
pub async fn bring_applications(access: &Access, sidecar_image: Option<&str>) -> Result<()> {
    for file in yaml_files("acceptance", |name| name != "values.yaml" && !name.starts_with("deployment-"))? {
        apply_file(access, &file).await?;
    }
    for file in yaml_files("samples/manifests", |name| !name.starts_with("30-"))? {
        apply_file(access, &file).await?;
    }
    wait_for_injection(access).await?;
    let mut applications = objects(&package_folder().join("samples/manifests/30-applications.yaml"))?;
    for object in objects(&package_folder().join("acceptance/deployment-order-service.yaml"))? {
        applications.push(complete_order_service(object)?);
    }
    let build = samples::fingerprint()?;
    for mut object in applications {
        // Their tag is always `latest`: without this, pods of an earlier build would stay.
        let annotations = &mut object["spec"]["template"]["metadata"]["annotations"];
        annotations["samples/build"] = build.clone().into();
        if let Some(image) = sidecar_image {
            annotations["dapr.io/sidecar-image"] = image.into();
        }
        apply(access, object).await?;
    }
    wait_until_ready(access).await
}

/// The objects of a file.
pub fn objects(file: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let documents = serde_yaml::Deserializer::from_str(&text).map(Value::deserialize);
    let all = documents.collect::<Result<Vec<_>, _>>().with_context(|| format!("understand {}", file.display()))?;
    Ok(all.into_iter().filter(|object| !object.is_null()).collect())
}

fn yaml_files(folder: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let folder = package_folder().join(folder);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().extension().is_some_and(|e| e == "yaml") && wanted(&name) {
            files.push(entry.path());
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "{} holds no manifests", folder.display());
    Ok(files)
}

async fn apply_file(access: &Access, file: &Path) -> Result<()> {
    for object in objects(file)? {
        apply(access, object).await.with_context(|| format!("apply {}", file.display()))?;
    }
    Ok(())
}

/// Applies one object, again and again while the failure may pass by itself.
pub async fn apply(access: &Access, object: Value) -> Result<()> {
    let deadline = Instant::now() + APPLY_LIMIT;
    let name = format!("{} {}", text(&object, "/kind"), text(&object, "/metadata/name"));
    let mut told = String::new();
    loop {
        let error = match apply_once(access, &object).await {
            Ok(()) => break,
            Err(error) => format!("{error:#}"),
        };
        ensure!(Instant::now() < deadline, "apply {name}: {error}");
        if told != error {
            say(format!("{name} is not accepted yet: {error}"));
            told = error;
        }
        tokio::time::sleep(POLL).await;
    }
    say(format!("applied {name}"));
    Ok(())
}

async fn apply_once(access: &Access, object: &Value) -> Result<()> {
    let (group, version) = match text(object, "/apiVersion").split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), text(object, "/apiVersion")),
    };
    let kind = GroupVersionKind { group, version, kind: text(object, "/kind") };
    let (resource, _) = discovery::pinned_kind(&access.client(), &kind).await?;
    let name = text(object, "/metadata/name");
    let api: Api<DynamicObject> = match object.pointer("/metadata/namespace").and_then(Value::as_str) {
        Some(namespace) => Api::namespaced_with(access.client(), namespace, &resource),
        None => Api::all_with(access.client(), &resource),
    };
    api.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(object)).await?;
    Ok(())
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The user's fragment with what Kubernetes itself asks for: a selector, matching labels, an image
/// that exists. Nothing else of it changes.
pub fn complete_order_service(mut deployment: Value) -> Result<Value> {
    let labels = json!({ "app": "order-service" });
    deployment["spec"]["selector"] = json!({ "matchLabels": labels });
    let template = &mut deployment["spec"]["template"];
    template["metadata"]["labels"] = labels;
    let container = template.pointer_mut("/spec/containers/0").context("the Deployment has no container")?;
    container["image"] = "localhost/fuse/order-service:latest".into();
    container["imagePullPolicy"] = "IfNotPresent".into();
    Ok(deployment)
}

/// An annotated pod that is only ever created in dry runs.
pub fn probe_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "annotations": { "dapr.io/enabled": "true", "dapr.io/app-id": name },
        },
        "spec": { "containers": [{ "name": "app", "image": "localhost/fuse/order-service:latest" }] },
    })
}

/// Waits until a pod created now would get its sidecar: the webhook has its CA bundle and kube-proxy
/// its endpoints.
async fn wait_for_injection(access: &Access) -> Result<()> {
    let accounts = Api::<ServiceAccount>::namespaced(access.client(), NAMESPACE);
    let pods = Api::<Pod>::namespaced(access.client(), NAMESPACE);
    let pod: Pod = serde_json::from_value(probe_pod("injection-probe"))?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let deadline = Instant::now() + INJECTION_LIMIT;
    say("waiting until the injector adds sidecars");
    loop {
        let seen = if accounts.get_opt("default").await?.is_none() {
            "namespace has no service account yet".to_owned()
        } else {
            match pods.create(&dry, &pod).await {
                Ok(answer) if containers(&answer).any(|name| name == "daprd") => return Ok(()),
                Ok(_) => "an annotated pod would get no sidecar".to_owned(),
                Err(error) => error.to_string(),
            }
        };
        if Instant::now() >= deadline {
            bail!("{seen}; look: kubectl -n dapr-system logs deploy/dapr-sidecar-injector");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Names of a pod's containers, native sidecars included.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &str> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers)).map(|c| c.name.as_str())
}

/// Waits until every pod of every application is ready with its sidecar.
pub async fn wait_until_ready(access: &Access) -> Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    let mut told = String::new();
    loop {
        let (ready, summary) = readiness(access).await?;
        if summary != told {
            say(format!("applications: {summary}"));
            told.clone_from(&summary);
        }
        if ready {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("applications are not ready: {summary}; look: kubectl -n {NAMESPACE} describe pods");
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn readiness(access: &Access) -> Result<(bool, String)> {
    let mut all = true;
    let mut words = Vec::new();
    let deployments = Api::<Deployment>::namespaced(access.client(), NAMESPACE);
    for (app, wanted) in APPLICATIONS {
        if !is_rolled_out(&deployments.get(app).await?) {
            all = false;
            words.push(format!("{app} is being rolled out"));
        }
        let pods = access.pods(NAMESPACE, app).await?;
        all &= pods.len() == wanted && pods.iter().all(is_ready_with_sidecar);
        words.extend(pods.iter().map(describe));
        if pods.len() != wanted {
            words.push(format!("{app} has {} of {wanted} pods", pods.len()));
        }
    }
    Ok((all, words.join(", ")))
}

/// Whether the pods are those of the present template: right after a change the old ones are ready.
fn is_rolled_out(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation == deployment.metadata.generation && status.updated_replicas == Some(wanted)
    })
}

fn statuses(pod: &Pod) -> Vec<&ContainerStatus> {
    let Some(status) = &pod.status else { return Vec::new() };
    let sidecars = status.init_container_statuses.iter().flatten().filter(|c| c.name == "daprd");
    sidecars.chain(status.container_statuses.iter().flatten()).collect()
}

/// Whether the pod is 2/2: its application and a `daprd`, both ready.
pub fn is_ready_with_sidecar(pod: &Pod) -> bool {
    let statuses = statuses(pod);
    containers(pod).any(|name| name == "daprd") && statuses.len() >= 2 && statuses.iter().all(|c| c.ready)
}

fn describe(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or("?");
    let statuses = statuses(pod);
    let ready = statuses.iter().filter(|c| c.ready).count();
    let mut line = format!("{name} {ready}/{}", containers(pod).count());
    if !containers(pod).any(|name| name == "daprd") {
        line.push_str(" (no sidecar)");
    }
    let waiting = statuses.iter().filter_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.clone());
    for reason in waiting.filter(|reason| reason != "ContainerCreating" && reason != "PodInitializing") {
        let _ = write!(line, " ({reason})");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_deployment_only_gains_selector_labels_and_image() {
        let file = package_folder().join("acceptance/deployment-order-service.yaml");
        let given = objects(&file).unwrap().remove(0);
        let done = complete_order_service(given.clone()).unwrap();
        let annotations = "/spec/template/metadata/annotations";
        assert_eq!(done.pointer(annotations), given.pointer(annotations));
        assert!(given.pointer(annotations).is_some_and(Value::is_object));
        assert_eq!(done["spec"]["selector"]["matchLabels"], done["spec"]["template"]["metadata"]["labels"]);
        let container = &done["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "localhost/fuse/order-service:latest");
        assert_eq!(container["ports"], given["spec"]["template"]["spec"]["containers"][0]["ports"]);
    }

    #[test]
    fn every_sample_manifest_can_be_read_and_names_its_namespace() {
        for file in yaml_files("samples/manifests", |_| true).unwrap() {
            for object in objects(&file).unwrap() {
                assert_eq!(text(&object, "/metadata/namespace"), NAMESPACE, "{}", file.display());
            }
        }
    }

    #[test]
    fn a_changed_deployment_is_not_rolled_out_while_its_controller_has_not_seen_it() {
        let deployment = |observed: i64, updated: i32| -> Deployment {
            serde_json::from_value(json!({
                "metadata": { "generation": 2 },
                "spec": { "replicas": 2, "selector": {}, "template": {} },
                "status": { "observedGeneration": observed, "updatedReplicas": updated },
            }))
            .unwrap()
        };
        assert!(is_rolled_out(&deployment(2, 2)));
        assert!(!is_rolled_out(&deployment(1, 2)) && !is_rolled_out(&deployment(2, 1)));
    }

    #[test]
    fn a_pod_without_daprd_is_not_ready_however_many_containers_are() {
        let pod = |names: [&str; 2]| -> Pod {
            serde_json::from_value(json!({
                "spec": { "containers": names.map(|name| json!({ "name": name })) },
                "status": { "containerStatuses": names.map(|name| json!({
                    "name": name, "ready": true, "image": "", "imageID": "", "restartCount": 0,
                })) },
            }))
            .unwrap()
        };
        assert!(is_ready_with_sidecar(&pod(["app", "daprd"])));
        assert!(!is_ready_with_sidecar(&pod(["app", "other"])));
    }
}
