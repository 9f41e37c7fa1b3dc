//! The command line and the environment, from text to settings.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Parser};
use identity::{
    AppId, Namespace,
    workload::{Host, TokenError, TokenSource},
};
use runtime::{
    args::{HealthArgs, KubeArgs, LogArgs, MetricsArgs},
    duration::GoDuration,
};

use crate::core::watchdog::Labelling;

/// Dapr operator: serves Dapr resources to sidecars, converts Subscriptions, and gives Dapr-enabled workloads their Services.
#[derive(Debug, Clone, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "upstream's flags")]
#[command(name = "operator")]
pub struct Args {
    /// Name of the system Configuration in the operator's namespace.
    #[arg(long, value_name = "NAME", default_value = "daprsystem")]
    pub config: String,
    /// Time between two looks for pods that lack their sidecar: a duration of at least 1s, `once`, or `0` for never.
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub watch_interval: String,
    /// Pods the watchdog may delete in a minute; 0 or less means no limit.
    #[arg(long, value_name = "PODS", default_value_t = 20, allow_negative_numbers = true)]
    pub max_pod_restarts_per_minute: i32,
    /// Act as leader without asking the others.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub disable_leader_election: bool,
    /// Leave the Services of Dapr-enabled workloads alone.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub disable_service_reconciler: bool,
    /// The one namespace to list and watch; empty means all.
    #[arg(long, value_name = "NAMESPACE", default_value = "")]
    pub watch_namespace: String,
    /// Also give Argo Rollouts their Services.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub enable_argo_rollout_service_reconciler: bool,
    /// Let the watchdog label pods that have their sidecar, so that it need not look at them again.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub watchdog_can_patch_pod_labels: bool,
    /// PEM file with the trust anchors; watched for changes.
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/dapr.io/tls/ca.crt")]
    pub trust_anchors_file: PathBuf,
    /// TCP port of the gRPC API for sidecars.
    #[arg(long, value_name = "PORT", default_value_t = 6500)]
    pub port: u16,
    /// Address the gRPC API listens on; empty means all.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub listen_address: String,
    /// TCP port of the conversion webhook.
    #[arg(long, value_name = "PORT", default_value_t = 19443)]
    pub webhook_server_port: u16,
    /// Address the conversion webhook listens on; empty means all.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub webhook_server_listen_address: String,
    /// Accepted for upstream's charts. Nothing here is resynced: a change that did not happen is never sent.
    #[arg(long, value_name = "DURATION", default_value = "0", allow_hyphen_values = true)]
    pub cache_sync_period: GoDuration,
    #[command(flatten)]
    pub(crate) health: HealthArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) metrics: MetricsArgs,
    #[command(flatten)]
    pub(crate) kube: KubeArgs,
}

impl Args {
    /// How to log.
    pub fn log(&self) -> &LogArgs {
        &self.log
    }
}

/// How often the watchdog looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchdogPeriod {
    /// Never.
    Off,
    /// Until it succeeded once.
    Once,
    /// Again and again.
    Every(Duration),
}

/// What the process is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// The flags that need no reading.
    pub args: Args,
    /// The operator's namespace.
    pub namespace: Namespace,
    /// The one namespace to watch, if not all.
    pub watch_namespace: Option<Namespace>,
    /// How often the watchdog looks.
    pub watchdog: WatchdogPeriod,
    /// Whether the watchdog labels pods.
    pub labelling: Labelling,
    /// Whether the conversion webhook is on.
    pub webhooks: bool,
    /// What the operator shows sentry.
    pub token: TokenSource,
    /// The name it asks sentry for, if not its own.
    pub local_identity: Option<AppId>,
    /// Whether it may run as root.
    pub root_allowed: bool,
}

/// The command line or the environment cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable is missing.
    #[error("'{name}' environment variable not set")]
    NotSet {
        /// The variable.
        name: &'static str,
    },
    /// A variable is empty.
    #[error("'{name}' environment variable is empty")]
    Empty {
        /// The variable.
        name: &'static str,
    },
    /// A name is none.
    #[error("{origin}: {found:?} is not the name of {what}")]
    Name {
        /// The flag or variable.
        origin: &'static str,
        /// What was given.
        found: String,
        /// What it should name.
        what: &'static str,
    },
    /// The period is none.
    #[error("invalid value for watch-interval: {found:?} is none of 0, once, or a duration such as 2m")]
    Period {
        /// What was given.
        found: String,
    },
    /// The period is too short.
    #[error("invalid watch-interval value: if not '0' or 'once', must be at least 1s")]
    ShortPeriod,
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Config {
    /// Reads flags, and variables through `variable`.
    pub fn read(args: Args, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let name = "NAMESPACE";
        let namespace = match variable(name).as_deref() {
            None => return Err(ConfigError::NotSet { name }),
            Some("") => return Err(ConfigError::Empty { name }),
            Some(found) => parse_namespace(name, found)?,
        };
        let watch_namespace = match args.watch_namespace.as_str() {
            "" => None,
            found => Some(parse_namespace("--watch-namespace", found)?),
        };
        let local_identity = match variable("SENTRY_LOCAL_IDENTITY") {
            Some(found) if !found.is_empty() => Some(AppId::parse(&found).map_err(|_| ConfigError::Name {
                origin: "SENTRY_LOCAL_IDENTITY",
                found,
                what: "a workload",
            })?),
            _ => None,
        };
        let is_off = |name: &str| variable(name).is_some_and(|value| value.eq_ignore_ascii_case("false"));
        let token = TokenSource::choose(Host::Kubernetes, variable("DAPR_SENTRY_TOKEN_FILE").as_deref())?;
        Ok(Self {
            namespace,
            watch_namespace,
            watchdog: parse_period(&args.watch_interval)?,
            labelling: if args.watchdog_can_patch_pod_labels { Labelling::On } else { Labelling::Off },
            webhooks: !is_off("ENABLE_WEBHOOKS"),
            token,
            local_identity,
            root_allowed: variable("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK").as_deref() == Some("true"),
            args,
        })
    }
}

fn parse_namespace(origin: &'static str, found: &str) -> Result<Namespace, ConfigError> {
    Namespace::parse(found).map_err(|_| ConfigError::Name { origin, found: found.to_owned(), what: "a namespace" })
}

fn parse_period(text: &str) -> Result<WatchdogPeriod, ConfigError> {
    match text.to_ascii_lowercase().as_str() {
        "0" | "false" | "f" | "no" | "off" => return Ok(WatchdogPeriod::Off),
        "once" => return Ok(WatchdogPeriod::Once),
        _ => {}
    }
    let period: GoDuration = text.parse().map_err(|_| ConfigError::Period { found: text.to_owned() })?;
    match period.to_std() {
        Some(period) if period >= Duration::from_secs(1) => Ok(WatchdogPeriod::Every(period)),
        _ => Err(ConfigError::ShortPeriod),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let args = runtime::args::try_parse::<Args>("operator", flags).unwrap();
        Config::read(args, |name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const HERE: (&str, &str) = ("NAMESPACE", "dapr-system");

    #[test]
    fn the_defaults_are_upstreams() {
        let config = config(&[], &[HERE]).unwrap();
        assert_eq!((config.args.port, config.args.webhook_server_port), (6500, 19443));
        assert_eq!(config.args.config, "daprsystem");
        assert_eq!(config.watchdog, WatchdogPeriod::Off);
        assert_eq!(config.watch_namespace, None);
        assert!(config.webhooks && !config.root_allowed);
    }

    #[test]
    fn the_charts_arguments_are_accepted() {
        let flags = [
            "--watch-interval",
            "0",
            "--max-pod-restarts-per-minute",
            "20",
            "--log-level",
            "info",
            "--log-as-json",
            "--enable-metrics",
            "--metrics-port",
            "9090",
            "--trust-anchors-file",
            "/ca",
            "--watch-namespace",
            "fuse",
            "--disable-service-reconciler",
            "-watchdog-can-patch-pod-labels",
            "--enable-argo-rollout-service-reconciler=true",
            "--cache-sync-period",
            "10h",
        ];
        let config = config(&flags, &[HERE, ("ENABLE_WEBHOOKS", "False")]).unwrap();
        assert_eq!(config.watch_namespace.unwrap().as_str(), "fuse");
        assert_eq!(config.labelling, Labelling::On);
        assert!(!config.webhooks && config.args.disable_service_reconciler);
    }

    #[test]
    fn the_watchdogs_period_is_off_once_or_at_least_a_second() {
        let period = |text: &str| config(&["--watch-interval", text], &[HERE]).map(|config| config.watchdog);
        for off in ["0", "False", "f", "NO", "off"] {
            assert_eq!(period(off).unwrap(), WatchdogPeriod::Off);
        }
        assert_eq!(period("Once").unwrap(), WatchdogPeriod::Once);
        assert_eq!(period("2m").unwrap(), WatchdogPeriod::Every(Duration::from_mins(2)));
        assert!(matches!(period("500ms"), Err(ConfigError::ShortPeriod)));
        assert!(matches!(period("often"), Err(ConfigError::Period { .. })));
    }

    #[test]
    fn a_missing_and_an_empty_namespace_are_told_apart() {
        assert!(matches!(config(&[], &[]), Err(ConfigError::NotSet { .. })));
        assert!(matches!(config(&[], &[("NAMESPACE", "")]), Err(ConfigError::Empty { .. })));
    }
}
