//! What a component must say to obtain an identity. Flags and environment are read by the
//! component, which knows their names; here they are typed values.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;

use crate::{
    AnchorsError, AppId, ControlPlaneService, Namespace, SpiffeId, TrustAnchors, TrustDomain,
    client::{self, AddressError},
};

use super::{KeyKind, TokenSource};

/// Where the trust anchors come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnchorSource {
    /// PEM text that never changes.
    Inline(Bytes),
    /// A file that may appear late and change at any time.
    File(PathBuf),
}

impl AnchorSource {
    /// Exactly one of the two must be given and not be empty.
    pub fn exactly_one(inline: Option<String>, file: Option<PathBuf>) -> Result<Self, OptionsError> {
        let inline = inline.filter(|pem| !pem.is_empty());
        let file = file.filter(|path| !path.as_os_str().is_empty());
        match (inline, file) {
            (Some(_), Some(_)) => Err(OptionsError::TwoAnchorSources),
            (None, None) => Err(OptionsError::NoAnchors),
            (Some(pem), None) => Ok(Self::Inline(pem.into())),
            (None, Some(path)) => Ok(Self::File(path)),
        }
    }
}

/// How fast things happen. The defaults are the contract; tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often the anchor file is looked at. Reading it again is the one method that sees
    /// every change: the kubelet swaps a symlink, so watching the file itself misses all but
    /// the first.
    pub anchors_poll: Duration,
    /// How long to wait after a failed renewal.
    pub renewal_retry: Duration,
    /// The longest time between looks at the wall clock, which may jump.
    pub clock_check: Duration,
    /// The least time between two fetches, so that an SVID that is born past its half-life
    /// does not make a busy loop.
    pub least_between: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            anchors_poll: Duration::from_secs(1),
            renewal_retry: Duration::from_secs(10),
            clock_check: Duration::from_mins(1),
            least_between: Duration::from_secs(1),
        }
    }
}

/// Everything needed to obtain an identity.
#[derive(Debug, Clone)]
pub struct WorkloadOptions {
    /// Sentry's `host:port`.
    pub sentry_address: String,
    /// The trust domain of the control plane, sentry's own.
    pub control_plane_trust_domain: TrustDomain,
    /// The namespace sentry runs in.
    pub control_plane_namespace: Namespace,
    /// The component's own namespace.
    pub namespace: Namespace,
    /// The component's app id.
    pub app_id: AppId,
    /// Where the trust anchors come from.
    pub trust_anchors: AnchorSource,
    /// What to authenticate to sentry with.
    pub token: TokenSource,
    /// The kind of the private keys.
    pub key: KeyKind,
    /// How fast things happen.
    pub timing: Timing,
}

/// Options that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// Anchors are given twice.
    #[error("trust anchors cannot be specified in both TrustAnchors and TrustAnchorsFile")]
    TwoAnchorSources,
    /// Anchors are not given.
    #[error("trust anchors are required")]
    NoAnchors,
    /// Anchors given as text are no anchors.
    #[error(transparent)]
    Anchors(#[from] AnchorsError),
    /// Sentry's address is no address.
    #[error("sentry address: {0}")]
    SentryAddress(#[from] AddressError),
}

impl WorkloadOptions {
    /// Options of a control-plane service, with the key its clients need: RSA where the API
    /// server is the client (some clouds' refuse Ed25519), else Ed25519.
    pub fn control_plane(
        service: ControlPlaneService,
        trust_domain: TrustDomain,
        namespace: Namespace,
        sentry_address: String,
        anchors_and_token: (AnchorSource, TokenSource),
    ) -> Self {
        let (trust_anchors, token) = anchors_and_token;
        Self {
            sentry_address,
            control_plane_trust_domain: trust_domain,
            control_plane_namespace: namespace.clone(),
            namespace,
            app_id: service.app_id(),
            trust_anchors,
            token,
            key: KeyKind::of_service(service),
            timing: Timing::default(),
        }
    }

    /// The identity sentry must prove.
    pub fn sentry_id(&self) -> SpiffeId {
        SpiffeId::sentry(self.control_plane_trust_domain.clone(), self.control_plane_namespace.clone())
    }

    /// The trust domain to ask for: only the control plane asks for one.
    pub(super) fn requested_trust_domain(&self) -> Option<&TrustDomain> {
        let is_control_plane = ControlPlaneService::from_app_id(self.app_id.as_str()).is_some()
            && self.namespace == self.control_plane_namespace;
        is_control_plane.then_some(&self.control_plane_trust_domain)
    }

    /// Finds out early what can never work.
    pub(super) fn check(&self) -> Result<(), OptionsError> {
        client::endpoint(&self.sentry_address)?;
        match &self.trust_anchors {
            AnchorSource::Inline(pem) => TrustAnchors::parse(pem.clone()).map(|_anchors| ())?,
            AnchorSource::File(path) if path.as_os_str().is_empty() => {
                return Err(OptionsError::NoAnchors);
            }
            AnchorSource::File(_) => {}
        }
        Ok(())
    }
}
