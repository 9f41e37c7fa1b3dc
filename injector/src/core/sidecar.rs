//! The `daprd` container: everything about it except where it is put.

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector, Pod, Probe,
        SeccompProfile, SecretKeySelector, SecurityContext, TCPSocketAction, Toleration, VolumeMount,
        WindowsSecurityContextOptions,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    app_id::SidecarAppId,
    env_list,
    flags::{self, CommandLine, HTTP_PORT, PUBLIC_PORT},
    options::{Options, ProbeTimes},
    resources::resources,
    settings::{Install, Settings},
};

/// The name that everything recognises the sidecar by.
pub const CONTAINER_NAME: &str = "daprd";
/// Tells daprd, and component containers, where component sockets are.
pub const SOCKETS_FOLDER_ENV: &str = "DAPR_COMPONENT_SOCKETS_FOLDER";

/// What the plan decided that the container needs to know.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The pod being admitted.
    pub pod: &'a Pod,
    /// Its app id.
    pub app_id: &'a SidecarAppId,
    /// The mounts of the sidecar, without the one for component sockets.
    pub mounts: Vec<VolumeMount>,
    /// The mount for component sockets, if there are components.
    pub component_mount: Option<&'a VolumeMount>,
}

/// Builds the container.
pub fn container(
    options: &Options,
    settings: &Settings<'_>,
    around: Surroundings<'_>,
    warnings: &mut Vec<String>,
) -> Container {
    let install = settings.install;
    let (command, args) = command_and_args(options, settings, &around);
    let mut env = environment(options, settings, warnings);
    let security = security_context(options, install, &env);
    let mut mounts = around.mounts;
    if let Some(mount) = around.component_mount {
        env.push(plain(SOCKETS_FOLDER_ENV, &mount.mount_path));
        mounts.push(mount.clone());
    }
    env.extend(token(options.container.api_token_secret.as_deref(), "DAPR_API_TOKEN"));
    env.extend(token(options.container.app_token_secret.as_deref(), "APP_API_TOKEN"));
    let native = is_native(options, install);
    let image = options.container.image.as_deref().unwrap_or(&install.image);
    Container {
        name: CONTAINER_NAME.to_owned(),
        image: (!image.is_empty()).then(|| image.to_owned()),
        image_pull_policy: Some(install.pull_policy.as_str().to_owned()),
        command,
        args: Some(args),
        ports: Some(ports(options)),
        env: Some(env),
        resources: Some(resources(&options.container, install.default_resources.as_ref(), warnings)),
        volume_mounts: (!mounts.is_empty()).then_some(mounts),
        liveness_probe: Some(liveness(options.lifecycle.liveness)),
        readiness_probe: Some(readiness(options.lifecycle.readiness)),
        security_context: Some(security),
        restart_policy: native.then(|| "Always".to_owned()),
        ..Container::default()
    }
}

/// Whether the sidecar becomes a restartable init container.
pub fn is_native(options: &Options, install: &Install) -> bool {
    options.container.native.unwrap_or(install.native_sidecar)
}

/// A variable with a plain value; as in upstream's encoding, an empty one is left out.
pub fn plain(name: &str, value: &str) -> EnvVar {
    let value = (!value.is_empty()).then(|| value.to_owned());
    EnvVar { name: name.to_owned(), value, value_from: None }
}

fn command_and_args(
    options: &Options,
    settings: &Settings<'_>,
    around: &Surroundings<'_>,
) -> (Option<Vec<String>>, Vec<String>) {
    let CommandLine { binary, flags } = flags::command_line(around.app_id, options, settings);
    let tolerations = around.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref());
    let binary = binary.to_owned();
    if tolerates_any(&settings.install.entrypoint_tolerations, tolerations.unwrap_or_default()) {
        (Some(vec![binary]), flags)
    } else {
        // The image's own entry point stays in force; the binary is its first argument.
        (None, std::iter::once(binary).chain(flags).collect())
    }
}

fn tolerates_any(wanted: &[Toleration], found: &[Toleration]) -> bool {
    wanted.iter().any(|wanted| found.iter().any(|found| same_toleration(wanted, found)))
}

/// Equal in every field, where absent text equals empty text. A duration never equals one.
fn same_toleration(a: &Toleration, b: &Toleration) -> bool {
    let texts =
        |t: &Toleration| [&t.key, &t.operator, &t.value, &t.effect].map(|text| text.clone().unwrap_or_default());
    texts(a) == texts(b) && a.toleration_seconds.is_none() && b.toleration_seconds.is_none()
}

fn ports(options: &Options) -> Vec<ContainerPort> {
    let port = |name: &str, number| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        ..ContainerPort::default()
    };
    let mut ports = vec![
        port("dapr-http", HTTP_PORT),
        port("dapr-grpc", options.api.grpc_port),
        port("dapr-internal", options.api.internal_grpc_port),
        port("dapr-metrics", options.signals.metrics_port),
    ];
    ports.extend(options.container.debug_port.map(|number| port("dapr-debug", number)));
    ports
}

/// Rows 1 to 9 of the sidecar's environment, in order; later ones win.
fn environment(options: &Options, settings: &Settings<'_>, warnings: &mut Vec<String>) -> Vec<EnvVar> {
    let install = settings.install;
    let mut env = vec![
        plain("NAMESPACE", settings.namespace),
        plain("DAPR_TRUST_ANCHORS", settings.trust_anchors),
        from_field("POD_NAME", "metadata.name"),
        plain("DAPR_CONTROLPLANE_NAMESPACE", &install.namespace),
        plain("DAPR_CONTROLPLANE_TRUST_DOMAIN", &install.trust_domain),
    ];
    if install.downward_apis {
        env.push(from_field("DAPR_HOST_IP", "status.podIP"));
    }
    let plain_entries = env_list::entries(&options.container.env);
    let secret_entries = env_list::entries(&options.container.env_from_secret);
    for entry in &plain_entries {
        env.push(plain(entry.name, entry.value));
    }
    for entry in &secret_entries {
        match env_list::secret_source(entry.value) {
            Some(source) => env.push(from_secret(entry.name, source.secret, source.key)),
            None => warnings.push(format!(
                "dapr.io/env-from-secret: {:?} is not secret:key, so {} is not set",
                entry.value, entry.name
            )),
        }
    }
    let names: Vec<&str> = plain_entries.iter().chain(&secret_entries).map(|e| e.name).collect();
    if !names.is_empty() {
        env.push(plain("DAPR_ENV_KEYS", &names.join(" ")));
    }
    env
}

fn from_field(name: &str, path: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector { field_path: path.to_owned(), api_version: None };
    let source = EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

fn from_secret(name: &str, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), ..SecretKeySelector::default() };
    let source = EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

fn token(secret: Option<&str>, name: &str) -> Option<EnvVar> {
    secret.map(|secret| from_secret(name, secret, "token"))
}

fn security_context(options: &Options, install: &Install, env: &[EnvVar]) -> SecurityContext {
    let fixed = &install.security;
    let mut context = SecurityContext {
        allow_privilege_escalation: Some(false),
        run_as_non_root: Some(fixed.run_as_non_root),
        read_only_root_filesystem: Some(fixed.read_only_root_filesystem),
        run_as_user: fixed.run_as_user,
        run_as_group: fixed.run_as_group,
        ..SecurityContext::default()
    };
    context.seccomp_profile = options
        .container
        .seccomp_profile
        .as_ref()
        .map(|profile| SeccompProfile { type_: profile.clone(), localhost_profile: None });
    if fixed.drop_all_capabilities {
        context.capabilities = Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None });
    }
    if env.iter().any(|variable| variable.name == "SSL_CERT_DIR") {
        // Installing certificates on Windows takes an administrator; whether the node runs
        // Windows cannot be known here.
        context.windows_options = Some(WindowsSecurityContextOptions {
            run_as_user_name: Some("ContainerAdministrator".to_owned()),
            ..WindowsSecurityContextOptions::default()
        });
        context.run_as_non_root = Some(false);
        context.read_only_root_filesystem = Some(false);
        context.run_as_user = None;
        context.run_as_group = None;
    }
    context
}

fn liveness(times: ProbeTimes) -> Probe {
    let tcp_socket = TCPSocketAction { port: IntOrString::Int(PUBLIC_PORT), host: None };
    Probe { tcp_socket: Some(tcp_socket), ..probe(times) }
}

fn readiness(times: ProbeTimes) -> Probe {
    let http_get = HTTPGetAction {
        path: Some("/v1.0/healthz".to_owned()),
        port: IntOrString::Int(PUBLIC_PORT),
        ..HTTPGetAction::default()
    };
    Probe { http_get: Some(http_get), ..probe(times) }
}

/// A zero is left out: Kubernetes then applies its own default.
fn probe(times: ProbeTimes) -> Probe {
    let set = |value: i32| (value != 0).then_some(value);
    Probe {
        initial_delay_seconds: set(times.delay_seconds),
        timeout_seconds: set(times.timeout_seconds),
        period_seconds: set(times.period_seconds),
        failure_threshold: set(times.threshold),
        ..Probe::default()
    }
}
