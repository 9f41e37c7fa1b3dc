//! What is the same for every pod of this installation, and what one request adds to it.

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};

use super::components::ComponentResource;

/// Everything `plan` may know besides the pod.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// What this installation of the control plane fixes.
    pub install: &'a Install,
    /// The namespace the pod is created in.
    pub namespace: &'a str,
    /// The trust anchors in force, PEM, verbatim.
    pub trust_anchors: &'a str,
    /// Whether sidecars talk mTLS to each other.
    pub mtls: Mtls,
    /// Whether a token volume makes sense here.
    pub token_volume: TokenVolume,
    /// The Component resources of the pod's namespace; empty unless the pod asks for them.
    pub components: &'a [ComponentResource],
}

/// Whether sidecars talk mTLS to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtls {
    /// The default, also when the system Configuration cannot be read.
    On,
    /// Only after an explicit `spec.mtls.enabled: false`.
    Off,
}

/// Whether sidecars get a volume with a token for sentry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenVolume {
    /// The injector itself was given a token, so this is a cluster.
    Project,
    /// No token in sight.
    Leave,
}

/// What this installation of the control plane fixes for every sidecar.
#[derive(Debug, Clone)]
pub struct Install {
    /// The namespace of the control plane.
    pub namespace: String,
    /// The trust domain of the control plane.
    pub trust_domain: String,
    /// Sentry's SPIFFE ID, the audience of sidecar tokens.
    pub sentry_id: String,
    /// The DNS domain of the cluster.
    pub cluster_domain: String,
    /// The image of the sidecar.
    pub image: String,
    /// How the image is pulled.
    pub pull_policy: PullPolicy,
    /// Which service hosts actors.
    pub actors: Actors,
    /// `name:address` of a reminders service.
    pub reminders: Option<String>,
    /// Whether sidecars are told of the scheduler.
    pub scheduler: bool,
    /// The sidecar's security context.
    pub security: Security,
    /// Whether `DAPR_HOST_IP` is set.
    pub downward_apis: bool,
    /// Whether sidecars are native ones unless their pod says otherwise.
    pub native_sidecar: bool,
    /// Tolerations that make the sidecar's command explicit.
    pub entrypoint_tolerations: Vec<Toleration>,
    /// Resources of sidecars whose pods ask for none.
    pub default_resources: Option<ResourceRequirements>,
    /// Where component sockets are mounted unless the pod says otherwise.
    pub sockets_folder: String,
}

/// When the sidecar's image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// Never.
    Never,
    /// When the node lacks it.
    IfNotPresent,
}

impl PullPolicy {
    /// Kubernetes' word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::Never => "Never",
            Self::IfNotPresent => "IfNotPresent",
        }
    }
}

impl From<&str> for PullPolicy {
    /// Anything unknown, and nothing, means `IfNotPresent`.
    fn from(text: &str) -> Self {
        match text {
            "Always" => Self::Always,
            "Never" => Self::Never,
            _ => Self::IfNotPresent,
        }
    }
}

/// Which service hosts actors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actors {
    /// None, unless a pod names a placement address itself.
    Off,
    /// Placement, at this address.
    Placement(String),
    /// Another one, as `name:address`.
    Other(String),
}

/// The parts of the security context that an installation fixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Security {
    /// `runAsNonRoot`.
    pub run_as_non_root: bool,
    /// `readOnlyRootFilesystem`.
    pub read_only_root_filesystem: bool,
    /// `runAsUser`.
    pub run_as_user: Option<i64>,
    /// `runAsGroup`.
    pub run_as_group: Option<i64>,
    /// `capabilities.drop: [ALL]`.
    pub drop_all_capabilities: bool,
}

impl Install {
    /// The address of a control-plane service: `<name>.<namespace>.svc.<domain>:<port>`.
    pub fn service(&self, name: &str, port: u32) -> String {
        format!("{name}.{}.svc.{}:{port}", self.namespace, self.cluster_domain)
    }
}
