//! What is to be done to a pod: the whole decision, before any patch is written.
//!
//! `plan` is a function of the pod and the settings alone. Whoever may ask, and whether the
//! pod asks, was decided before; a pod that already has a sidecar is left as it is.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, Volume, VolumeMount};

use super::{
    annotations::wants_components,
    app_id::{BadAppId, SidecarAppId},
    components::{self, Additions},
    flags::{HTTP_PORT, SOCKETS_PATH},
    options::Options,
    settings::{Settings, TokenVolume},
    sidecar::{self, CONTAINER_NAME, Surroundings, is_native, plain},
    volumes::{self, COMPONENT_SOCKETS_VOLUME, SOCKETS_VOLUME, mount},
};

/// What is to be done to a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// It has a sidecar already.
    Leave,
    /// It gets one.
    Inject(Box<Injection>),
}

/// A sidecar and everything it brings along.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// The app id, a label.
    pub app_id: SidecarAppId,
    /// Whether metrics are on, a label.
    pub metrics: bool,
    /// The sidecar.
    pub container: Container,
    /// Among which containers it goes.
    pub place: Place,
    /// Volumes the pod gets, if it has none of that name.
    pub volumes: Vec<Volume>,
    /// Variables of every application container.
    pub app_env: Vec<EnvVar>,
    /// A mount of every application container.
    pub app_mount: Option<VolumeMount>,
    /// Pluggable components, if there are any.
    pub components: Option<Components>,
    /// What the requester should know.
    pub warnings: Vec<String>,
}

/// Among which containers the sidecar goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `spec.containers`.
    Containers,
    /// `spec.initContainers`, restarted for as long as the pod lives.
    InitContainers,
}

/// Pluggable components of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Components {
    /// The volume with their sockets.
    pub volume: Volume,
    /// Where it is mounted.
    pub mount: VolumeMount,
    /// The variable that says so.
    pub env: EnvVar,
    /// Which of the pod's own containers are components.
    pub names: BTreeSet<String>,
    /// Containers added for Component resources.
    pub additions: Additions,
}

/// Why a pod cannot get the sidecar it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificate could ever be issued, no Service could exist.
    #[error(transparent)]
    AppId(#[from] BadAppId),
}

/// Whether the plan for `pod` depends on the Component resources of its namespace.
pub fn needs_components(pod: &Pod) -> bool {
    wants_components(pod) && !has_sidecar(pod) && SidecarAppId::of(pod).is_ok()
}

/// Decides what is to be done to `pod`.
pub fn plan(pod: &Pod, settings: &Settings<'_>) -> Result<Plan, Refusal> {
    if has_sidecar(pod) {
        return Ok(Plan::Leave);
    }
    let app_id = SidecarAppId::of(pod)?;
    let (options, mut warnings) = Options::of(pod);
    clashing_ports(&options, &mut warnings);
    let components = plan_components(pod, &app_id, &options, settings, &mut warnings);
    let mut volumes = Vec::new();
    let mut mounts = volumes::annotated_mounts(pod, &options.container, &mut warnings);
    if options.api.socket_path.is_some() {
        volumes.push(volumes::sockets_volume());
        mounts.push(mount(SOCKETS_VOLUME, SOCKETS_PATH));
    }
    if settings.token_volume == TokenVolume::Project {
        volumes.push(volumes::token_volume(&settings.install.sentry_id));
        mounts.push(volumes::token_mount());
    }
    let component_mount = components.as_ref().map(|components| &components.mount);
    let around = Surroundings { pod, app_id: &app_id, mounts, component_mount };
    let container = sidecar::container(&options, settings, around, &mut warnings);
    let native = is_native(&options, settings.install);
    Ok(Plan::Inject(Box::new(Injection {
        metrics: options.signals.metrics,
        container,
        place: if native { Place::InitContainers } else { Place::Containers },
        volumes,
        app_env: app_environment(&options),
        app_mount: options.api.socket_path.as_deref().map(|path| mount(SOCKETS_VOLUME, path)),
        components,
        app_id,
        warnings,
    })))
}

/// Whether a container or init container is the sidecar already.
pub fn has_sidecar(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.any(|container| container.name == CONTAINER_NAME)
}

fn app_environment(options: &Options) -> Vec<EnvVar> {
    let mut env = vec![
        plain("DAPR_HTTP_PORT", &HTTP_PORT.to_string()),
        plain("DAPR_GRPC_PORT", &options.api.grpc_port.to_string()),
    ];
    env.extend(options.app_protocol().map(|protocol| plain("APP_PROTOCOL", protocol)));
    env
}

fn plan_components(
    pod: &Pod,
    app_id: &SidecarAppId,
    options: &Options,
    settings: &Settings<'_>,
    warnings: &mut Vec<String>,
) -> Option<Components> {
    let declared: BTreeSet<String> = options.components.names.split(',').map(str::to_owned).collect();
    let own = pod.spec.iter().flat_map(|spec| &spec.containers);
    let named = own.filter(|container| declared.contains(&container.name)).count();
    let injected = if options.components.inject {
        components::injectable(app_id, settings.components, warnings)
    } else {
        Vec::new()
    };
    if named == 0 && injected.is_empty() {
        return None;
    }
    let folder = options.components.sockets_folder.as_deref().unwrap_or(&settings.install.sockets_folder);
    Some(Components {
        volume: volumes::empty_dir(COMPONENT_SOCKETS_VOLUME),
        mount: mount(COMPONENT_SOCKETS_VOLUME, folder),
        env: plain(sidecar::SOCKETS_FOLDER_ENV, folder),
        names: declared,
        additions: components::additions(pod, injected, folder, warnings),
    })
}

/// Two listeners on one port of the pod: one of them will not start.
fn clashing_ports(options: &Options, warnings: &mut Vec<String>) {
    let sidecar = [
        (HTTP_PORT, "the sidecar's HTTP port"),
        (super::flags::PUBLIC_PORT, "the sidecar's public port"),
        (options.api.grpc_port, "dapr.io/grpc-port"),
        (options.api.internal_grpc_port, "dapr.io/internal-grpc-port"),
        (options.signals.metrics_port, "dapr.io/metrics-port"),
        (options.app.port, "dapr.io/app-port"),
    ];
    for (at, (port, name)) in sidecar.iter().enumerate() {
        if let Some((_, other)) = sidecar[..at].iter().find(|(taken, _)| taken == port && *port > 0) {
            warnings.push(format!("{name} and {other} are both {port}: one of them cannot listen"));
        }
    }
}
