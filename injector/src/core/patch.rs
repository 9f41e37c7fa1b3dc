//! A plan, written as a JSON patch against the pod it was made for.
//!
//! Only `add` operations, in one fixed order, so the same pod always gets the same bytes.
//! Nothing is rewritten: fields this code does not know survive. Indices are those of the
//! incoming pod; what is added goes to the end, so they stay valid.

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec, Volume, VolumeMount};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    plan::{Components, Injection, Place, Plan},
    volumes::{has_volume, volumes},
};

const LABELS: &str = "/metadata/labels";
const VOLUMES: &str = "/spec/volumes";
const CONTAINERS: &str = "/spec/containers";
const INIT_CONTAINERS: &str = "/spec/initContainers";

/// A JSON patch; empty when there is nothing to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Patch {
    operations: Vec<Operation>,
}

/// One `add`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operation {
    op: &'static str,
    path: String,
    value: Value,
}

impl Patch {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The patch as admission answers carry it.
    #[expect(clippy::missing_panics_doc, reason = "plain JSON can always be written")]
    pub fn to_base64(&self) -> String {
        let json = serde_json::to_vec(self).expect("a patch holds plain JSON");
        STANDARD.encode(json)
    }

    fn add(&mut self, path: impl Into<String>, value: impl Serialize) {
        let value = serde_json::to_value(value).expect("Kubernetes types have text keys and plain numbers");
        self.operations.push(Operation { op: "add", path: path.into(), value });
    }
}

/// Writes `plan` as a patch to `pod`.
pub fn patch(pod: &Pod, plan: &Plan) -> Patch {
    let mut patch = Patch::default();
    let Plan::Inject(injection) = plan else {
        return patch;
    };
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.containers.is_empty() {
        patch.add(CONTAINERS, json!([]));
    }
    if pod.metadata.labels.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
        patch.add(LABELS, json!({}));
    }
    let has_volumes = add_volumes(&mut patch, pod, &injection.volumes);
    add_sidecar(&mut patch, &spec, injection);
    patch.add(format!("{LABELS}/dapr.io~1sidecar-injected"), "true");
    patch.add(format!("{LABELS}/dapr.io~1app-id"), injection.app_id.as_str());
    patch.add(format!("{LABELS}/dapr.io~1metrics-enabled"), injection.metrics.to_string());
    let is_component = |container: &Container| {
        injection.components.as_ref().is_some_and(|found| found.names.contains(&container.name))
    };
    for (at, container) in applications(&spec, is_component) {
        add_env(&mut patch, at, container, &injection.app_env);
    }
    if let Some(mount) = &injection.app_mount {
        for (at, container) in applications(&spec, is_component) {
            add_mount(&mut patch, at, container, mount);
        }
    }
    if let Some(components) = &injection.components {
        add_components(&mut patch, pod, components, has_volumes);
    }
    patch
}

fn applications(
    spec: &PodSpec,
    is_component: impl Fn(&Container) -> bool,
) -> impl Iterator<Item = (usize, &Container)> {
    spec.containers.iter().enumerate().filter(move |(_, container)| !is_component(container))
}

/// Returns whether the pod has a list of volumes afterwards.
fn add_volumes(patch: &mut Patch, pod: &Pod, new: &[Volume]) -> bool {
    if volumes(pod).is_empty() {
        if !new.is_empty() {
            patch.add(VOLUMES, new);
        }
        return !new.is_empty();
    }
    for volume in new.iter().filter(|volume| !has_volume(pod, &volume.name)) {
        patch.add(format!("{VOLUMES}/-"), volume);
    }
    true
}

fn add_sidecar(patch: &mut Patch, spec: &PodSpec, injection: &Injection) {
    let list = match injection.place {
        Place::Containers => CONTAINERS,
        Place::InitContainers => {
            if spec.init_containers.as_ref().is_none_or(Vec::is_empty) {
                patch.add(INIT_CONTAINERS, json!([]));
            }
            INIT_CONTAINERS
        }
    };
    patch.add(format!("{list}/-"), &injection.container);
}

fn add_env(patch: &mut Patch, at: usize, container: &Container, new: &[EnvVar]) {
    let path = format!("{CONTAINERS}/{at}/env");
    let existing = container.env.as_deref().unwrap_or_default();
    if existing.is_empty() {
        patch.add(path, new);
        return;
    }
    for variable in new {
        if existing.iter().all(|found| found.name != variable.name) {
            patch.add(format!("{path}/-"), variable);
        }
    }
}

fn add_mount(patch: &mut Patch, at: usize, container: &Container, new: &VolumeMount) {
    let path = format!("{CONTAINERS}/{at}/volumeMounts");
    let existing = container.volume_mounts.as_deref().unwrap_or_default();
    if existing.is_empty() {
        patch.add(path, [new]);
    } else if existing.iter().all(|found| found.mount_path != new.mount_path && found.name != new.name) {
        patch.add(format!("{path}/-"), new);
    }
}

/// `has_volumes`: whether a list of volumes exists by now. Upstream asks the incoming pod
/// instead and thereby overwrites the volumes it has just added.
fn add_components(patch: &mut Patch, pod: &Pod, components: &Components, has_volumes: bool) {
    if !has_volumes {
        patch.add(VOLUMES, [&components.volume]);
    } else if !has_volume(pod, &components.volume.name) {
        patch.add(format!("{VOLUMES}/-"), &components.volume);
    }
    let own = pod.spec.iter().flat_map(|spec| &spec.containers).enumerate();
    for (at, container) in own.filter(|(_, container)| components.names.contains(&container.name)) {
        add_env(patch, at, container, std::slice::from_ref(&components.env));
        add_mount(patch, at, container, &components.mount);
    }
    for volume in &components.additions.volumes {
        patch.add(format!("{VOLUMES}/-"), volume);
    }
    for container in &components.additions.containers {
        patch.add(format!("{CONTAINERS}/-"), container);
    }
}
