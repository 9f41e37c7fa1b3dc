//! What a SPIFFE leaf certificate says: its one name, its validity, its kind of key.
//!
//! Reading a leaf checks its form only; whether it may be believed is decided by
//! [`crate::TrustAnchors::verify`].

use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519},
    prelude::{FromDer, X509Certificate},
    x509::SubjectPublicKeyInfo,
};

use crate::{SpiffeUri, spiffe_uri::NameError};

/// Why a certificate is no SPIFFE leaf.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// The certificate cannot be read.
    #[error("certificate cannot be read: {reason}")]
    Unreadable {
        /// What the reader found.
        reason: String,
    },
    /// It names nobody.
    #[error("certificate contains no URI SAN")]
    NoUri,
    /// It names several.
    #[error("certificate contains more than one URI SAN")]
    SeveralUris,
    /// Its name is no SPIFFE ID.
    #[error("certificate's URI SAN {found:?} is no SPIFFE ID: {source}")]
    Name {
        /// The name as presented.
        found: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// It is a CA certificate.
    #[error("leaf certificate with CA flag set to true")]
    Ca,
    /// It may sign certificates.
    #[error("leaf certificate with KeyCertSign key usage")]
    SignsCertificates,
    /// It may sign revocation lists.
    #[error("leaf certificate with KeyCrlSign key usage")]
    SignsCrls,
}

/// The kind of a leaf's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafKey {
    /// Ed25519: v1.18 workloads.
    Ed25519,
    /// ECDSA on P-256: v1.16 and v1.17 workloads.
    EcdsaP256,
    /// RSA of any size: webhooks.
    Rsa,
    /// Any other key.
    Other,
}

/// The time in which a certificate holds, in Unix seconds, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

impl Validity {
    pub(crate) fn of(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        Ok(Self::in_certificate(&certificate))
    }

    fn in_certificate(certificate: &X509Certificate<'_>) -> Self {
        Self {
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        }
    }

    pub(crate) fn holds_at(self, unix_seconds: u64) -> bool {
        i64::try_from(unix_seconds).is_ok_and(|now| (self.not_before..=self.not_after).contains(&now))
    }
}

/// A certificate that has the form of a SPIFFE leaf.
#[derive(Debug)]
pub(crate) struct Leaf {
    id: SpiffeUri,
    pub(crate) validity: Validity,
    pub(crate) key: LeafKey,
}

impl Leaf {
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, LeafError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(unreadable)?;
        let id = only_uri(&certificate)?;
        if certificate.is_ca() {
            return Err(LeafError::Ca);
        }
        if let Some(usage) = certificate.key_usage().map_err(unreadable)? {
            if usage.value.key_cert_sign() {
                return Err(LeafError::SignsCertificates);
            }
            if usage.value.crl_sign() {
                return Err(LeafError::SignsCrls);
            }
        }
        Ok(Self { id, validity: Validity::in_certificate(&certificate), key: key_kind(certificate.public_key()) })
    }

    pub(crate) fn id(&self) -> &SpiffeUri {
        &self.id
    }

    pub(crate) fn into_id(self) -> SpiffeUri {
        self.id
    }
}

fn unreadable(error: impl std::fmt::Display) -> LeafError {
    LeafError::Unreadable { reason: error.to_string() }
}

fn only_uri(certificate: &X509Certificate<'_>) -> Result<SpiffeUri, LeafError> {
    let names = certificate.subject_alternative_name().map_err(unreadable)?;
    let mut uris = names.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(LeafError::NoUri)?;
    if uris.next().is_some() {
        return Err(LeafError::SeveralUris);
    }
    SpiffeUri::parse(uri).map_err(|source| LeafError::Name { found: uri.to_owned(), source })
}

fn key_kind(key: &SubjectPublicKeyInfo<'_>) -> LeafKey {
    let algorithm = &key.algorithm;
    if algorithm.algorithm == OID_SIG_ED25519 {
        LeafKey::Ed25519
    } else if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
        LeafKey::Rsa
    } else if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok()).is_some_and(|curve| curve == OID_EC_P256)
    {
        LeafKey::EcdsaP256
    } else {
        LeafKey::Other
    }
}
