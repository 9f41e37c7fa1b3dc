//! Containers that serve pluggable components, declared on Component resources.
//!
//! A declaration that is not a container is skipped with a warning: one bad Component must
//! not keep the pods of its namespace from starting.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use super::{
    app_id::SidecarAppId,
    sidecar::{SOCKETS_FOLDER_ENV, plain},
    volumes::{COMPONENT_SOCKETS_VOLUME, empty_dir, has_volume, mount},
};

/// What the injector reads of a Component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComponentResource {
    /// Its name.
    pub name: String,
    /// The container that serves it, as JSON.
    pub container: Option<String>,
    /// The app ids that may use it; empty means all.
    pub scopes: Vec<String>,
}

/// Containers to add, and the volumes they need.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Additions {
    /// The containers, complete.
    pub containers: Vec<Container>,
    /// Volumes they mount that the pod does not have.
    pub volumes: Vec<Volume>,
}

/// The containers of `components` that `app_id` may use: one per image, the first wins.
pub fn injectable(
    app_id: &SidecarAppId,
    components: &[ComponentResource],
    warnings: &mut Vec<String>,
) -> Vec<Container> {
    let mut images = BTreeSet::new();
    let mut containers = Vec::new();
    for component in components {
        let Some(json) = component.container.as_deref().filter(|json| !json.is_empty()) else {
            continue;
        };
        let mut container: Container = match serde_json::from_str(json) {
            Ok(container) => container,
            Err(error) => {
                warnings.push(format!("component {}: its container is not usable: {error}", component.name));
                continue;
            }
        };
        let in_scope = component.scopes.is_empty() || component.scopes.iter().any(|scope| scope == app_id.as_str());
        if !in_scope || !images.insert(container.image.clone().unwrap_or_default()) {
            continue;
        }
        if container.name.is_empty() {
            container.name.clone_from(&component.name);
        }
        containers.push(container);
    }
    containers
}

/// Completes `containers` with the sockets folder at `sockets_folder`, and finds the volumes
/// that they mount and nobody declares. Names the pod already uses are left out.
pub fn additions(pod: &Pod, containers: Vec<Container>, sockets_folder: &str, warnings: &mut Vec<String>) -> Additions {
    let mut names: BTreeSet<String> = pod_container_names(pod).collect();
    let mut declared = BTreeSet::new();
    let mut additions = Additions::default();
    for mut container in containers {
        if !names.insert(container.name.clone()) {
            warnings.push(format!("a container {:?} exists already: the component's is left out", container.name));
            continue;
        }
        for mount in container.volume_mounts.iter().flatten() {
            let known = mount.name == COMPONENT_SOCKETS_VOLUME || has_volume(pod, &mount.name);
            if !known && declared.insert(mount.name.clone()) {
                additions.volumes.push(empty_dir(&mount.name));
            }
        }
        container.env.get_or_insert_default().push(plain(SOCKETS_FOLDER_ENV, sockets_folder));
        container.volume_mounts.get_or_insert_default().push(mount(COMPONENT_SOCKETS_VOLUME, sockets_folder));
        container.resources.get_or_insert_default();
        additions.containers.push(container);
    }
    additions
}

fn pod_container_names(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|spec| &spec.containers);
    let init = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
    containers.chain(init).map(|container| container.name.clone())
}
