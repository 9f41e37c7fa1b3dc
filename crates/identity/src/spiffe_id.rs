//! Dapr's SPIFFE ID: `spiffe://<trust domain>/ns/<namespace>/<app id>`.
//!
//! `parse` accepts exactly that shape. `parse_peer` is the rule servers apply to the name
//! in a client's certificate, which tolerates further path segments (contract sentry.md §2).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{AppId, Namespace, SpiffeUri, TrustDomain, control_plane::ControlPlaneService, spiffe_uri::NameError};

/// The name of one workload.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Namespace,
    app_id: AppId,
}

/// A peer's name is no valid Dapr identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed SPIFFE ID: {id}")]
pub struct MalformedPeer {
    /// The name as presented.
    pub id: String,
}

impl SpiffeId {
    /// Puts a name together.
    pub fn new(trust_domain: TrustDomain, namespace: Namespace, app_id: AppId) -> Self {
        Self { trust_domain, namespace, app_id }
    }

    /// The name of a control-plane service: sentry's is what every client expects of it.
    pub fn control_plane(trust_domain: TrustDomain, namespace: Namespace, service: ControlPlaneService) -> Self {
        Self::new(trust_domain, namespace, service.app_id())
    }

    /// The name of sentry, which is also the audience of the tokens shown to it.
    pub fn sentry(trust_domain: TrustDomain, namespace: Namespace) -> Self {
        Self::control_plane(trust_domain, namespace, ControlPlaneService::Sentry)
    }

    /// Reads exactly `spiffe://<trust domain>/ns/<namespace>/<app id>`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let uri = SpiffeUri::parse(text)?;
        match segments(&uri) {
            Some((namespace, app_id, None)) => Ok(Self::of(&uri, namespace, app_id)),
            _ => Err(NameError::Shape),
        }
    }

    /// Reads a peer's name, tolerating segments after the app id.
    pub fn parse_peer(text: &str) -> Result<Self, MalformedPeer> {
        SpiffeUri::parse(text)
            .ok()
            .and_then(|uri| Self::from_peer(&uri))
            .ok_or_else(|| MalformedPeer { id: text.to_owned() })
    }

    /// The Dapr identity in a peer's valid SPIFFE ID, if it has one.
    pub(crate) fn from_peer(uri: &SpiffeUri) -> Option<Self> {
        let (namespace, app_id, _further) = segments(uri)?;
        Some(Self::of(uri, namespace, app_id))
    }

    /// Whether a certificate's ID is exactly this identity, with nothing after the app id.
    pub fn is_exactly(&self, uri: &SpiffeUri) -> bool {
        matches!(segments(uri), Some((_, _, None))) && Self::from_peer(uri).as_ref() == Some(self)
    }

    fn of(uri: &SpiffeUri, namespace: &str, app_id: &str) -> Self {
        Self {
            trust_domain: uri.trust_domain().clone(),
            namespace: Namespace::from_legal(namespace),
            app_id: AppId::from_legal(app_id),
        }
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The app id.
    pub fn app_id(&self) -> &AppId {
        &self.app_id
    }
}

/// Namespace, app id and whatever follows, of a path that begins with `/ns/`.
fn segments(uri: &SpiffeUri) -> Option<(&str, &str, Option<&str>)> {
    let mut rest = uri.path().strip_prefix("/ns/")?.splitn(3, '/');
    Some((rest.next()?, rest.next()?, rest.next()))
}

impl FromStr for SpiffeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, namespace, app_id } = self;
        write!(f, "spiffe://{trust_domain}/ns/{namespace}/{app_id}")
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
