//! What a caller asks for, the checks every validator begins with (contract §4.1), and every
//! reason for which a caller is refused.

use identity::{AppId, Namespace, SpiffeId, TrustDomain};

use super::{
    csr::CsrError,
    dns_names::{Home, dns_names},
    keys::PublicKey,
};

/// The parts of a request that name an identity.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The app id wanted.
    pub app_id: &'a str,
    /// The namespace wanted.
    pub namespace: &'a str,
    /// The trust domain wanted, empty for the default.
    pub trust_domain: &'a str,
    /// The CSR.
    pub csr: &'a [u8],
}

/// Why a caller does not get the identity it asked for; texts as upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Parts of the request are missing or too long.
    #[error("invalid request: {0}")]
    InvalidRequest(String),
    /// The trust domain wanted is no trust domain.
    #[error("{0}")]
    TrustDomain(String),
    /// The API server refused to review the token.
    #[error("token review failed: {0}")]
    ReviewRefused(String),
    /// The API server found the token faulty.
    #[error("invalid token: {0}")]
    InvalidToken(String),
    /// The API server does not know the token.
    #[error("authentication failed")]
    Unauthenticated,
    /// The token is not a service account's.
    #[error("provided token is not a properly structured service account token")]
    NotAServiceAccount,
    /// The token's claims cannot be read.
    #[error("failed to parse Kubernetes token: {0}")]
    UnreadableToken(String),
    /// The token is bound to no pod.
    #[error("kubernetes.io/pod/name claim is missing from Kubernetes token")]
    NoPodClaim,
    /// The token's pod does not exist.
    #[error("failed to get pod of identity")]
    NoSuchPod,
    /// The token is of another namespace than the one asked for.
    #[error("namespace mismatch; received namespace: {0}")]
    Namespace(String),
    /// The pod runs under another service account than the token's.
    #[error("pod service account mismatch")]
    ServiceAccount,
    /// A control-plane annotation outside the control plane's namespace.
    #[error("control plane service in namespace '{0}' is not allowed")]
    ControlPlaneNamespace(String),
    /// A control-plane annotation with a value nobody knows.
    #[error("unknown control plane service '{0}'")]
    UnknownControlPlane(String),
    /// A control-plane pod that also wants to be an application.
    #[error("control plane service '{0}' cannot have annotation 'dapr.io/app-id'")]
    ControlPlaneWithAppId(String),
    /// The pod is another application than the one asked for.
    #[error("app-id mismatch. expected: {expected}, received: {received}")]
    AppId {
        /// What the pod is.
        expected: String,
        /// What was asked for.
        received: String,
    },
    /// The pod names a Configuration that does not exist.
    #[error("failed to get configuration")]
    NoSuchConfiguration,
    /// The pod's Configuration holds no valid trust domain.
    #[error("failed to parse trust domain {found:?}: {reason}")]
    ConfiguredTrustDomain {
        /// What it holds.
        found: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A token is needed and there is none.
    #[error("the request does not contain a token")]
    NoToken,
    /// The token does not stand up to its key set.
    #[error("token validation failed: {0}")]
    Token(String),
}

impl Refusal {
    /// The reason code of the audit log and the metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "invalid_request",
            Self::TrustDomain(_) | Self::ConfiguredTrustDomain { .. } => "trust_domain",
            Self::ReviewRefused(_) | Self::InvalidToken(_) | Self::Unauthenticated | Self::Token(_) => "token",
            Self::NoToken => "no_token",
            Self::NotAServiceAccount | Self::UnreadableToken(_) | Self::NoPodClaim => "token_form",
            Self::NoSuchPod => "no_pod",
            Self::Namespace(_) => "namespace",
            Self::ServiceAccount => "service_account",
            Self::ControlPlaneNamespace(_) | Self::UnknownControlPlane(_) | Self::ControlPlaneWithAppId(_) => {
                "control_plane"
            }
            Self::AppId { .. } => "app_id",
            Self::NoSuchConfiguration => "no_configuration",
        }
    }
}

/// Bytes of the longest app id.
const MAX_APP_ID_BYTES: usize = 64;

/// The checks common to all validators. Returns the trust domain asked for.
pub fn check(asked: &Asked<'_>) -> Result<TrustDomain, Refusal> {
    let faults: Vec<&str> = [
        (asked.app_id.is_empty(), "parameter app-id cannot be empty"),
        (asked.app_id.contains('.'), "parameter app-id cannot contain dots"),
        (asked.app_id.len() > MAX_APP_ID_BYTES, "app ID must be 64 characters or less"),
        (asked.csr.is_empty(), "CSR is required"),
        (asked.namespace.is_empty(), "namespace is required"),
    ]
    .into_iter()
    .filter_map(|(fault, text)| fault.then_some(text))
    .collect();
    if !faults.is_empty() {
        return Err(Refusal::InvalidRequest(faults.join("\n")));
    }
    if asked.trust_domain.is_empty() {
        return Ok(TrustDomain::public());
    }
    TrustDomain::parse(asked.trust_domain).map_err(|error| Refusal::TrustDomain(error.to_string()))
}

/// Who a caller was found to be, for the signer and for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The trust domain its certificate is for.
    pub trust_domain: TrustDomain,
    /// Its service account, where a validator knows one.
    pub service_account: Option<String>,
    /// Its pod, where a validator knows one.
    pub pod: Option<String>,
}

/// A certificate that may be signed. Only [`approve`] makes one.
#[derive(Debug)]
pub struct Approved {
    id: SpiffeId,
    dns: Vec<String>,
    key: PublicKey,
}

impl Approved {
    /// The identity.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The DNS names that go with it.
    pub fn dns(&self) -> &[String] {
        &self.dns
    }

    /// The caller's key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// Why an authenticated caller gets no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApproveError {
    /// Its CSR is refused.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// App id or namespace cannot stand in a SPIFFE ID.
    #[error("{namespace:?}/{app_id:?} cannot be a SPIFFE path: {reason}")]
    Name {
        /// The namespace.
        namespace: String,
        /// The app id.
        app_id: String,
        /// What is wrong.
        reason: String,
    },
}

/// Approves the identity that a validator confirmed, for the key in the CSR.
pub fn approve(asked: &Asked<'_>, caller: &Caller, home: &Home) -> Result<Approved, ApproveError> {
    let key = super::csr::read(asked.csr)?;
    let name = |error: identity::NameError| ApproveError::Name {
        namespace: asked.namespace.into(),
        app_id: asked.app_id.into(),
        reason: error.to_string(),
    };
    let namespace = Namespace::parse(asked.namespace).map_err(name)?;
    let app_id = AppId::parse(asked.app_id).map_err(name)?;
    Ok(Approved {
        dns: dns_names(home, asked.namespace, asked.app_id),
        id: SpiffeId::new(caller.trust_domain.clone(), namespace, app_id),
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'static> = Asked { app_id: "app", namespace: "ns", trust_domain: "", csr: b"csr" };

    #[test]
    fn all_violated_common_checks_are_reported_together() {
        let long = "a.".repeat(33);
        let asked = Asked { app_id: &long, namespace: "", trust_domain: "ok", csr: b"" };
        assert_eq!(
            check(&asked).unwrap_err().to_string(),
            "invalid request: parameter app-id cannot contain dots\n\
             app ID must be 64 characters or less\nCSR is required\nnamespace is required"
        );
        let asked = Asked { app_id: "", ..ASKED };
        assert_eq!(check(&asked).unwrap_err().to_string(), "invalid request: parameter app-id cannot be empty");
    }

    #[test]
    fn an_app_id_of_64_bytes_is_accepted_and_one_of_65_is_not() {
        assert!(check(&Asked { app_id: &"a".repeat(64), ..ASKED }).is_ok());
        assert!(check(&Asked { app_id: &"a".repeat(65), ..ASKED }).is_err());
        assert!(check(&Asked { app_id: &"ä".repeat(33), ..ASKED }).is_err());
    }

    #[test]
    fn an_invalid_trust_domain_gives_the_bare_spiffe_error() {
        assert_eq!(
            check(&Asked { trust_domain: "a!b", ..ASKED }).unwrap_err().to_string(),
            "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
        );
    }

    #[test]
    fn the_trust_domain_is_public_when_none_is_sent() {
        assert_eq!(check(&ASKED).unwrap(), TrustDomain::public());
        assert_eq!(check(&Asked { trust_domain: "td", ..ASKED }).unwrap().as_str(), "td");
    }
}
