//! A small certificate authority and a scripted sentry for the tests of this crate.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod sentry;

use std::{sync::Arc, time::Duration};

use identity::{AnchorsRx, Svid, SvidRx, TrustAnchors};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use tokio::sync::watch;

/// Long enough for a busy machine; nothing waits for it when all is well.
pub const DEADLINE: Duration = Duration::from_secs(20);
pub const SENTRY: &str = "spiffe://cluster.local/ns/dapr-system/dapr-sentry";

/// A root and an issuer below it.
pub struct Ca {
    pub root: CertifiedIssuer<'static, KeyPair>,
    pub issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        Self::with_keys(name, &rcgen::PKCS_ED25519)
    }

    pub fn with_keys(name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        Self::with_root(authority(name), name, algorithm)
    }

    pub fn with_root(root: CertificateParams, name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        let root = CertifiedIssuer::self_signed(root, new_key(algorithm)).unwrap();
        let issuer = authority(&format!("{name} issuer"));
        let issuer = CertifiedIssuer::signed_by(issuer, new_key(algorithm), &root).unwrap();
        Self { root, issuer }
    }

    pub fn anchors(&self) -> TrustAnchors {
        TrustAnchors::parse(self.root.pem()).unwrap()
    }

    pub fn anchors_rx(&self) -> AnchorsRx {
        watch::channel(Some(Arc::new(self.anchors()))).1
    }

    /// Leaf and issuer.
    pub fn chain(&self, leaf: &CertificateParams, key: &impl PublicKeyData) -> Vec<CertificateDer<'static>> {
        let leaf = leaf.signed_by(key, &self.issuer).unwrap();
        vec![leaf.der().clone(), self.issuer.der().clone()]
    }

    pub fn svid(&self, id: &str) -> Svid {
        let key = new_key(&rcgen::PKCS_ED25519);
        Svid::try_new(self.chain(&leaf(id), &key), private(&key)).unwrap()
    }

    pub fn svid_rx(&self, id: &str) -> SvidRx {
        watch::channel(Some(Arc::new(self.svid(id)))).1
    }

    pub fn sign_pem(&self, leaf: &CertificateParams, key: &impl PublicKeyData) -> String {
        leaf.signed_by(key, &self.issuer).unwrap().pem() + &self.issuer.pem()
    }
}

pub fn new_key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

pub fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

pub fn authority(name: &str) -> CertificateParams {
    let mut params = empty();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(params, time::Duration::hours(-1), time::Duration::days(365))
}

/// A leaf as sentry profiles it.
pub fn leaf(id: &str) -> CertificateParams {
    let mut params = empty();
    params.subject_alt_names = vec![uri(id)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid_for(params, time::Duration::minutes(-15), time::Duration::hours(24))
}

pub fn uri(id: &str) -> rcgen::SanType {
    rcgen::SanType::URI(id.try_into().unwrap())
}

pub fn valid_for(mut params: CertificateParams, from: time::Duration, to: time::Duration) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    params.not_before = now + from;
    params.not_after = now + to;
    params
}

fn empty() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

/// `subject`'s certificate and key, but signed by `by`: a cross-signature.
pub fn cross_sign(
    subject: &CertificateParams,
    subject_key: &KeyPair,
    by: &Issuer<'_, KeyPair>,
) -> CertificateDer<'static> {
    subject.signed_by(subject_key, by).unwrap().der().clone()
}
