//! The system Configuration, read once at start: which trust domain, which sentry.
//!
//! It may not exist yet while a chart is being installed, so it is waited for, up to a limit;
//! then the process ends with upstream's error.

use std::time::Duration;

use identity::TrustDomain;
use kube::{Api, Client};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{core::api_kind::ApiKind, raw_object::RawObject, watches::api_of};

/// Charts install the operator before the Configuration: Helm applies kinds it does not know
/// last, and first waits for nothing.
const WAIT_LIMIT: Duration = Duration::from_mins(2);
/// The pause between two looks.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// An API server that does not answer by then is asked again.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// What the system Configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// The control plane's trust domain.
    pub trust_domain: TrustDomain,
    /// Where sentry is.
    pub sentry_address: String,
}

/// The system Configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// It cannot be had.
    #[error("unable to load configuration, config: {name}, err: {reason}")]
    Load {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// It names no trust domain.
    #[error("control plane trust domain is required: Configuration {name}, field spec.mtls.controlPlaneTrustDomain")]
    NoTrustDomain {
        /// Its name.
        name: String,
    },
    /// It names what is no trust domain.
    #[error("Configuration {name}, field spec.mtls.controlPlaneTrustDomain: {found:?} is not a trust domain")]
    TrustDomain {
        /// Its name.
        name: String,
        /// What it names.
        found: String,
    },
}

#[derive(Default, Deserialize)]
struct Stored {
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    mtls: Mtls,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mtls {
    control_plane_trust_domain: String,
    sentry_address: String,
}

/// Reads Configuration `name` in `namespace`, waiting for it.
pub async fn load(client: Client, namespace: &str, name: &str) -> Result<System, SystemError> {
    let api = api_of(client, ApiKind::Configuration, Some(namespace));
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        let reason = match get(&api, name).await {
            Ok(found) => return read(name, found.json()),
            Err(reason) => reason,
        };
        if Instant::now() >= deadline {
            return Err(SystemError::Load { name: name.to_owned(), reason });
        }
        tracing::warn!(config = name, reason, "system Configuration not there yet, waiting for it");
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

async fn get(api: &Api<RawObject>, name: &str) -> Result<RawObject, String> {
    match tokio::time::timeout(REQUEST_LIMIT, api.get(name)).await {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(elapsed) => Err(elapsed.to_string()),
    }
}

fn read(name: &str, json: &str) -> Result<System, SystemError> {
    let Stored { spec } = serde_json::from_str(json)
        .map_err(|error| SystemError::Load { name: name.to_owned(), reason: error.to_string() })?;
    let found = spec.mtls.control_plane_trust_domain;
    let name = name.to_owned();
    if found.is_empty() {
        return Err(SystemError::NoTrustDomain { name });
    }
    match TrustDomain::parse(&found) {
        Ok(trust_domain) => Ok(System { trust_domain, sentry_address: spec.mtls.sentry_address }),
        Err(_) => Err(SystemError::TrustDomain { name, found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_domain_and_sentry_come_from_the_mtls_section() {
        let json = r#"{"spec":{"mtls":{"enabled":true,"controlPlaneTrustDomain":"td","sentryAddress":"s:443"}}}"#;
        let system = read("daprsystem", json).unwrap();
        assert_eq!((system.trust_domain.as_str(), system.sentry_address.as_str()), ("td", "s:443"));
    }

    #[test]
    fn a_missing_mtls_section_is_an_error_and_no_crash() {
        assert!(matches!(read("daprsystem", r#"{"spec":{}}"#), Err(SystemError::NoTrustDomain { .. })));
        assert!(matches!(read("daprsystem", r#"{"spec":{"mtls":5}}"#), Err(SystemError::Load { .. })));
    }
}
