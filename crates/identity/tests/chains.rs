//! Which certificate chains the trust anchors accept.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use identity::{ChainError, LeafError, TrustAnchors};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    RsaKeySize,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use support::{Ca, authority, cross_sign, leaf, new_key, uri, valid_for};
use time::Duration;

const CART: &str = "spiffe://public/ns/shop/cart";

fn verify(ca: &Ca, params: &CertificateParams) -> Result<String, ChainError> {
    let key = new_key(&rcgen::PKCS_ED25519);
    check(&ca.anchors(), &ca.chain(params, &key))
}

fn check(anchors: &TrustAnchors, chain: &[CertificateDer<'_>]) -> Result<String, ChainError> {
    anchors.verify(chain, UnixTime::now()).map(|id| id.to_string())
}

fn leaf_refusal(params: &CertificateParams) -> LeafError {
    match verify(&Ca::new("a"), params) {
        Err(ChainError::Leaf(error)) => error,
        other => panic!("expected a refused leaf, not {other:?}"),
    }
}

#[test]
fn a_leaf_as_sentry_profiles_it_is_accepted() {
    assert_eq!(verify(&Ca::new("a"), &leaf(CART)).unwrap(), CART);
}

#[test]
fn any_trust_domain_and_path_is_accepted_under_the_one_bundle() {
    for id in ["spiffe://other", "spiffe://x/y", "spiffe://public/ns/a/b/c"] {
        assert_eq!(verify(&Ca::new("a"), &leaf(id)).unwrap(), id);
    }
}

#[test]
fn authorities_may_have_any_usual_key() {
    for algorithm in [
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
    ] {
        let ca = Ca::with_keys("a", algorithm);
        assert!(verify(&ca, &leaf(CART)).is_ok(), "{algorithm:?}");
    }
    let rsa = || KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let root = CertifiedIssuer::self_signed(authority("rsa"), rsa()).unwrap();
    let issuer = CertifiedIssuer::signed_by(authority("rsa issuer"), rsa(), &root).unwrap();
    assert!(verify(&Ca { root, issuer }, &leaf(CART)).is_ok());
}

#[test]
fn extended_key_usages_say_nothing() {
    let mut params = leaf(CART);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    assert!(verify(&Ca::new("a"), &params).is_ok());
    params.extended_key_usages.clear();
    assert!(verify(&Ca::new("a"), &params).is_ok());
}

#[test]
fn a_leaf_must_have_exactly_one_name_and_it_must_be_a_spiffe_id() {
    let mut params = leaf(CART);
    params.subject_alt_names.push(uri("spiffe://public/ns/shop/other"));
    assert_eq!(leaf_refusal(&params), LeafError::SeveralUris);
    params.subject_alt_names.clear();
    assert_eq!(leaf_refusal(&params), LeafError::NoUri);
    params.subject_alt_names = vec![rcgen::SanType::DnsName("cart.shop".try_into().unwrap())];
    assert_eq!(leaf_refusal(&params), LeafError::NoUri);
    let wrong = leaf("https://public/ns/shop/cart");
    assert!(matches!(leaf_refusal(&wrong), LeafError::Name { .. }));
}

#[test]
fn a_dns_name_beside_the_one_uri_is_fine() {
    let mut params = leaf(CART);
    let dns = rcgen::SanType::DnsName("dapr-webhook.dapr-system.svc".try_into().unwrap());
    params.subject_alt_names.push(dns);
    assert!(verify(&Ca::new("a"), &params).is_ok());
}

#[test]
fn a_leaf_may_sign_neither_certificates_nor_revocation_lists() {
    let mut params = leaf(CART);
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    assert_eq!(leaf_refusal(&params), LeafError::SignsCertificates);
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    assert_eq!(leaf_refusal(&params), LeafError::SignsCrls);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(leaf_refusal(&params), LeafError::Ca);
}

#[test]
fn time_binds_leaf_issuer_and_root() {
    let past = |params| valid_for(params, Duration::hours(-2), Duration::hours(-1));
    let future = |params| valid_for(params, Duration::hours(1), Duration::hours(2));
    let ca = Ca::new("a");
    for late in [past(leaf(CART)), future(leaf(CART))] {
        assert!(matches!(verify(&ca, &late), Err(ChainError::Path { .. })));
    }
    for root in [past(authority("old")), future(authority("old"))] {
        let ca = Ca::with_root(root, "old", &rcgen::PKCS_ED25519);
        let refused = verify(&ca, &leaf(CART));
        assert!(matches!(refused, Err(ChainError::Path { .. })), "{refused:?}");
    }
    let root = Ca::new("b").root;
    let issuer = past(authority("late issuer"));
    let issuer = CertifiedIssuer::signed_by(issuer, new_key(&rcgen::PKCS_ED25519), &root).unwrap();
    let refused = verify(&Ca { root, issuer }, &leaf(CART));
    assert!(matches!(refused, Err(ChainError::Path { .. })));
}

#[test]
fn an_expired_root_beside_a_valid_one_does_no_harm() {
    let old = valid_for(authority("old"), Duration::hours(-2), Duration::hours(-1));
    let old = Ca::with_root(old, "old", &rcgen::PKCS_ED25519);
    let new = Ca::new("new");
    let both = TrustAnchors::parse(old.root.pem() + "# a comment\n" + &new.root.pem()).unwrap();
    let key = new_key(&rcgen::PKCS_ED25519);
    assert!(check(&both, &new.chain(&leaf(CART), &key)).is_ok());
    assert!(check(&both, &old.chain(&leaf(CART), &key)).is_err());
}

#[test]
fn another_authority_is_refused_even_by_the_same_name() {
    let (ca, other) = (Ca::new("a"), Ca::new("a"));
    let key = new_key(&rcgen::PKCS_ED25519);
    let refused = check(&ca.anchors(), &other.chain(&leaf(CART), &key));
    assert!(matches!(refused, Err(ChainError::Path { .. })), "{refused:?}");
}

#[test]
fn intermediates_must_be_presented() {
    let ca = Ca::new("a");
    let key = new_key(&rcgen::PKCS_ED25519);
    let chain = ca.chain(&leaf(CART), &key);
    assert!(check(&ca.anchors(), &chain[..1]).is_err());
    assert!(matches!(check(&ca.anchors(), &[]), Err(ChainError::Empty)));
}

#[test]
fn a_rotated_authority_is_believed_by_holders_of_old_both_and_new_anchors() {
    // RULINGS 12: leaf, new issuer, new root signed by the old issuer, old issuer.
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let bridge = cross_sign(&authority("new"), new.root.key(), &old.issuer);
    let key = new_key(&rcgen::PKCS_ED25519);
    let mut chain = new.chain(&leaf(CART), &key);
    chain.extend([bridge, old.issuer.der().clone()]);
    let both = TrustAnchors::parse(old.root.pem() + &new.root.pem()).unwrap();
    for anchors in [old.anchors(), both, new.anchors()] {
        assert_eq!(check(&anchors, &chain).unwrap(), CART);
    }
}

#[test]
fn a_bundle_keeps_its_bytes() {
    let text = format!("# comment\n{}\n\n", Ca::new("a").root.pem());
    let anchors = TrustAnchors::parse(text.clone()).unwrap();
    assert_eq!(anchors.pem(), text.as_bytes());
}

#[test]
fn what_is_no_bundle_is_refused() {
    let pem = Ca::new("a").root.pem();
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for text in ["", "garbage", &pem[..pem.len() / 2], garbage, key, &(pem.clone() + garbage)] {
        assert!(TrustAnchors::parse(text.to_owned()).is_err(), "{text:?}");
    }
}
