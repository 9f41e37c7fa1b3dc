//! The trust anchors: the roots every chain must end in, and the check of a chain.
//!
//! One bundle serves every trust domain. A peer's chain is accepted if its leaf is a SPIFFE
//! leaf (exactly one URI SAN with a valid ID, no CA, no certificate or CRL signing) and it
//! builds, through the certificates the peer presented, to an anchor that is valid now;
//! extended key usages do not matter. The bytes of the bundle are kept as they were read,
//! because webhooks and sidecars are handed exactly them.

use bytes::Bytes;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use crate::{
    SpiffeUri,
    leaf::{Leaf, LeafError, Validity},
    tls::provider,
};

/// Why a text is not a bundle of trust anchors.
#[derive(Debug, thiserror::Error)]
pub enum AnchorsError {
    /// The PEM framing is broken.
    #[error("trust anchors are not PEM: {reason}")]
    Pem {
        /// What the PEM reader found.
        reason: String,
    },
    /// No certificate was found.
    #[error("trust anchors hold no certificate")]
    Empty,
    /// A certificate could not be read.
    #[error("trust anchor {position} is not a certificate: {reason}")]
    Certificate {
        /// Which certificate of the bundle, counted from 1.
        position: usize,
        /// What the reader found.
        reason: String,
    },
}

/// Why a peer's chain was refused.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// No certificate was presented.
    #[error("peer presented no certificate")]
    Empty,
    /// The leaf is no SPIFFE leaf.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The chain does not build to a valid anchor.
    #[error("peer certificate of {id} does not verify against the trust anchors: {source}")]
    Path {
        /// The name in the leaf, not to be trusted.
        id: SpiffeUri,
        /// What the path builder found.
        source: webpki::Error,
    },
}

/// A parsed bundle of trust anchors.
#[derive(Debug)]
pub struct TrustAnchors {
    pem: Bytes,
    anchors: Vec<Anchor>,
}

#[derive(Debug)]
struct Anchor {
    root: TrustAnchor<'static>,
    validity: Validity,
}

impl TrustAnchors {
    /// Reads one or more PEM certificates; other text between them is allowed.
    pub fn parse(pem: impl Into<Bytes>) -> Result<Self, AnchorsError> {
        let pem = pem.into();
        let mut anchors = Vec::new();
        for (index, der) in CertificateDer::pem_slice_iter(&pem).enumerate() {
            let der = der.map_err(|error| AnchorsError::Pem { reason: error.to_string() })?;
            anchors
                .push(Anchor::read(&der).map_err(|reason| AnchorsError::Certificate { position: index + 1, reason })?);
        }
        if anchors.is_empty() {
            return Err(AnchorsError::Empty);
        }
        Ok(Self { pem, anchors })
    }

    /// The bundle's bytes, exactly as they were read.
    pub fn pem(&self) -> &Bytes {
        &self.pem
    }

    /// Verifies a chain, leaf first, at `now`, and returns the leaf's name.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<SpiffeUri, ChainError> {
        let (leaf_der, intermediates) = chain.split_first().ok_or(ChainError::Empty)?;
        let id = Leaf::read(leaf_der)?.into_id();
        match self.build_path(leaf_der, intermediates, now) {
            Ok(()) => Ok(id),
            Err(source) => Err(ChainError::Path { id, source }),
        }
    }

    fn build_path(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        // An expired root verifies nothing; the path builder itself does not look.
        let roots: Vec<TrustAnchor<'_>> = self
            .anchors
            .iter()
            .filter(|anchor| anchor.validity.holds_at(now.as_secs()))
            .map(|anchor| anchor.root.clone())
            .collect();
        let algorithms = provider().signature_verification_algorithms.all;
        EndEntityCert::try_from(leaf)?
            .verify_for_usage(algorithms, &roots, intermediates, now, AnyUsage, None, None)
            .map(|_path| ())
    }
}

impl Anchor {
    fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let validity = Validity::of(der)?;
        let root = webpki::anchor_from_trusted_cert(der).map_err(|error| error.to_string())?.to_owned();
        Ok(Self { root, validity })
    }
}

/// Extended key usage says nothing about SPIFFE peers: every value is accepted.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, mut usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        usages.try_for_each(|usage| usage.map(|_purpose| ()))
    }
}
