//! Volumes that a sidecar brings along, and mounts made from annotations.

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, Pod, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};

use super::{env_list, options::ContainerOptions};

/// The volume with the sidecar's token for sentry.
pub const TOKEN_VOLUME: &str = "dapr-identity-token";
/// The volume with the sidecar's own Unix domain sockets.
pub const SOCKETS_VOLUME: &str = "dapr-unix-domain-socket";
/// The volume with the sockets of pluggable components.
pub const COMPONENT_SOCKETS_VOLUME: &str = "dapr-components-unix-domain-socket";

const TOKEN_PATH: &str = "/var/run/secrets/dapr.io/sentrytoken";
const TOKEN_SECONDS: i64 = 7200;
const TOKEN_MODE: i32 = 0o644;

/// The projected token whose audience is sentry.
pub fn token_volume(sentry_id: &str) -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(sentry_id.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".to_owned(),
    };
    let source = VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() };
    Volume {
        name: TOKEN_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource { default_mode: Some(TOKEN_MODE), sources: Some(vec![source]) }),
        ..Volume::default()
    }
}

/// Where the sidecar sees its token.
pub fn token_mount() -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount(TOKEN_VOLUME, TOKEN_PATH) }
}

/// The in-memory folder for the sidecar's own sockets.
pub fn sockets_volume() -> Volume {
    let memory = EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit: None };
    Volume { empty_dir: Some(memory), ..empty_dir(SOCKETS_VOLUME) }
}

/// A folder that lives as long as the pod.
pub fn empty_dir(name: &str) -> Volume {
    Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// `volume` at `path`.
pub fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// Whether the pod already has a volume of that name.
pub fn has_volume(pod: &Pod, name: &str) -> bool {
    volumes(pod).iter().any(|volume| volume.name == name)
}

/// The pod's volumes.
pub fn volumes(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

/// The mounts asked for by annotation, of volumes that exist.
pub fn annotated_mounts(pod: &Pod, options: &ContainerOptions, warnings: &mut Vec<String>) -> Vec<VolumeMount> {
    let read_only = env_list::mounts(&options.mounts).into_iter().map(|pair| (pair, Some(true)));
    let writable = env_list::mounts(&options.mounts_rw).into_iter().map(|pair| (pair, None));
    let mut mounts = Vec::new();
    for ((volume, path), read_only) in read_only.chain(writable) {
        if has_volume(pod, volume) {
            mounts.push(VolumeMount { read_only, ..mount(volume, path) });
        } else {
            warnings.push(format!("the pod has no volume {volume:?}: it is not mounted into the sidecar"));
        }
    }
    mounts
}
