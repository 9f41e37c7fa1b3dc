//! Flags and environment in, a checked configuration out.
//!
//! Upstream configures the injector by both: flags say how the process runs, unprefixed
//! environment variables say what sidecars look like. Past [`Config::new`] there is no text
//! to parse and no default to guess. A variable that is set but empty counts as set.

use std::{io, path::PathBuf};

use clap::{ArgAction, Parser};
use identity::{
    AppId, NameError, Namespace, SpiffeId, TrustDomain,
    workload::{Host, TokenError, TokenSource},
};
use runtime::args::{HealthArgs, KubeArgs, LogArgs, MetricsArgs};

use crate::{
    core::{
        callers::{AccountPattern, BUILT_IN, PatternError},
        settings::{Actors, Install, PullPolicy, Security},
        values::{is_truthy, is_truthy_or_empty},
    },
    sidecar_defaults::{ResourcesError, cluster_domain, parse_resources, parse_tolerations},
};

/// Adds the Dapr sidecar to pods as they are created.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "injector",
    about,
    after_help = "What sidecars look like is set by environment variables, upstream's and without prefix: NAMESPACE and \
                  SIDECAR_IMAGE (required), SIDECAR_IMAGE_PULL_POLICY, ALLOWED_SERVICE_ACCOUNTS, NATIVE_SIDECAR_ENABLED, \
                  … docs/injector.md explains them all."
)]
pub struct Args {
    /// TCP port of the webhook.
    #[arg(long, value_name = "PORT", default_value_t = 4000)]
    pub port: u16,
    /// Address the webhook listens on; empty means all.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub listen_address: String,
    /// Tell sidecars where the scheduler is.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub scheduler_enabled: bool,
    /// Resources of sidecars whose pods ask for none, as JSON:
    /// {"requests":{"cpu":"100m"},"limits":{"memory":"256Mi"}}; empty means none.
    #[arg(long, value_name = "JSON", default_value = "")]
    pub sidecar_resources: String,
    /// Log flags.
    #[command(flatten)]
    pub log: LogArgs,
    /// Metrics flags.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// Health flags.
    #[command(flatten)]
    pub health: HealthArgs,
    /// Kubernetes flags.
    #[command(flatten)]
    pub kube: KubeArgs,
}

/// What the process was given besides its flags.
pub struct Given<'a> {
    /// Looks up an environment variable; `None` if it is not set.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Reads the resolver's configuration.
    pub resolv_conf: &'a dyn Fn() -> io::Result<String>,
}

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// How the process runs.
    pub args: Args,
    /// What every sidecar has in common.
    pub install: Install,
    /// Who may ask, besides the built-in controllers.
    pub patterns: Vec<AccountPattern>,
    /// Accounts accepted by UID too, namespace and name.
    pub accounts: Vec<(String, String)>,
    /// The file with the trust anchors.
    pub trust_anchors_file: PathBuf,
    /// Where the injector itself finds sentry.
    pub sentry_address: String,
    /// The control plane's namespace.
    pub namespace: Namespace,
    /// The control plane's trust domain.
    pub trust_domain: TrustDomain,
    /// The injector's own token.
    pub token: TokenSource,
    /// The name the injector asks sentry for, if not its own.
    pub local_identity: Option<AppId>,
    /// Whether the injector may run as root.
    pub root_allowed: bool,
    /// What was ignored or is deprecated.
    pub warnings: Vec<String>,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable that must be set is not.
    #[error("environment variable {name} is required")]
    Missing {
        /// The variable.
        name: &'static str,
    },
    /// A name is no name.
    #[error("environment variable {name}: {found:?} is not usable: {source}")]
    Name {
        /// The variable.
        name: &'static str,
        /// Its value.
        found: String,
        /// Why.
        source: NameError,
    },
    /// An address of a control-plane service is not `name:port`.
    #[error("environment variable {name}: {found:?} is not in the format <name>:<port> with a port above 0")]
    Service {
        /// The variable.
        name: &'static str,
        /// Its value.
        found: String,
    },
    /// A number is none.
    #[error("environment variable {name}: {found:?} is not an integer")]
    Integer {
        /// The variable.
        name: &'static str,
        /// Its value.
        found: String,
    },
    /// A pattern for service accounts cannot be meant.
    #[error("environment variable {name}: {source}")]
    Pattern {
        /// The variable.
        name: &'static str,
        /// Why.
        source: PatternError,
    },
    /// The default resources are not resources.
    #[error("--sidecar-resources: {0}")]
    Resources(#[from] ResourcesError),
    /// The injector's token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Config {
    /// Checks everything the process was given.
    pub fn new(args: Args, given: &Given<'_>) -> Result<Self, ConfigError> {
        let mut warnings = Vec::new();
        let read = |name: &str| (given.variable)(name);
        let namespace: Namespace = parse_name("NAMESPACE", &non_empty(given, "NAMESPACE")?)?;
        let trust_domain = read("DAPR_CONTROL_PLANE_TRUST_DOMAIN").unwrap_or("cluster.local".to_owned());
        let trust_domain: TrustDomain = parse_name("DAPR_CONTROL_PLANE_TRUST_DOMAIN", &trust_domain)?;
        let install = install(&args, given, &namespace, &trust_domain, &mut warnings)?;
        let (patterns, accounts) = allowed(given, &mut warnings)?;
        let local_identity = read("SENTRY_LOCAL_IDENTITY").filter(|id| !id.is_empty());
        Ok(Self {
            install,
            patterns,
            accounts,
            trust_anchors_file: read("DAPR_TRUST_ANCHORS_FILE")
                .unwrap_or_else(|| "/var/run/dapr.io/tls/ca.crt".to_owned())
                .into(),
            sentry_address: read("DAPR_SENTRY_ADDRESS").unwrap_or_default(),
            namespace,
            trust_domain,
            token: TokenSource::choose(Host::Kubernetes, read("DAPR_SENTRY_TOKEN_FILE").as_deref())?,
            local_identity: local_identity.map(|id| parse_name("SENTRY_LOCAL_IDENTITY", &id)).transpose()?,
            root_allowed: read("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK").as_deref() == Some("true"),
            warnings,
            args,
        })
    }
}

fn install(
    args: &Args,
    given: &Given<'_>,
    namespace: &Namespace,
    trust_domain: &TrustDomain,
    warnings: &mut Vec<String>,
) -> Result<Install, ConfigError> {
    let read = |name: &str| (given.variable)(name);
    let flag = |name: &str| is_truthy(&read(name).unwrap_or_default());
    let pull_policy = read("SIDECAR_IMAGE_PULL_POLICY");
    let mut install = Install {
        namespace: namespace.to_string(),
        trust_domain: trust_domain.to_string(),
        sentry_id: SpiffeId::sentry(trust_domain.clone(), namespace.clone()).to_string(),
        cluster_domain: cluster_domain(read("KUBE_CLUSTER_DOMAIN"), given.resolv_conf, warnings),
        image: read("SIDECAR_IMAGE").ok_or(ConfigError::Missing { name: "SIDECAR_IMAGE" })?,
        pull_policy: pull_policy.as_deref().map_or(PullPolicy::Always, PullPolicy::from),
        actors: Actors::Off,
        reminders: None,
        scheduler: args.scheduler_enabled,
        security: security(given)?,
        downward_apis: flag("ENABLE_K8S_DOWNWARD_APIS"),
        native_sidecar: flag("NATIVE_SIDECAR_ENABLED"),
        entrypoint_tolerations: parse_tolerations(&read("IGNORE_ENTRYPOINT_TOLERATIONS").unwrap_or_default(), warnings),
        default_resources: parse_resources(&args.sidecar_resources)?,
        sockets_folder: read("DAPR_COMPONENT_SOCKETS_FOLDER")
            .filter(|folder| !folder.is_empty())
            .unwrap_or_else(|| "/tmp/dapr-components-sockets".to_owned()),
    };
    install.actors = actors(given, &install)?;
    install.reminders = reminders(given, &install)?;
    Ok(install)
}

fn actors(given: &Given<'_>, install: &Install) -> Result<Actors, ConfigError> {
    let read = |name: &str| (given.variable)(name).unwrap_or_default();
    let name = read("ACTORS_SERVICE_NAME");
    let address = match name.as_str() {
        "" => install.service("dapr-placement-server", 50005),
        _ => service(given, "ACTORS_SERVICE_ADDRESS", install)?,
    };
    Ok(match name.as_str() {
        _ if !is_truthy_or_empty(&read("ACTORS_ENABLED")) => Actors::Off,
        "" | "placement" => Actors::Placement(address),
        name => Actors::Other(format!("{name}:{address}")),
    })
}

/// `default` names what the sidecar has built in, so it needs no flag.
fn reminders(given: &Given<'_>, install: &Install) -> Result<Option<String>, ConfigError> {
    let name = (given.variable)("REMINDERS_SERVICE_NAME").unwrap_or_default();
    match name.as_str() {
        "" | "default" => Ok(None),
        name => Ok(Some(format!("{name}:{}", service(given, "REMINDERS_SERVICE_ADDRESS", install)?))),
    }
}

/// The address of the service that variable `name` gives as `<name>:<port>`.
fn service(given: &Given<'_>, name: &'static str, install: &Install) -> Result<String, ConfigError> {
    let found = (given.variable)(name).unwrap_or_default();
    let parsed = found.split_once(':').and_then(|(service, port)| {
        let port: u32 = port.parse().ok().filter(|port| *port > 0)?;
        (!service.is_empty()).then(|| install.service(service, port))
    });
    parsed.ok_or(ConfigError::Service { name, found })
}

fn security(given: &Given<'_>) -> Result<Security, ConfigError> {
    let read = |name: &str| (given.variable)(name).unwrap_or_default();
    Ok(Security {
        run_as_non_root: is_truthy_or_empty(&read("SIDECAR_RUN_AS_NON_ROOT")),
        read_only_root_filesystem: is_truthy_or_empty(&read("SIDECAR_READ_ONLY_ROOT_FILESYSTEM")),
        run_as_user: integer("SIDECAR_RUN_AS_USER", &read("SIDECAR_RUN_AS_USER"))?,
        run_as_group: integer("SIDECAR_RUN_AS_GROUP", &read("SIDECAR_RUN_AS_GROUP"))?,
        drop_all_capabilities: is_truthy(&read("SIDECAR_DROP_ALL_CAPABILITIES")),
    })
}

fn integer(name: &'static str, found: &str) -> Result<Option<i64>, ConfigError> {
    if found.is_empty() {
        return Ok(None);
    }
    found.parse().map(Some).map_err(|_| ConfigError::Integer { name, found: found.to_owned() })
}

type Allowed = (Vec<AccountPattern>, Vec<(String, String)>);

fn allowed(given: &Given<'_>, warnings: &mut Vec<String>) -> Result<Allowed, ConfigError> {
    const NAMES: &str = "ALLOWED_SERVICE_ACCOUNTS";
    const PREFIXES: &str = "ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES";
    let names = (given.variable)(NAMES).unwrap_or_default();
    let prefixes = (given.variable)(PREFIXES).unwrap_or_default();
    if !prefixes.is_empty() {
        warnings.push(format!("{PREFIXES} is deprecated; {NAMES} takes the same patterns"));
    }
    let parse =
        |name, list: &str| AccountPattern::parse_list(list).map_err(|source| ConfigError::Pattern { name, source });
    let mut patterns = parse(NAMES, &names)?;
    patterns.extend(parse(PREFIXES, &prefixes)?);
    let accounts = names.split(',').chain(BUILT_IN).filter_map(|account| account.split_once(':'));
    let accounts = accounts.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).collect();
    Ok((patterns, accounts))
}

fn non_empty(given: &Given<'_>, name: &'static str) -> Result<String, ConfigError> {
    let value = (given.variable)(name).filter(|value| !value.is_empty());
    value.ok_or(ConfigError::Missing { name })
}

fn parse_name<T: std::str::FromStr<Err = NameError>>(name: &'static str, text: &str) -> Result<T, ConfigError> {
    text.parse().map_err(|source| ConfigError::Name { name, found: text.to_owned(), source })
}
