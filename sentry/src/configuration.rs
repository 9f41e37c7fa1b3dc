//! The Configuration resource, of which sentry reads `spec.mtls` (contract §9): from the API
//! server, or in standalone mode from a YAML file.

use std::{path::Path, time::Duration};

use kube::{
    Client,
    core::{Request, params::GetParams},
};
use runtime::duration::GoDuration;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use crate::core::validity::{LifetimeError, Lifetimes};
use crate::keeper::chain;

/// Charts install sentry before its Configuration: Helm applies kinds it does not know last.
const WAIT_LIMIT: Duration = Duration::from_secs(20);
/// The pause between two looks.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// An API server that does not answer by then is asked again.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no Configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// `NAMESPACE` is needed.
    #[error("failed to load configuration: environment variable NAMESPACE must be set and not empty")]
    NoNamespace,
    /// It does not exist.
    #[error("config CRD not found: configuration {namespace}/{name} does not exist")]
    NotFound {
        /// Where it was looked for.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The API server did not give it.
    #[error("failed to load configuration {name}")]
    Api {
        /// Its name.
        name: String,
        /// The API client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server does not answer.
    #[error("failed to load configuration {name}: the API server did not answer within {REQUEST_LIMIT:?}")]
    Silent {
        /// Its name.
        name: String,
    },
    /// The file cannot be read.
    #[error("failed to read configuration file {path}")]
    File {
        /// Its path.
        path: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The file is no Configuration.
    #[error("failed to parse configuration file {path}")]
    Yaml {
        /// Its path.
        path: String,
        /// Where parsing stopped.
        #[source]
        source: serde_yaml::Error,
    },
    /// A duration is no duration.
    #[error("error parsing {field} duration: {reason}")]
    Duration {
        /// Which.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A duration is out of range.
    #[error(transparent)]
    Lifetimes(#[from] LifetimeError),
    /// A validator that cannot be configured.
    #[error(
        "invalid token validator: the built-in 'kubernetes' and 'insecure' validators cannot be configured manually"
    )]
    BuiltInValidator,
    /// A validator nobody knows.
    #[error("invalid token validator name: '{0}'; supported values: 'jwks'")]
    UnknownValidator(String),
}

#[derive(Debug, Default, Deserialize)]
struct Resource {
    #[serde(default)]
    spec: Option<Spec>,
}

#[derive(Debug, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    mtls: Option<Mtls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mtls {
    #[serde(default, rename = "workloadCertTTL")]
    workload_cert_ttl: Option<String>,
    #[serde(default)]
    allowed_clock_skew: Option<String>,
    #[serde(default)]
    token_validators: Option<Vec<TokenValidator>>,
}

#[derive(Debug, Deserialize)]
struct TokenValidator {
    #[serde(default)]
    name: String,
    #[serde(default)]
    options: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What sentry takes from the Configuration.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// How long certificates live.
    pub lifetimes: Lifetimes,
    /// The options of each `jwks` validator, by lower-case name.
    pub jwks: Vec<Vec<(String, String)>>,
}

/// Reads the Configuration `name` in `namespace`, waiting for it up to a limit.
pub async fn from_cluster(client: &Client, namespace: &str, name: &str) -> Result<Settings, ConfigurationError> {
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        let silent = |_elapsed| ConfigurationError::Silent { name: name.into() };
        let found = timeout(REQUEST_LIMIT, get(client, namespace, name)).await.map_err(silent).flatten();
        match found {
            Ok(resource) => return settings(resource),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the Configuration cannot be had yet, waiting for it");
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

async fn get(client: &Client, namespace: &str, name: &str) -> Result<Resource, ConfigurationError> {
    let failed = |source| ConfigurationError::Api { name: name.into(), source: Box::new(source) };
    let path = format!("/apis/dapr.io/v1alpha1/namespaces/{namespace}/configurations");
    let request = Request::new(path)
        .get(name, &GetParams::default())
        .map_err(|error| failed(kube::Error::BuildRequest(error)))?;
    client.request(request).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 404 => {
            ConfigurationError::NotFound { namespace: namespace.into(), name: name.into() }
        }
        error => failed(error),
    })
}

/// Reads a YAML file, with the variables of `environment` filled in. An empty file means
/// defaults.
pub async fn from_file(
    path: &Path,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Settings, ConfigurationError> {
    let shown = || path.display().to_string();
    let text =
        tokio::fs::read_to_string(path).await.map_err(|source| ConfigurationError::File { path: shown(), source })?;
    from_yaml(&expand(&text, environment)).map_err(|source| ConfigurationError::Yaml { path: shown(), source })?
}

fn from_yaml(text: &str) -> Result<Result<Settings, ConfigurationError>, serde_yaml::Error> {
    let resource: Option<Resource> = serde_yaml::from_str(text)?;
    Ok(settings(resource.unwrap_or_default()))
}

fn settings(resource: Resource) -> Result<Settings, ConfigurationError> {
    let mtls = resource.spec.and_then(|spec| spec.mtls).unwrap_or_default();
    let default = Lifetimes::default();
    let ttl = duration("WorkloadCertTTL", mtls.workload_cert_ttl.as_deref(), default.ttl())?;
    let skew = duration("AllowedClockSkew", mtls.allowed_clock_skew.as_deref(), default.skew())?;
    let mut jwks = Vec::new();
    for validator in mtls.token_validators.unwrap_or_default() {
        match validator.name.to_lowercase().as_str() {
            "jwks" => jwks.push(options(validator.options.unwrap_or_default())),
            "kubernetes" | "insecure" => return Err(ConfigurationError::BuiltInValidator),
            _ => return Err(ConfigurationError::UnknownValidator(validator.name)),
        }
    }
    Ok(Settings { lifetimes: Lifetimes::try_new(ttl, skew)?, jwks })
}

fn options(options: serde_json::Map<String, serde_json::Value>) -> Vec<(String, String)> {
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    options.into_iter().map(|(name, value)| (name.to_lowercase(), text(value))).collect()
}

fn duration(field: &'static str, text: Option<&str>, default: Duration) -> Result<Duration, ConfigurationError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(default);
    };
    let parsed: GoDuration = text.parse().map_err(|error: runtime::duration::ParseDurationError| {
        ConfigurationError::Duration { field, reason: error.to_string() }
    })?;
    parsed.to_std().ok_or_else(|| ConfigurationError::Duration { field, reason: format!("{text} is negative") })
}

/// Fills in `$NAME` and `${NAME}` as Go's `os.ExpandEnv` does: unknown names become empty.
fn expand(text: &str, environment: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if let Some((name, tail)) = after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            expanded.push_str(&environment(name).unwrap_or_default());
            rest = tail;
        } else {
            let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
            if end == 0 {
                expanded.push('$');
            } else {
                expanded.push_str(&environment(&after[..end]).unwrap_or_default());
            }
            rest = &after[end..];
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, ConfigurationError> {
        from_yaml(text).unwrap()
    }

    #[test]
    fn an_empty_standalone_config_file_is_accepted() {
        let settings = read("").unwrap();
        assert_eq!(settings.lifetimes, Lifetimes::default());
        assert!(settings.jwks.is_empty());
    }

    #[test]
    fn lifetimes_and_validators_are_read() {
        let settings = read(
            "spec:\n  mtls:\n    enabled: true\n    workloadCertTTL: 1h\n    allowedClockSkew: 5m\n    tokenValidators:\n    - name: JWKS\n      options: {Source: '{}', minRefreshInterval: 10}\n",
        )
        .unwrap();
        assert_eq!(settings.lifetimes.ttl(), Duration::from_hours(1));
        assert_eq!(settings.jwks[0][0], ("source".to_owned(), "{}".to_owned()));
        assert_eq!(settings.jwks[0][1], ("minrefreshinterval".to_owned(), "10".to_owned()));
    }

    #[test]
    fn bad_durations_are_refused_with_the_fields_name() {
        for (text, expected) in [
            ("workloadCertTTL: soon", "error parsing WorkloadCertTTL duration"),
            ("workloadCertTTL: 0s", "spec.mtls.workloadCertTTL"),
            ("workloadCertTTL: -1h", "error parsing WorkloadCertTTL duration"),
            ("allowedClockSkew: 1000h", "spec.mtls.allowedClockSkew"),
        ] {
            let error = read(&format!("spec: {{mtls: {{{text}}}}}")).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn built_in_and_unknown_validators_are_refused() {
        let error = |name: &str| {
            read(&format!("spec: {{mtls: {{tokenValidators: [{{name: {name}}}]}}}}")).unwrap_err().to_string()
        };
        assert!(error("kubernetes").contains("cannot be configured manually"));
        assert_eq!(error("unknown"), "invalid token validator name: 'unknown'; supported values: 'jwks'");
    }

    #[test]
    fn variables_are_filled_in_as_go_does() {
        let environment = |name: &str| (name == "TTL").then(|| "1h".to_owned());
        assert_eq!(expand("a $TTL ${TTL} $NONE. $", environment), "a 1h 1h . $");
    }
}
