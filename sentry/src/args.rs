//! Command line of sentry, and the configuration it becomes.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Parser};
use identity::{NameError, Namespace, SpiffeId, TrustDomain};
use runtime::{
    args::{HealthArgs, KubeArgs, LogArgs, MetricsArgs},
    duration::GoDuration,
};

use crate::{
    core::{
        jwt::{Algorithm, UnknownAlgorithm},
        oidc::url_fault,
    },
    store::ItemNames,
};

/// The certificate authority of the Dapr control plane.
#[derive(Debug, Clone, Parser)]
#[command(name = "sentry")]
pub struct Args {
    /// Name of the Configuration to read or, in standalone mode, path of its YAML file.
    #[arg(long, default_value = "daprsystem")]
    pub config: String,
    /// Directory of the issuer's credentials (standalone mode).
    #[arg(long, default_value = "/var/run/secrets/dapr.io/credentials")]
    pub issuer_credentials: PathBuf,
    /// File name, or key of the Secret, of the trust anchors.
    #[arg(long, default_value = "ca.crt")]
    pub issuer_ca_filename: String,
    /// File name, or key of the Secret, of the issuer certificate chain.
    #[arg(long, default_value = "issuer.crt")]
    pub issuer_certificate_filename: String,
    /// File name, or key of the Secret, of the issuer's private key.
    #[arg(long, default_value = "issuer.key")]
    pub issuer_key_filename: String,
    /// Trust domain of the control plane.
    #[arg(long, default_value = "localhost")]
    pub trust_domain: String,
    /// Port of the gRPC server.
    #[arg(long, default_value_t = 50_001)]
    pub port: u16,
    /// Address the gRPC server listens on; empty for all.
    #[arg(long, default_value = "")]
    pub listen_address: String,
    /// Where sentry runs: standalone or kubernetes.
    #[arg(long, default_value = "standalone")]
    pub mode: String,
    /// See there.
    #[command(flatten)]
    pub rotation: RotationArgs,
    /// See there.
    #[command(flatten)]
    pub jwt: JwtArgs,
    /// See there.
    #[command(flatten)]
    pub oidc: OidcArgs,
    /// See there.
    #[command(flatten)]
    pub log: LogArgs,
    /// See there.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// See there.
    #[command(flatten)]
    pub health: HealthArgs,
    /// See there.
    #[command(flatten)]
    pub kube: KubeArgs,
}

/// The change of the root.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Root rotation")]
pub struct RotationArgs {
    /// How long before its end a CA that sentry made is replaced; 0s for never. Never more than
    /// a third of its life.
    #[arg(long, default_value = "2160h")]
    pub root_rotation_before: GoDuration,
    /// The time a change gets to reach every replica, the injector and the control plane.
    #[arg(long, default_value = "10m")]
    pub root_rotation_settle: GoDuration,
}

/// JWT-SVIDs.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "JWT")]
pub struct JwtArgs {
    /// Issue JWT-SVIDs.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub jwt_enabled: bool,
    /// Absolute path, or key of the Secret, of the JWT signing key.
    #[arg(long, default_value = "jwt.key")]
    pub jwt_key_filename: String,
    /// Absolute path, or key of the Secret, of the JWKS.
    #[arg(long, default_value = "jwks.json")]
    pub jwks_filename: String,
    /// Issuer of the tokens; unset for none.
    #[arg(long)]
    pub jwt_issuer: Option<String>,
    /// Signature algorithm of the tokens.
    #[arg(long, default_value = "RS256")]
    pub jwt_signing_algorithm: String,
    /// Key id of the tokens; unset for the key's thumbprint.
    #[arg(long)]
    pub jwt_key_id: Option<String>,
    /// How long tokens are valid.
    #[arg(long, default_value = "24h")]
    pub jwt_ttl: GoDuration,
}

/// The OIDC discovery server.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "OIDC")]
pub struct OidcArgs {
    /// Serve OIDC discovery and the JWKS over HTTP (needs --jwt-enabled).
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub oidc_enabled: bool,
    /// Port of the OIDC server.
    #[arg(long, default_value_t = 9080)]
    pub oidc_server_listen_port: u16,
    /// Address the OIDC server listens on.
    #[arg(long, default_value = "localhost")]
    pub oidc_server_listen_address: String,
    /// Serve OIDC over TLS.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub oidc_server_tls_enabled: bool,
    /// Certificate of the OIDC server.
    #[arg(long)]
    pub oidc_server_tls_cert_file: Option<PathBuf>,
    /// Key of the OIDC server.
    #[arg(long)]
    pub oidc_server_tls_key_file: Option<PathBuf>,
    /// JWKS address in the discovery document; unset to derive it.
    #[arg(long)]
    pub oidc_jwks_uri: Option<String>,
    /// Prefix of all OIDC paths.
    #[arg(long, default_value = "")]
    pub oidc_path_prefix: String,
    /// Hosts that may be asked for; empty for any.
    #[arg(long, value_delimiter = ',')]
    pub oidc_allowed_hosts: Vec<String>,
}

/// A flag or variable that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// `--mode`.
    #[error("Invalid options: invalid mode: {0}; allowed are standalone and kubernetes")]
    Mode(String),
    /// `--trust-domain`.
    #[error("--trust-domain {found:?}: {source}")]
    TrustDomain {
        /// The value.
        found: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// `NAMESPACE`.
    #[error("NAMESPACE {found:?}: {source}")]
    Namespace {
        /// The value.
        found: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// `--jwt-signing-algorithm`.
    #[error("--jwt-signing-algorithm: {0}")]
    Algorithm(#[from] UnknownAlgorithm),
    /// `--jwt-ttl`.
    #[error("--jwt-ttl is {0}, allowed is 1s to 87600h")]
    JwtTtl(GoDuration),
    /// One of the two times of the root's rotation.
    #[error("{flag} is {found}, allowed is {allowed}")]
    Rotation {
        /// The flag.
        flag: &'static str,
        /// The value.
        found: GoDuration,
        /// What makes sense.
        allowed: &'static str,
    },
    /// `--jwt-issuer` without `--jwt-enabled`.
    #[error("Invalid options: jwt-issuer cannot be set when jwt-enabled is false")]
    IssuerWithoutJwt,
    /// An OIDC TLS file is missing.
    #[error(
        "Invalid options: {0} is required when OIDC HTTP server is enabled (unless oidc-server-tls-enabled is false)"
    )]
    OidcTlsFile(&'static str),
    /// `--jwt-issuer` or `--oidc-jwks-uri` where discovery needs an URL.
    #[error("{flag} {found:?}: {fault}")]
    Url {
        /// The flag.
        flag: &'static str,
        /// The value.
        found: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Only one of the two OIDC TLS files.
    #[error("Invalid options: both OIDC TLS certificate and key must be provided if one is specified")]
    OidcTlsHalf,
}

/// Where sentry runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// With files, without Kubernetes.
    Standalone,
    /// In a cluster.
    Kubernetes,
}

/// When the root is changed, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationConfig {
    /// How long before its end; 0 for never.
    pub before: i64,
    /// The time a change gets to reach everybody.
    pub settle: i64,
}

/// How tokens are issued.
#[derive(Debug, Clone)]
pub struct JwtConfig {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The issuer claim, if any.
    pub issuer: Option<String>,
    /// The key id, if configured.
    pub key_id: Option<String>,
    /// Seconds a token is valid.
    pub ttl: i64,
}

/// The OIDC server.
#[derive(Debug, Clone)]
pub struct OidcConfig {
    /// Address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Fixed JWKS address.
    pub jwks_uri: Option<String>,
    /// Path prefix, without a trailing slash.
    pub path_prefix: String,
    /// Allowed hosts.
    pub allowed_hosts: Vec<String>,
}

/// Everything sentry runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it runs.
    pub mode: Mode,
    /// Configuration resource or file.
    pub configuration: String,
    /// The namespace variable is set and not empty, as reading the Configuration needs.
    pub namespace_is_set: bool,
    /// Its own name: trust domain and namespace of the control plane.
    pub sentry: SpiffeId,
    /// Directory of the files (standalone).
    pub credentials: PathBuf,
    /// Names of the items.
    pub names: ItemNames,
    /// Address of the gRPC server.
    pub address: String,
    /// Port of the gRPC server.
    pub port: u16,
    /// The change of the root.
    pub rotation: RotationConfig,
    /// Tokens, if issued.
    pub jwt: Option<JwtConfig>,
    /// OIDC server, if it runs.
    pub oidc: Option<OidcConfig>,
    /// Metrics endpoint.
    pub metrics: MetricsArgs,
    /// Health endpoint.
    pub health: HealthArgs,
    /// API server.
    pub kube: KubeArgs,
}

impl Args {
    /// Checks the flags, with the value of `NAMESPACE`.
    pub fn into_config(self, namespace: Option<String>) -> Result<Config, ArgsError> {
        let mode = match self.mode.as_str() {
            "standalone" => Mode::Standalone,
            "kubernetes" => Mode::Kubernetes,
            other => return Err(ArgsError::Mode(other.into())),
        };
        let trust_domain = TrustDomain::parse(&self.trust_domain)
            .map_err(|source| ArgsError::TrustDomain { found: self.trust_domain.clone(), source })?;
        let namespace_is_set = namespace.as_deref().is_some_and(|namespace| !namespace.is_empty());
        let found = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".into());
        let namespace = Namespace::parse(&found).map_err(|source| ArgsError::Namespace { found, source })?;
        let names = self.names(mode);
        let rotation = self.rotation.config()?;
        let jwt = self.jwt.into_config()?;
        let oidc = self.oidc.into_config(jwt.is_some())?;
        if let (Some(jwt), Some(oidc)) = (&jwt, &oidc) {
            check_url("--jwt-issuer", jwt.issuer.as_deref())?;
            check_url("--oidc-jwks-uri", oidc.jwks_uri.as_deref())?;
        }
        Ok(Config {
            mode,
            configuration: if self.config.is_empty() { "daprsystem".into() } else { self.config },
            namespace_is_set,
            sentry: SpiffeId::sentry(trust_domain, namespace),
            credentials: self.issuer_credentials,
            names,
            address: self.listen_address,
            port: self.port,
            rotation,
            jwt,
            oidc,
            metrics: self.metrics,
            health: self.health,
            kube: self.kube,
        })
    }

    /// Of the JWT names only absolute ones count, as upstream (contract §6.1).
    fn names(&self, mode: Mode) -> ItemNames {
        let absolute = |name: &str, default: &str| {
            if Path::new(name).is_absolute() { name.to_owned() } else { default.to_owned() }
        };
        let names = ItemNames {
            anchors: self.issuer_ca_filename.clone(),
            chain: self.issuer_certificate_filename.clone(),
            key: self.issuer_key_filename.clone(),
            jwt_key: absolute(&self.jwt.jwt_key_filename, "jwt.key"),
            jwks: absolute(&self.jwt.jwks_filename, "jwks.json"),
        };
        match mode {
            Mode::Standalone => names,
            Mode::Kubernetes => ItemNames {
                anchors: base_name(&names.anchors),
                chain: base_name(&names.chain),
                key: base_name(&names.key),
                jwt_key: base_name(&names.jwt_key),
                jwks: base_name(&names.jwks),
            },
        }
    }
}

fn check_url(flag: &'static str, value: Option<&str>) -> Result<(), ArgsError> {
    let found = value.unwrap_or_default();
    url_fault(found).map_or(Ok(()), |fault| Err(ArgsError::Url { flag, found: found.into(), fault }))
}

fn base_name(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).to_owned()
}

impl RotationArgs {
    fn config(&self) -> Result<RotationConfig, ArgsError> {
        let seconds = |value: GoDuration| value.to_std().and_then(|value| i64::try_from(value.as_secs()).ok());
        let refused = |flag, found, allowed| ArgsError::Rotation { flag, found, allowed };
        let (before, settle) = (self.root_rotation_before, self.root_rotation_settle);
        Ok(RotationConfig {
            before: seconds(before)
                .filter(|seconds| *seconds <= 87_600 * 3600)
                .ok_or_else(|| refused("--root-rotation-before", before, "0s to 87600h"))?,
            settle: seconds(settle)
                .filter(|seconds| (1..=24 * 3600).contains(seconds))
                .ok_or_else(|| refused("--root-rotation-settle", settle, "1s to 24h"))?,
        })
    }
}

impl JwtArgs {
    fn into_config(self) -> Result<Option<JwtConfig>, ArgsError> {
        if !self.jwt_enabled {
            return if self.jwt_issuer.is_some() { Err(ArgsError::IssuerWithoutJwt) } else { Ok(None) };
        }
        let ttl = self
            .jwt_ttl
            .to_std()
            .and_then(|ttl| i64::try_from(ttl.as_secs()).ok())
            .filter(|ttl| (1..=87_600 * 3600).contains(ttl))
            .ok_or(ArgsError::JwtTtl(self.jwt_ttl))?;
        Ok(Some(JwtConfig {
            algorithm: self.jwt_signing_algorithm.parse()?,
            issuer: self.jwt_issuer,
            key_id: self.jwt_key_id,
            ttl,
        }))
    }
}

impl OidcArgs {
    fn into_config(self, jwt_enabled: bool) -> Result<Option<OidcConfig>, ArgsError> {
        let cert = self.oidc_server_tls_cert_file.filter(|path| !path.as_os_str().is_empty());
        let key = self.oidc_server_tls_key_file.filter(|path| !path.as_os_str().is_empty());
        if self.oidc_enabled && self.oidc_server_tls_enabled {
            if cert.is_none() {
                return Err(ArgsError::OidcTlsFile("oidc-server-tls-cert-file"));
            }
            if key.is_none() {
                return Err(ArgsError::OidcTlsFile("oidc-server-tls-key-file"));
            }
        }
        let tls = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(ArgsError::OidcTlsHalf),
        };
        if !self.oidc_enabled || !jwt_enabled {
            return Ok(None);
        }
        Ok(Some(OidcConfig {
            address: self.oidc_server_listen_address,
            port: self.oidc_server_listen_port,
            tls,
            jwks_uri: self.oidc_jwks_uri.filter(|uri| !uri.is_empty()),
            path_prefix: self.oidc_path_prefix.trim_end_matches('/').to_owned(),
            allowed_hosts: self.oidc_allowed_hosts.into_iter().filter(|host| !host.is_empty()).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str], namespace: Option<&str>) -> Result<Config, ArgsError> {
        let args: Args = runtime::args::try_parse("sentry", flags).unwrap();
        args.into_config(namespace.map(str::to_owned))
    }

    #[test]
    fn the_flags_are_consistent() {
        runtime::args::command::<Args>("sentry").debug_assert();
    }

    #[test]
    fn defaults_are_upstreams() {
        let config = config(&[], None).unwrap();
        assert_eq!(config.mode, Mode::Standalone);
        assert_eq!(config.sentry.to_string(), "spiffe://localhost/ns/default/dapr-sentry");
        assert_eq!(config.configuration, "daprsystem");
        assert_eq!(config.credentials, Path::new("/var/run/secrets/dapr.io/credentials"));
        assert_eq!((config.address.as_str(), config.port), ("", 50_001));
        assert!(config.jwt.is_none() && config.oidc.is_none());
        assert!(config.metrics.enable_metrics && config.metrics.metrics_port == 9090);
        assert_eq!(config.health.healthz_port, 8080);
    }

    #[test]
    fn every_flag_of_the_chart_is_accepted() {
        let flags = [
            "--mode",
            "kubernetes",
            "--log-level",
            "info",
            "--log-as-json",
            "--enable-metrics",
            "--metrics-port",
            "9090",
            "--trust-domain",
            "cluster.local",
            "--issuer-ca-filename",
            "ca.crt",
            "--issuer-certificate-filename",
            "issuer.crt",
            "--issuer-key-filename",
            "issuer.key",
            "--jwt-enabled=true",
            "--jwt-key-filename=jwt.key",
            "--jwks-filename=jwks.json",
            "--jwt-issuer=https://x",
            "--jwt-signing-algorithm=ES256",
            "--jwt-key-id=k",
            "--oidc-enabled=true",
            "--oidc-server-listen-address=0.0.0.0",
            "--oidc-server-tls-enabled=false",
            "--oidc-jwks-uri=https://y",
            "--oidc-path-prefix=/p/",
            "--oidc-allowed-hosts=a,b",
            "--oidc-allowed-hosts=c",
        ];
        let config = config(&flags, Some("dapr-system")).unwrap();
        assert_eq!(config.sentry.to_string(), "spiffe://cluster.local/ns/dapr-system/dapr-sentry");
        let oidc = config.oidc.unwrap();
        assert_eq!(oidc.allowed_hosts, ["a", "b", "c"]);
        assert_eq!((oidc.path_prefix.as_str(), oidc.tls), ("/p", None));
        assert_eq!(config.jwt.unwrap().algorithm.name(), "ES256");
    }

    #[test]
    fn of_the_jwt_file_names_only_absolute_ones_count() {
        let names = |mode: &str, name: &str| {
            let flags = [format!("--mode={mode}"), format!("--jwt-key-filename={name}")];
            config(&[&flags[0], &flags[1]], None).unwrap().names.jwt_key
        };
        assert_eq!(names("standalone", "other.key"), "jwt.key");
        assert_eq!(names("standalone", "/a/other.key"), "/a/other.key");
        assert_eq!(names("kubernetes", "/a/other.key"), "other.key");
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        assert!(matches!(config(&["--trust-domain=A"], None), Err(ArgsError::TrustDomain { .. })));
        assert!(matches!(config(&[], Some("a/b")), Err(ArgsError::Namespace { .. })));
        assert!(matches!(
            config(&["--jwt-enabled", "--jwt-signing-algorithm=HS256"], None),
            Err(ArgsError::Algorithm(_))
        ));
        for flag in ["--root-rotation-settle=0s", "--root-rotation-settle=25h", "--root-rotation-before=-1s"] {
            assert!(matches!(config(&[flag], None), Err(ArgsError::Rotation { .. })), "{flag}");
        }
        assert!(matches!(config(&["--jwt-enabled", "--jwt-ttl=-1s"], None), Err(ArgsError::JwtTtl(_))));
    }
}
