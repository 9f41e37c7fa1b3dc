//! A fresh key and the request to certify it. The request names nobody: sentry decides.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, RsaKeySize};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::ControlPlaneService;

/// The kind of a component's private keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519, the default.
    Ed25519,
    /// RSA with 2048 bits, for servers the API server calls.
    Rsa2048,
    /// ECDSA on P-256.
    P256,
}

impl KeyKind {
    /// The kind each control-plane service uses.
    pub const fn of_service(service: ControlPlaneService) -> Self {
        match service {
            ControlPlaneService::Operator | ControlPlaneService::Injector => Self::Rsa2048,
            ControlPlaneService::Placement | ControlPlaneService::Sentry | ControlPlaneService::Scheduler => {
                Self::Ed25519
            }
        }
    }

    fn generate(self) -> Result<KeyPair, rcgen::Error> {
        match self {
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
    }
}

/// A key and its certificate signing request.
pub(super) struct Request {
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) csr_pem: String,
}

/// Makes a key of this kind; RSA takes long enough to be kept off the async workers.
pub(super) fn new_request(kind: KeyKind) -> Result<Request, rcgen::Error> {
    let pair = kind.generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr_pem = params.serialize_request(&pair)?.pem()?;
    Ok(Request { key: PrivatePkcs8KeyDer::from(pair.serialize_der()).into(), csr_pem })
}
