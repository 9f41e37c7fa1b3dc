//! A certificate authority of root and issuer, as sentry makes them, for tests of TLS and identity.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
};

/// A root and an issuer signed by it.
pub struct TestCa {
    root: CertifiedIssuer<'static, KeyPair>,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A leaf certificate with its chain and key, all PEM.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Leaf, then issuer.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

impl TestCa {
    /// A new authority.
    pub fn new() -> Self {
        let key = || KeyPair::generate_for(&PKCS_ED25519).expect("Ed25519 keys can be generated");
        let root = CertifiedIssuer::self_signed(authority("root"), key()).expect("a root can sign itself");
        let issuer = CertifiedIssuer::signed_by(authority("issuer"), key(), &root).expect("a root can sign an issuer");
        Self { root, issuer }
    }

    /// The trust anchors.
    pub fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// The issuer's certificate.
    pub fn issuer_pem(&self) -> String {
        self.issuer.pem()
    }

    /// The issuer's key, PKCS#8.
    pub fn issuer_key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A workload certificate for `spiffe_id`, valid for 24 hours or as `adjust` says.
    pub fn leaf(&self, spiffe_id: &str, adjust: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().expect("a SPIFFE ID is ASCII"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        adjust(&mut params);
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("Ed25519 keys can be generated");
        let leaf = params.signed_by(&key, &self.issuer).expect("an issuer can sign a leaf");
        Leaf { chain_pem: leaf.pem() + &self.issuer.pem(), key_pem: key.serialize_pem() }
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
