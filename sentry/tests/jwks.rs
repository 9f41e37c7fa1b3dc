//! The JWKS validator in a real sentry process; tests are named after the rows of contract §19.
#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions of a test")]

mod support;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::sentry::v1::{SignCertificateRequest, sign_certificate_request::TokenValidator};
use rcgen::{KeyPair, PKCS_ED25519, SigningKey as _};
use serde_json::{Value, json};
use support::{
    process::{Sentry, Start},
    request,
};
use tonic::{Code, Status};

const SENTRY: &str = "spiffe://localhost/ns/default/dapr-sentry";
const SUBJECT: &str = "spiffe://public/ns/ns/app";

struct Signer {
    key: KeyPair,
}

impl Signer {
    fn new() -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ED25519).unwrap() }
    }

    fn jwk(&self, kid: &str) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key_raw());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "use": "sig", "alg": "EdDSA"})
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "EdDSA", "kid": kid, "typ": "JWT"})), part(claims));
        let signature = self.key.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn claims() -> Value {
    json!({"aud": [SENTRY], "sub": SUBJECT, "iat": now(), "exp": now() + 600, "nbf": now() - 10})
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn config(source: &str, more: &Value) -> String {
    let mut options = json!({"source": source});
    options.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    json!({"spec": {"mtls": {"tokenValidators": [{"name": "jwks", "options": options}]}}}).to_string()
}

async fn ask(sentry: &Sentry, token: String) -> Result<(), Status> {
    let token_validator = TokenValidator::Jwks.into();
    sentry.sign(SignCertificateRequest { token, token_validator, ..request("app", "ns") }).await.map(drop)
}

#[tokio::test]
async fn a_valid_eddsa_token_is_granted_and_every_bad_one_names_its_claim() {
    let signer = Signer::new();
    let set = json!({"keys": [signer.jwk("k")]}).to_string();
    let inline = URL_SAFE_NO_PAD.encode(&set);
    for source in [set.as_str(), &inline, &signer.jwk("k").to_string()] {
        let sentry = Start::standalone().config(&config(source, &json!({}))).ready().await;
        ask(&sentry, signer.token("k", &claims())).await.unwrap();
    }
    let sentry = Start::standalone().config(&config(&set, &json!({}))).ready().await;
    let rows = [
        (signer.token("k", &with("aud", "other")), "\"aud\" not satisfied"),
        (signer.token("k", &with("sub", "spiffe://public/ns/ns/other")), "\"sub\" not satisfied"),
        (signer.token("k", &with("exp", now() - 400)), "\"exp\" not satisfied"),
        (signer.token("k", &with("nbf", now() + 400)), "\"nbf\" not satisfied"),
        (signer.token("k", &with("iat", now() + 400)), "\"iat\" not satisfied"),
        (Signer::new().token("k", &claims()), "could not verify message using any of the signatures or keys"),
        (signer.token("unknown", &claims()), "failed to find key"),
        ("a.b".into(), "token validation failed"),
    ];
    for (token, text) in rows {
        let status = ask(&sentry, token).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains("token validation failed: "), "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    let status = ask(&sentry, String::new()).await.unwrap_err();
    assert_eq!(status.message(), "the request does not contain a token");
    ask(&sentry, signer.token("k", &with("exp", now() - 200))).await.unwrap();
}

#[tokio::test]
async fn insecure_is_not_enabled_and_a_validator_must_be_named() {
    let set = json!({"keys": [Signer::new().jwk("k")]}).to_string();
    let sentry = Start::standalone().config(&config(&set, &json!({}))).ready().await;
    for (validator, text) in [
        (TokenValidator::Insecure, "the requested validator is not enabled"),
        (TokenValidator::Unknown, "a validator name must be specified in this environment"),
    ] {
        let ask = SignCertificateRequest { token_validator: validator.into(), ..request("app", "ns") };
        let status = sentry.sign(ask).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
    }
}

#[tokio::test]
async fn a_file_is_followed_and_garbage_keeps_the_last_good_set() {
    let (old, new) = (Signer::new(), Signer::new());
    let start = Start::standalone();
    let path = start.dir.path().join("keys.json");
    std::fs::write(&path, json!({"keys": [old.jwk("old")]}).to_string()).unwrap();
    let yaml = config(path.to_str().unwrap(), &json!({}));
    let sentry = start.config(&yaml).ready().await;
    ask(&sentry, old.token("old", &claims())).await.unwrap();
    std::fs::write(&path, "garbage").unwrap();
    let logged = || async { sentry.log().contains("key set cannot be used").then_some(()) };
    testkit::wait_until("garbage is reported", std::time::Duration::from_secs(15), logged).await;
    ask(&sentry, old.token("old", &claims())).await.unwrap();
    std::fs::write(&path, json!({"keys": [new.jwk("new")]}).to_string()).unwrap();
    let granted = || async { ask(&sentry, new.token("new", &claims())).await.ok() };
    testkit::wait_until("the new key is known", std::time::Duration::from_secs(15), granted).await;
}

/// An HTTPS server with one certificate, that answers with what the lock holds.
async fn https(set: std::sync::Arc<parking_lot::Mutex<String>>) -> (u16, String, tokio::task::JoinSet<()>) {
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(identity::tls::provider().clone())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let mut request = [0; 4096];
            if tls.read(&mut request).await.is_err() {
                continue;
            }
            let body = set.lock().clone();
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            tls.write_all(answer.as_bytes()).await.ok();
            tls.shutdown().await.ok();
        }
    });
    (port, certified.cert.pem(), server)
}

#[tokio::test]
async fn an_https_source_with_a_private_ca_works_and_unknown_keys_are_fetched() {
    let (old, new) = (Signer::new(), Signer::new());
    let set = std::sync::Arc::new(parking_lot::Mutex::new(json!({"keys": [old.jwk("old")]}).to_string()));
    let (port, ca, _server) = https(set.clone()).await;
    let yaml = config(&format!("https://localhost:{port}/keys"), &json!({"caCertificate": ca, "requestTimeout": "2s"}));
    let sentry = Start::standalone().config(&yaml).ready().await;
    ask(&sentry, old.token("old", &claims())).await.unwrap();
    *set.lock() = json!({"keys": [new.jwk("new")]}).to_string();
    let granted = || async { ask(&sentry, new.token("new", &claims())).await.ok() };
    testkit::wait_until("the unknown key was fetched", std::time::Duration::from_secs(30), granted).await;
}

#[tokio::test]
async fn faulty_options_end_the_start_naming_the_option() {
    for (yaml, text) in [
        (config("", &json!({})), "'location' must not be empty"),
        (config("not base64!", &json!({})), "source is neither"),
        (config("{\"keys\": []}", &json!({})), "doesn't contain any keys"),
        (config("{\"keys\": []}", &json!({"requestTimeout": "soon"})), "requestTimeout"),
    ] {
        let (status, log) = Start::standalone().config(&yaml).ended().await;
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(text), "{text}: {log}");
    }
}
