//! An SVID: a chain, leaf first, with the private key of its leaf, ready for handshakes.
//!
//! Construction proves that the key belongs to the leaf and that the leaf carries a Dapr
//! identity. Nothing here prints the key.

use std::{fmt, sync::Arc};

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::sync::watch;

use crate::{
    SpiffeId,
    leaf::{Leaf, LeafError, LeafKey, Validity},
    tls::provider,
};

/// The receiving end of a component's current SVID; `None` until there is a first one.
pub type SvidRx = watch::Receiver<Option<Arc<Svid>>>;

/// Why a chain and a key make no SVID.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// The chain is not PEM.
    #[error("certificate chain is not PEM: {reason}")]
    Pem {
        /// What the PEM reader found.
        reason: String,
    },
    /// The chain is empty.
    #[error("certificate chain is empty")]
    Empty,
    /// The first certificate is no SPIFFE leaf.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The leaf's name is no Dapr identity.
    #[error("certificate names {found}, which is no Dapr identity")]
    Identity {
        /// The name in the leaf.
        found: String,
    },
    /// The key cannot be used or is another leaf's.
    #[error("private key does not serve the certificate: {reason}")]
    Key {
        /// What was wrong.
        reason: String,
    },
}

/// A workload identity with its private key.
pub struct Svid {
    id: SpiffeId,
    validity: Validity,
    key_kind: LeafKey,
    certified: Arc<CertifiedKey>,
}

impl Svid {
    /// Puts a chain (leaf first) and its leaf's key together.
    pub fn try_new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, SvidError> {
        let leaf = Leaf::read(chain.first().ok_or(SvidError::Empty)?)?;
        let id = SpiffeId::from_peer(leaf.id()).ok_or_else(|| SvidError::Identity { found: leaf.id().to_string() })?;
        let certified = CertifiedKey::from_der(chain, key, provider())
            .map_err(|error| SvidError::Key { reason: error.to_string() })?;
        Ok(Self { id, validity: leaf.validity, key_kind: leaf.key, certified: Arc::new(certified) })
    }

    /// Reads a PEM chain (leaf first) for the given key.
    pub fn from_pem(chain: &[u8], key: PrivateKeyDer<'static>) -> Result<Self, SvidError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| SvidError::Pem { reason: error.to_string() })?;
        Self::try_new(chain, key)
    }

    /// Whose identity this is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// First second of validity, in Unix time.
    pub fn not_before(&self) -> i64 {
        self.validity.not_before
    }

    /// Last second of validity, in Unix time.
    pub fn not_after(&self) -> i64 {
        self.validity.not_after
    }

    /// The kind of its key.
    pub fn key_kind(&self) -> LeafKey {
        self.key_kind
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("not_after", &self.validity.not_after)
            .finish_non_exhaustive()
    }
}
