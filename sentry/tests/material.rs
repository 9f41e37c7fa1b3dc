//! Stored material and the flags about it, in a real sentry process; tests are named after the
//! rows of contract §19.
#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions of a test")]

mod support;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use sentry::core::{
    jwks::{Jwk, JwkSet},
    keys::PrivateKey,
};
use serde_json::{Value, json};
use support::{
    Ca,
    process::{Start, get},
    request,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A token key and the public key that goes into a set.
struct TokenKey {
    pem: String,
    jwk: Jwk,
}

fn token_key(algorithm: &'static rcgen::SignatureAlgorithm, kid: &str) -> TokenKey {
    let pem = KeyPair::generate_for(algorithm).unwrap().serialize_pem();
    let key = PrivateKey::from_pem(pem.as_bytes()).unwrap();
    let jwk = Jwk { kid: Some(kid.into()), purpose: Some("sig".into()), ..Jwk::of(key.public()) };
    TokenKey { pem, jwk }
}

fn set(keys: &[&Jwk]) -> String {
    JwkSet { keys: keys.iter().map(|key| (*key).clone()).collect() }.to_json()
}

fn with_material(key: &TokenKey, jwks: &str) -> Start {
    Start::standalone().flag("--jwt-signing-algorithm=ES256").file("jwt.key", &key.pem).file("jwks.json", jwks)
}

/// Header and claims of a compact token.
fn opened(token: &str) -> (Value, Value) {
    let mut parts =
        token.split('.').map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap_or_default()));
    (parts.next().unwrap().unwrap(), parts.next().unwrap().unwrap())
}

#[tokio::test]
async fn jwks_that_is_empty_garbage_or_anothers_ends_with_code_1() {
    let (key, other) = (token_key(&PKCS_ECDSA_P256_SHA256, "mine"), token_key(&PKCS_ECDSA_P256_SHA256, "other"));
    let for_encryption = Jwk { purpose: Some("enc".into()), ..key.jwk.clone() };
    let rows = [
        ("empty set", set(&[]), "", "JWKS doesn't contain any keys"),
        ("garbage", "{".into(), "", "failed to parse JWKS"),
        ("another's key", set(&[&other.jwk]), "", "JWKS doesn't contain a matching public key"),
        ("not for signatures", set(&[&for_encryption]), "", "JWKS doesn't contain a matching public key"),
        ("no such key id", set(&[&key.jwk]), "absent", "JWKS doesn't contain a key with user-provided key ID"),
        ("another's key id", set(&[&key.jwk, &other.jwk]), "other", "but the key content doesn't match"),
    ];
    for (what, jwks, key_id, text) in rows {
        let mut start = with_material(&key, &jwks).flag("--jwt-enabled");
        if !key_id.is_empty() {
            start = start.flag(&format!("--jwt-key-id={key_id}"));
        }
        let (status, log) = start.ended().await;
        assert_eq!(status.code(), Some(1), "{what}: {log}");
        assert!(log.contains(text), "{what}: {log}");
    }
}

#[tokio::test]
async fn jwt_material_is_checked_even_with_jwt_off() {
    let (key, other) = (token_key(&PKCS_ECDSA_P256_SHA256, "mine"), token_key(&PKCS_ECDSA_P256_SHA256, "other"));
    let (status, log) = with_material(&key, &set(&[&other.jwk])).ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    let sentry = with_material(&key, &set(&[&key.jwk])).ready().await;
    assert!(sentry.sign(request("app", "ns")).await.unwrap().jwt.is_none());
}

#[tokio::test]
async fn an_incompatible_jwt_key_ends_with_code_1() {
    let key = token_key(&PKCS_ED25519, "mine");
    let (status, log) = with_material(&key, &set(&[&key.jwk])).flag("--jwt-enabled").ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("JWT signing key is incompatible with algorithm ES256"), "{log}");
}

#[tokio::test]
async fn several_keys_of_mixed_types_are_fine_if_one_matches_and_are_served_unchanged() {
    let mine = token_key(&PKCS_RSA_SHA256, "user chosen");
    let mine_jwk = Jwk { alg: Some("RS256".into()), ..mine.jwk.clone() };
    let (ec, ed) = (token_key(&PKCS_ECDSA_P256_SHA256, "ec"), token_key(&PKCS_ED25519, "ed"));
    let jwks = set(&[&ec.jwk, &mine_jwk, &ed.jwk]);
    let sentry = Start::standalone()
        .file("jwt.key", &mine.pem)
        .file("jwks.json", &jwks)
        .flag("--jwt-enabled")
        .flag("--jwt-key-id=user chosen")
        .flag("--oidc-enabled")
        .flag("--oidc-server-tls-enabled=false")
        .ready()
        .await;
    let jwt = sentry.sign(request("app", "ns")).await.unwrap().jwt.unwrap();
    let (header, claims) = opened(&jwt);
    assert_eq!((&header["kid"], &header["alg"]), (&json!("user chosen"), &json!("RS256")));
    assert!(claims.get("iss").is_none(), "no issuer configured, no iss: {claims}");
    let (status, _, served) = get(sentry.oidc, "/jwks.json", &[]).await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(JwkSet::parse(served.as_bytes()).unwrap(), JwkSet::parse(jwks.as_bytes()).unwrap());
    assert_eq!(sentry.creds("jwks.json"), jwks.as_bytes(), "loading never rewrites files");
}

#[tokio::test]
async fn an_explicitly_empty_issuer_is_present_and_empty_and_any_text_is_an_issuer() {
    for issuer in ["", "any text, no URL"] {
        let sentry = Start::standalone()
            .flag("--jwt-enabled")
            .flag("--jwt-signing-algorithm=ES256")
            .flag(&format!("--jwt-issuer={issuer}"))
            .ready()
            .await;
        let (_, claims) = opened(&sentry.sign(request("app", "ns")).await.unwrap().jwt.unwrap());
        assert_eq!(claims["iss"], issuer);
        assert_eq!(claims["sub"], "spiffe://public/ns/ns/app");
        assert_eq!(claims["aud"], json!(["public"]));
        let seconds = |name: &str| claims[name].as_i64().unwrap();
        assert_eq!((seconds("exp") - seconds("iat"), seconds("iat") - seconds("nbf")), (24 * 3600, 900));
        assert_eq!(claims["jti"].as_str().unwrap().len(), 32);
    }
}

#[tokio::test]
async fn jwt_only_material_keeps_jwt_and_generates_x509() {
    let key = token_key(&PKCS_ECDSA_P256_SHA256, "mine");
    let jwks = set(&[&key.jwk]);
    let sentry = with_material(&key, &jwks).flag("--jwt-enabled").ready().await;
    assert_eq!((sentry.creds("jwt.key"), sentry.creds("jwks.json")), (key.pem.into_bytes(), jwks.into_bytes()));
    assert!(sentry.sign(request("app", "ns")).await.unwrap().jwt.is_some());
}

#[tokio::test]
async fn an_issuer_identical_to_the_root_ends_with_code_1() {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let root = support::authority("root").self_signed(&key).unwrap().pem().into_bytes();
    let stored =
        sentry::core::bundle::Stored { anchors: root.clone(), chain: root, key: key.serialize_pem().into_bytes() };
    let (status, log) = Start::standalone().bundle(&stored).ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("issuer chain is empty after re-encoding"), "{log}");
}

#[tokio::test]
async fn absolute_file_names_stand_for_themselves_and_relative_jwt_names_are_ignored() {
    let elsewhere = tempfile::tempdir().unwrap();
    let path = |name: &str| elsewhere.path().join(name).display().to_string();
    let stored = Ca::new(&PKCS_ED25519).stored();
    std::fs::write(path("root"), &stored.anchors).unwrap();
    std::fs::write(path("key"), &stored.key).unwrap();
    let sentry = Start::standalone()
        .flag(&format!("--issuer-ca-filename={}", path("root")))
        .flag("--issuer-certificate-filename=relative.pem")
        .flag(&format!("--issuer-key-filename={}", path("key")))
        .file("relative.pem", &stored.chain)
        .flag("--jwt-enabled")
        .flag("--jwt-signing-algorithm=ES256")
        .flag("--jwt-key-filename=relative.key")
        .flag(&format!("--jwks-filename={}", path("set")))
        .ready()
        .await;
    // For the connection below.
    std::fs::write(sentry.dir.path().join("creds/ca.crt"), &stored.anchors).unwrap();
    let answer = sentry.sign(request("app", "ns")).await.unwrap();
    assert_eq!(answer.trust_chain_certificates, std::slice::from_ref(&stored.anchors));
    assert!(!sentry.dir.path().join("creds/relative.key").exists());
    PrivateKey::from_pem(&sentry.creds("jwt.key")).unwrap();
    JwkSet::parse(&std::fs::read(path("set")).unwrap()).unwrap();
}

#[tokio::test]
async fn oidc_over_tls_serves_https_and_only_https() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = (files.path().join("tls.crt"), files.path().join("tls.key"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let sentry = Start::standalone()
        .flag("--jwt-enabled")
        .flag("--jwt-signing-algorithm=ES256")
        .flag("--oidc-enabled")
        .flag(&format!("--oidc-server-tls-cert-file={}", cert.display()))
        .flag(&format!("--oidc-server-tls-key-file={}", key.display()))
        .ready()
        .await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certified.cert.pem().as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(identity::tls::provider().clone())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", sentry.oidc)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut tls = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    let ask = "GET /.well-known/openid-configuration HTTP/1.1\r\nHost: oidc.example\r\nConnection: close\r\n\r\n";
    tls.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A close without a TLS goodbye is an error after the whole answer.
    tls.read_to_end(&mut answer).await.ok();
    let answer = String::from_utf8(answer).unwrap();
    let document: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(document["issuer"], "https://oidc.example");
    assert_eq!(document["jwks_uri"], "https://oidc.example/jwks.json");
    let plain = get(sentry.oidc, "/jwks.json", &[]).await;
    assert!(plain.is_err() || plain.is_ok_and(|(status, _, _)| status == 0), "plain HTTP is not answered");
}

#[tokio::test]
async fn an_issuer_or_jwks_address_that_is_no_url_ends_the_start_where_oidc_is_served() {
    for flag in ["--jwt-issuer=https://a b", "--jwt-issuer=:x", "--oidc-jwks-uri=https://h/%zz"] {
        let start = Start::standalone().flag("--jwt-enabled").flag("--oidc-enabled");
        let (status, log) = start.flag("--oidc-server-tls-enabled=false").flag(flag).ended().await;
        assert_eq!(status.code(), Some(1), "{flag}: {log}");
        assert!(log.contains(flag.split('=').next().unwrap()), "{flag}: {log}");
    }
}
