//! From a reviewed service account token and the pod it is bound to, to the one identity that
//! pod may have (contract §4.3, steps 4 to 10).

use std::str::FromStr;

use base64::Engine as _;
use identity::{ControlPlaneService, TrustDomain};
use serde::Deserialize;

use super::asked::{Asked, Refusal};

/// What the API server says about a token.
#[derive(Debug, Clone, Default)]
pub struct Review {
    /// Whether the token is good.
    pub authenticated: bool,
    /// What is wrong with it, or empty.
    pub error: String,
    /// Whose it is.
    pub username: String,
}

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceAccount {
    /// The service account a reviewed token belongs to.
    pub fn of_review(review: &Review) -> Result<Self, Refusal> {
        if !review.error.is_empty() {
            return Err(Refusal::InvalidToken(review.error.clone()));
        }
        if !review.authenticated {
            return Err(Refusal::Unauthenticated);
        }
        match review.username.split(':').collect::<Vec<_>>()[..] {
            ["system", _, namespace, name] => Ok(Self { namespace: namespace.into(), name: name.into() }),
            _ => Err(Refusal::NotAServiceAccount),
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default, rename = "kubernetes.io")]
    kubernetes: Option<KubernetesClaims>,
}

#[derive(Deserialize)]
struct KubernetesClaims {
    #[serde(default)]
    pod: Option<PodClaim>,
}

#[derive(Deserialize)]
struct PodClaim {
    #[serde(default)]
    name: String,
}

/// The pod a token is bound to, read from its claims. The review vouches for the token; a
/// bare JSON object is taken for claims as well as a compact JWS.
pub fn claimed_pod(token: &str) -> Result<String, Refusal> {
    let unreadable = |reason: String| Refusal::UnreadableToken(reason);
    let claims: Claims = if token.trim_start().starts_with('{') {
        serde_json::from_str(token)
    } else {
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(unreadable("not a compact JWS".into()));
        };
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(payload.trim_end_matches('='))
            .map_err(|error| unreadable(error.to_string()))?;
        serde_json::from_slice(&payload)
    }
    .map_err(|error| unreadable(error.to_string()))?;
    let name = claims.kubernetes.and_then(|claims| claims.pod).map_or_else(String::new, |pod| pod.name);
    if name.is_empty() {
        return Err(Refusal::NoPodClaim);
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')) {
        // No pod can have such a name, and none shall be put into a request path.
        return Err(Refusal::NoSuchPod);
    }
    Ok(name)
}

/// What sentry needs to know of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Annotation `dapr.io/app-id`.
    pub app_id: Option<String>,
    /// Annotation `dapr.io/control-plane`.
    pub control_plane: Option<String>,
    /// Annotation `dapr.io/config`.
    pub config: Option<String>,
}

/// Where an identified pod's trust domain comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Domain {
    /// The control plane's own.
    ControlPlane,
    /// `public`.
    Default,
    /// The Configuration of this name in the pod's namespace.
    Configuration(String),
}

/// Checks that `pod`, run by `account`, is what was asked for.
pub fn identify(
    pod: &Pod,
    account: &ServiceAccount,
    asked: &Asked<'_>,
    control_plane_namespace: &str,
) -> Result<Domain, Refusal> {
    if account.namespace != asked.namespace {
        return Err(Refusal::Namespace(asked.namespace.into()));
    }
    if pod.service_account != account.name {
        return Err(Refusal::ServiceAccount);
    }
    let (expected, domain) = expected_identity(pod, control_plane_namespace)?;
    if expected != asked.app_id {
        return Err(Refusal::AppId { expected, received: asked.app_id.into() });
    }
    Ok(domain)
}

fn expected_identity(pod: &Pod, control_plane_namespace: &str) -> Result<(String, Domain), Refusal> {
    if let Some(service) = &pod.control_plane {
        if pod.namespace != control_plane_namespace {
            return Err(Refusal::ControlPlaneNamespace(pod.namespace.clone()));
        }
        let Ok(service) = ControlPlaneService::from_str(service) else {
            return Err(Refusal::UnknownControlPlane(pod.name.clone()));
        };
        if pod.app_id.is_some() {
            return Err(Refusal::ControlPlaneWithAppId(pod.name.clone()));
        }
        return Ok((service.app_id_str().into(), Domain::ControlPlane));
    }
    let app_id = pod.app_id.clone().unwrap_or_else(|| pod.name.clone());
    let domain = match &pod.config {
        None => Domain::Default,
        Some(name) => Domain::Configuration(name.clone()),
    };
    Ok((app_id, domain))
}

/// The trust domain a pod's Configuration gives it.
pub fn configured_domain(configured: Option<&str>) -> Result<TrustDomain, Refusal> {
    match configured {
        None | Some("") => Ok(TrustDomain::public()),
        Some(found) => TrustDomain::parse(found)
            .map_err(|error| Refusal::ConfiguredTrustDomain { found: found.into(), reason: error.to_string() }),
    }
}
