//! Shared by sentry's tests: certificate authorities of every shape, and CSRs.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::format_push_string, reason = "assertions of a test")]

pub mod api;
pub mod process;

use proto::sentry::v1::{SignCertificateRequest, sign_certificate_request::TokenValidator};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SignatureAlgorithm,
};
use sentry::core::bundle::Stored;

/// A root and what it signed.
pub struct Ca {
    pub root_pem: String,
    pub root: Issuer<'static, KeyPair>,
    /// Issuer first.
    pub chain_pem: String,
    pub issuer_key_pem: String,
}

impl Ca {
    pub fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        Self::with(algorithm, |_, _| {})
    }

    /// `adjust` sees root (0) and issuer (1) before they are signed.
    pub fn with(algorithm: &'static SignatureAlgorithm, adjust: impl Fn(usize, &mut CertificateParams)) -> Self {
        let root_key = KeyPair::generate_for(algorithm).unwrap();
        let mut root_params = authority("root.example");
        adjust(0, &mut root_params);
        let root_pem = root_params.self_signed(&root_key).unwrap().pem();
        let root = Issuer::new(root_params, root_key);
        let issuer_key = KeyPair::generate_for(algorithm).unwrap();
        let mut issuer_params = authority("issuer.example");
        adjust(1, &mut issuer_params);
        let chain_pem = issuer_params.signed_by(&issuer_key, &root).unwrap().pem();
        Self { root_pem, root, chain_pem, issuer_key_pem: issuer_key.serialize_pem() }
    }

    /// Root, intermediate, issuer: the chain is issuer, intermediate.
    pub fn with_intermediate() -> Self {
        let mut ca = Self::new(&rcgen::PKCS_ED25519);
        let middle_key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let middle_params = authority("middle.example");
        let middle_pem = middle_params.signed_by(&middle_key, &ca.root).unwrap().pem();
        let middle = Issuer::new(middle_params, middle_key);
        let issuer_key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let issuer = authority("issuer.example").signed_by(&issuer_key, &middle).unwrap();
        ca.chain_pem = format!("{}{middle_pem}", issuer.pem());
        ca.issuer_key_pem = issuer_key.serialize_pem();
        ca
    }

    pub fn stored(&self) -> Stored {
        Stored {
            anchors: self.root_pem.clone().into_bytes(),
            chain: self.chain_pem.clone().into_bytes(),
            key: self.issuer_key_pem.clone().into_bytes(),
        }
    }
}

pub fn authority(organization: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, DnValue::PrintableString(organization.try_into().unwrap()));
    params
}

/// A CSR that asks for more than it may get.
pub fn greedy_csr(algorithm: &'static SignatureAlgorithm) -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "evil");
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, pem.into_bytes())
}

/// A request that the insecure validator grants.
pub fn request(app_id: &str, namespace: &str) -> SignCertificateRequest {
    SignCertificateRequest {
        id: app_id.into(),
        namespace: namespace.into(),
        token_validator: TokenValidator::Unknown.into(),
        certificate_signing_request: greedy_csr(&rcgen::PKCS_ED25519).1,
        ..SignCertificateRequest::default()
    }
}

/// Every certificate of a PEM text, DER.
pub fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    pem::parse_many(pem)
        .unwrap()
        .into_iter()
        .map(|block| {
            assert_eq!(block.tag(), "CERTIFICATE");
            block.into_contents()
        })
        .collect()
}
