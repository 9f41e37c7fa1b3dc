//! Flags and environment, upstream's names and defaults (placement.md §10), turned into a [`Config`].

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use identity::workload::{AnchorSource, Host, TokenError, TokenSource, WorkloadOptions};
use identity::{ControlPlaneService, Namespace, SpiffeId, TrustDomain};
use runtime::args::LogArgs;
use runtime::duration::GoDuration;

use crate::core::{Limits, SILENCE, Settings};
use crate::hub::HubOptions;
use crate::raft::{Members, ReplicaOptions};

/// Upstream's default of `--metrics-listen-address`, which it ignores.
const ANY: &str = "0.0.0.0";
/// What keepalive flags accept.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Actor placement: tells every sidecar which hosts run which actor types.
#[derive(Clone, Debug, Parser)]
#[command(name = "placement")]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Args {
    /// Name of this node among the raft peers.
    #[arg(long, value_name = "ID", default_value = "dapr-placement-0")]
    pub id: String,
    /// Raft peers as id=host:port, comma separated or repeated.
    #[arg(long, value_name = "ID=ADDRESS", default_value = "dapr-placement-0=127.0.0.1:8201")]
    pub initial_cluster: Vec<String>,
    /// Ids of members that are gone for good: whoever leads and has this flag removes them.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub former_members: Vec<String>,
    /// Accepted for compatibility: without --raft-logstore-path the log is in memory.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub inmem_store_enabled: bool,
    /// Folder for the raft log; empty keeps it in memory.
    #[arg(long, value_name = "FOLDER", default_value = "")]
    pub raft_logstore_path: String,
    /// TCP port of the gRPC server.
    #[arg(long, value_name = "PORT", default_value_t = 50005)]
    pub port: u16,
    /// Address of the gRPC server and of the metrics endpoint; empty means all.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub listen_address: String,
    /// TCP port of the health endpoint.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub healthz_port: u16,
    /// Accepted for compatibility: the health endpoint listens on all addresses.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub healthz_listen_address: String,
    /// Serve and require mTLS on the gRPC and raft ports.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub tls_enabled: bool,
    /// Serve /placement/state on the health port.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub metadata_enabled: bool,
    /// Virtual nodes per host on the sidecars' hash rings.
    #[arg(long = "replicationFactor", value_name = "COUNT", default_value_t = 100)]
    pub replication_factor: i64,
    /// Time without traffic before a PING is sent; 1s to 10s.
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub keepalive_time: GoDuration,
    /// Time to wait for the answer to a PING; 1s to 10s.
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    pub keepalive_timeout: GoDuration,
    /// How long a sidecar may take to install a table; one that takes longer loses its stream.
    #[arg(long, value_name = "DURATION", default_value = "8s")]
    pub disseminate_timeout: GoDuration,
    /// Time after a round in which changes are collected for the next; 0s adapts to the load.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub disseminate_coalesce_window: GoDuration,
    /// How long a host keeps its place in the table after the replica that carried its stream was lost.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub disseminate_hold: GoDuration,
    /// Trust domain of the control plane.
    #[arg(long, value_name = "DOMAIN", default_value = "localhost")]
    pub trust_domain: String,
    /// File with the trust anchors.
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/dapr.io/tls/ca.crt")]
    pub trust_anchors_file: PathBuf,
    /// Address of sentry; by default the one in placement's own namespace.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub sentry_address: String,
    /// standalone or kubernetes.
    #[arg(long, value_name = "MODE", default_value = "standalone")]
    pub mode: String,
    /// Deprecated, no effect.
    #[arg(long, hide = true)]
    pub max_api_level: Option<i32>,
    /// Deprecated, no effect.
    #[arg(long, hide = true)]
    pub min_api_level: Option<i32>,
    /// TCP port of the metrics endpoint.
    #[arg(long, value_name = "PORT", default_value_t = 9090)]
    pub metrics_port: u16,
    /// Accepted for compatibility: metrics listen on --listen-address.
    #[arg(long, value_name = "ADDRESS", default_value = ANY)]
    pub metrics_listen_address: String,
    /// Serve Prometheus metrics.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub enable_metrics: bool,
    /// Log flags.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What of the environment matters.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `NAMESPACE`.
    pub namespace: Option<String>,
    /// `DAPR_PLACEMENT_METADATA_ENABLED`.
    pub metadata_enabled: Option<String>,
    /// `DAPR_SENTRY_TOKEN_FILE`.
    pub token_file: Option<String>,
    /// `SENTRY_LOCAL_IDENTITY`.
    pub local_identity: Option<String>,
    /// `DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK`.
    pub skip_uid_check: Option<String>,
    /// The effective user is root.
    pub is_root: bool,
}

impl Environment {
    /// The process's own.
    pub fn read() -> Self {
        let var = |name| std::env::var(name).ok();
        Self {
            namespace: var("NAMESPACE"),
            metadata_enabled: var("DAPR_PLACEMENT_METADATA_ENABLED"),
            token_file: var("DAPR_SENTRY_TOKEN_FILE"),
            local_identity: var("SENTRY_LOCAL_IDENTITY"),
            skip_uid_check: var("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK"),
            is_root: runtime::is_root(),
        }
    }
}

/// A flag's value cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Out of bounds; upstream's text.
    #[error("invalid value for {flag}: value should be between 1s and 10s, got {value}")]
    Keepalive {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: GoDuration,
    },
    /// A negative duration.
    #[error("invalid value for {flag}: {value} is negative")]
    Negative {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: GoDuration,
    },
    /// Rings need virtual nodes.
    #[error("invalid value for replicationFactor: value should be above 0, got {value}")]
    ReplicationFactor {
        /// What was given.
        value: i64,
    },
    /// A name cannot be used.
    #[error("invalid value for {flag}: {value:?}")]
    Name {
        /// The flag or variable.
        flag: &'static str,
        /// What was given.
        value: String,
        /// Why.
        #[source]
        source: identity::NameError,
    },
    /// The mode is unknown.
    #[error("invalid value for mode: value should be standalone or kubernetes, got {value:?}")]
    Mode {
        /// What was given.
        value: String,
    },
    /// Upstream refuses to run as root in Kubernetes.
    #[error("current user is root; run as another user, or set DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK=true")]
    Root,
    /// The sentry token's file.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Past this point there is no string to parse and no default to guess.
#[derive(Clone, Debug)]
pub struct Config {
    /// gRPC address.
    pub listen_address: String,
    /// gRPC port.
    pub port: u16,
    /// Health port.
    pub healthz_port: u16,
    /// Metrics port; nothing when disabled.
    pub metrics_port: Option<u16>,
    /// Serve the state.
    pub metadata_enabled: bool,
    /// PING interval and the wait for its answer.
    pub keepalive: (Duration, Duration),
    /// Rounds.
    pub hub: HubOptions,
    /// Raft.
    pub replica: ReplicaOptions,
    /// `--former-members`.
    pub former_members: Vec<String>,
    /// How to obtain the identity; nothing in plaintext.
    pub workload: Option<WorkloadOptions>,
}

impl Args {
    /// Turns flags into a configuration.
    pub fn into_config(self, environment: &Environment) -> Result<Config, ConfigError> {
        self.warn_of_ignored();
        let namespace = environment.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let namespace = Namespace::parse(namespace).map_err(|source| ConfigError::Name {
            flag: "NAMESPACE",
            value: namespace.to_owned(),
            source,
        })?;
        let trust_domain = TrustDomain::parse(&self.trust_domain).map_err(|source| ConfigError::Name {
            flag: "trust-domain",
            value: self.trust_domain.clone(),
            source,
        })?;
        let host = self.host(environment)?;
        let workload = self.workload(environment, host, (&trust_domain, &namespace))?;
        let identity = SpiffeId::control_plane(trust_domain, namespace, ControlPlaneService::Placement);
        let log_path = Some(PathBuf::from(&self.raft_logstore_path)).filter(|p| !p.as_os_str().is_empty());
        Ok(Config {
            keepalive: (
                keepalive("keepalive-time", self.keepalive_time)?,
                keepalive("keepalive-timeout", self.keepalive_timeout)?,
            ),
            hub: self.hub()?,
            replica: ReplicaOptions { id: self.id, members: members(&self.initial_cluster), log_path, identity },
            former_members: self.former_members,
            workload,
            metadata_enabled: self.metadata_enabled || is_truthy(environment.metadata_enabled.as_deref()),
            listen_address: self.listen_address,
            port: self.port,
            healthz_port: self.healthz_port,
            metrics_port: self.enable_metrics.then_some(self.metrics_port),
        })
    }

    fn host(&self, environment: &Environment) -> Result<Host, ConfigError> {
        match self.mode.as_str() {
            "kubernetes" if environment.is_root && environment.skip_uid_check.as_deref() != Some("true") => {
                Err(ConfigError::Root)
            }
            "kubernetes" => Ok(Host::Kubernetes),
            "standalone" | "" => Ok(Host::Standalone),
            other => Err(ConfigError::Mode { value: other.to_owned() }),
        }
    }

    fn workload(
        &self,
        environment: &Environment,
        host: Host,
        place: (&TrustDomain, &Namespace),
    ) -> Result<Option<WorkloadOptions>, ConfigError> {
        if !self.tls_enabled {
            return Ok(None);
        }
        let token = TokenSource::choose(host, environment.token_file.as_deref())?;
        let (trust_domain, namespace) = place;
        let sentry = match self.sentry_address.as_str() {
            "" => format!("dapr-sentry.{}.svc:443", namespace.as_str()),
            given => given.to_owned(),
        };
        let mut options = WorkloadOptions::control_plane(
            ControlPlaneService::Placement,
            trust_domain.clone(),
            namespace.clone(),
            sentry,
            (AnchorSource::File(self.trust_anchors_file.clone()), token),
        );
        if let Some(id) = environment.local_identity.as_deref().filter(|id| !id.is_empty()) {
            options.app_id = identity::AppId::parse(id).map_err(|source| ConfigError::Name {
                flag: "SENTRY_LOCAL_IDENTITY",
                value: id.to_owned(),
                source,
            })?;
        }
        Ok(Some(options))
    }

    fn hub(&self) -> Result<HubOptions, ConfigError> {
        if self.replication_factor <= 0 {
            return Err(ConfigError::ReplicationFactor { value: self.replication_factor });
        }
        let limits = Limits::with_disseminate(positive("disseminate-timeout", self.disseminate_timeout)?);
        let coalesce_window = positive("disseminate-coalesce-window", self.disseminate_coalesce_window)?;
        // Another replica may carry streams on for so long without being heard (RULINGS 18).
        let hold = positive("disseminate-hold", self.disseminate_hold)? + SILENCE;
        Ok(HubOptions {
            settings: Settings { limits, coalesce_window, hold },
            replication_factor: self.replication_factor,
        })
    }

    fn warn_of_ignored(&self) {
        if !self.healthz_listen_address.is_empty() {
            tracing::warn!("--healthz-listen-address has no effect: the health endpoint listens on all addresses");
        }
        if self.metrics_listen_address != ANY {
            tracing::warn!("--metrics-listen-address has no effect: metrics listen on --listen-address");
        }
        if self.max_api_level.is_some() || self.min_api_level.is_some() {
            tracing::warn!("--max-api-level and --min-api-level are deprecated and have no effect");
        }
        if !self.inmem_store_enabled && self.raft_logstore_path.is_empty() {
            tracing::warn!("--inmem-store-enabled=false has no effect without --raft-logstore-path");
        }
    }
}

fn positive(flag: &'static str, value: GoDuration) -> Result<Duration, ConfigError> {
    value.to_std().ok_or(ConfigError::Negative { flag, value })
}

fn keepalive(flag: &'static str, value: GoDuration) -> Result<Duration, ConfigError> {
    let within = value.to_std().filter(|d| (KEEPALIVE.0..=KEEPALIVE.1).contains(d));
    within.ok_or(ConfigError::Keepalive { flag, value })
}

/// Entries that do not split into exactly two parts on `=` are dropped, as upstream does.
fn members(flags: &[String]) -> Members {
    let entries = flags.iter().flat_map(|flag| flag.split(','));
    entries
        .filter_map(|entry| {
            let (id, address) = entry.split_once('=')?;
            (!address.contains('=')).then(|| (id.trim().to_owned(), address.trim().to_owned()))
        })
        .collect()
}

fn is_truthy(value: Option<&str>) -> bool {
    let value = value.unwrap_or_default().to_ascii_lowercase();
    ["y", "yes", "true", "t", "on", "1"].contains(&value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Args {
        runtime::args::try_parse("placement", arguments).expect("these arguments are valid")
    }

    fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
        parsed(arguments).into_config(&Environment::default())
    }

    #[test]
    fn the_command_is_well_formed() {
        runtime::args::command::<Args>("placement").debug_assert();
    }

    #[test]
    fn without_flags_it_is_a_plaintext_single_node() {
        let config = config(&[]).unwrap();
        assert_eq!((config.port, config.healthz_port, config.metrics_port), (50005, 8080, Some(9090)));
        assert_eq!(config.keepalive, (Duration::from_secs(2), Duration::from_secs(3)));
        assert_eq!(config.hub.replication_factor, 100);
        let hold = Duration::from_secs(36);
        assert_eq!(config.hub.settings, Settings { hold, ..Settings::default() });
        assert_eq!(config.replica.members, Members::from([("dapr-placement-0".into(), "127.0.0.1:8201".into())]));
        assert_eq!(config.replica.log_path, None);
        assert!(config.workload.is_none());
        assert!(!config.metadata_enabled);
    }

    #[test]
    fn keepalive_is_bound_with_upstreams_text() {
        assert_eq!(
            config(&["--keepalive-time=0.5s"]).unwrap_err().to_string(),
            "invalid value for keepalive-time: value should be between 1s and 10s, got 500ms"
        );
        assert_eq!(
            config(&["--keepalive-timeout", "11s"]).unwrap_err().to_string(),
            "invalid value for keepalive-timeout: value should be between 1s and 10s, got 11s"
        );
        assert!(config(&["-keepalive-time", "1s", "-keepalive-timeout=10s"]).is_ok());
    }

    #[test]
    fn malformed_peers_are_dropped_and_several_flags_merge() {
        let config = config(&["--id=p1", "--initial-cluster=p1=a:1, p2 = b:2 ,bad,x=y=z", "--initial-cluster=p3=c:3"]);
        let members = config.unwrap().replica.members;
        let expected = [("p1", "a:1"), ("p2", "b:2"), ("p3", "c:3")].map(|(id, at)| (id.to_owned(), at.to_owned()));
        assert_eq!(members, Members::from(expected));
    }

    #[test]
    fn the_charts_arguments_are_accepted() {
        let rendered = [
            "--id",
            "dapr-placement-server-0",
            "--initial-cluster",
            "dapr-placement-server-0=dapr-placement-server-0.dapr-placement-server.dapr-system.svc.cluster.local:8201",
            "--raft-logstore-path",
            "/var/run/dapr/raft-log/cluster-v2-nonroot-dapr-placement-server-0",
            "--log-level",
            "info",
            "--metadata-enabled",
            "--replicationFactor=100",
            "--max-api-level=10",
            "--min-api-level=0",
            "--keepalive-time=2s",
            "--keepalive-timeout=3s",
            "--disseminate-timeout=8s",
            "--disseminate-coalesce-window=0s",
            "--enable-metrics",
            "--metrics-port",
            "9090",
            "--tls-enabled",
            "--trust-domain=cluster.local",
            "--trust-anchors-file=/var/run/secrets/dapr.io/tls/ca.crt",
            "--sentry-address=dapr-sentry.dapr-system.svc.cluster.local:443",
            "--mode=kubernetes",
        ];
        let environment = Environment { namespace: Some("dapr-system".into()), ..Environment::default() };
        let config = parsed(&rendered).into_config(&environment).unwrap();
        assert_eq!(config.replica.identity.to_string(), "spiffe://cluster.local/ns/dapr-system/dapr-placement");
        assert!(config.workload.is_some() && config.metadata_enabled);
    }

    #[test]
    fn root_is_refused_in_kubernetes_unless_told_otherwise() {
        let mut environment = Environment { is_root: true, ..Environment::default() };
        let run = |e: &Environment| parsed(&["--mode=kubernetes"]).into_config(e);
        assert!(matches!(run(&environment), Err(ConfigError::Root)));
        environment.skip_uid_check = Some("true".into());
        assert!(run(&environment).is_ok());
    }

    #[test]
    fn metadata_can_be_enabled_by_environment() {
        for (value, enabled) in [("Yes", true), ("ON", true), ("1", true), ("false", false), ("", false)] {
            let environment = Environment { metadata_enabled: Some(value.into()), ..Environment::default() };
            assert_eq!(parsed(&[]).into_config(&environment).unwrap().metadata_enabled, enabled, "{value:?}");
        }
    }
}
