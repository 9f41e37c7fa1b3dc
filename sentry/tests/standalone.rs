//! A real sentry process in standalone mode; tests are named after the rows of contract §19.

#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions of a test")]

mod support;

use std::os::unix::fs::PermissionsExt as _;

use proto::sentry::v1::{SignCertificateRequest, sign_certificate_request::TokenValidator};
use support::{
    Ca, certificates, greedy_csr,
    process::{Start, get, send},
    request,
};
use tonic::Code;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

fn parse(der: &[u8]) -> X509Certificate<'_> {
    X509Certificate::from_der(der).unwrap().1
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let san = certificate.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical, "with an empty subject the names are critical");
    san.value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::URI(uri) => (*uri).to_owned(),
            GeneralName::DNSName(dns) => format!("dns:{dns}"),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[tokio::test]
async fn ports_accept_connections_once_started_and_sigterm_ends_with_code_0() {
    let sentry = Start::standalone().ready().await;
    assert_eq!(get(sentry.health, "/healthz", &[]).await.unwrap().0, 200);
    assert_eq!(get(sentry.metrics, "/any/path", &[]).await.unwrap().0, 200);
    tokio::net::TcpStream::connect(("127.0.0.1", sentry.grpc)).await.unwrap();
    assert!(sentry.terminate().success());
}

#[tokio::test]
async fn issuer_expiry_gauge_is_about_365_days_for_a_generated_ca() {
    let sentry = Start::standalone().ready().await;
    let expiry = sentry.metric("dapr_sentry_issuercert_expiry_timestamp").await.unwrap();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((expiry - since.as_secs_f64() - 365.0 * 86_400.0).abs() < 20.0, "{expiry}");
    assert_eq!(sentry.metric("dapr_sentry_issuercert_changed_total").await, Some(1.0));
}

#[tokio::test]
async fn a_generated_ca_has_private_files_and_upstreams_subjects() {
    let sentry = Start::standalone().variable("NAMESPACE", "sys").flag("--trust-domain=td.example").ready().await;
    for name in ["ca.crt", "issuer.crt", "issuer.key"] {
        let metadata = std::fs::metadata(sentry.dir.path().join("creds").join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
    }
    let root = &certificates(&sentry.creds("ca.crt"))[0];
    let issuer = &certificates(&sentry.creds("issuer.crt"))[0];
    let (root, issuer) = (parse(root), parse(issuer));
    assert_eq!(root.subject().to_string(), "O=td.example");
    assert_eq!(issuer.subject().to_string(), "O=spiffe://td.example/ns/sys/dapr-sentry");
    assert_eq!(issuer.issuer().as_raw(), root.subject().as_raw());
    for (certificate, crl) in [(&root, false), (&issuer, true)] {
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_cert_sign());
        assert_eq!(usage.crl_sign(), crl);
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca && constraints.value.path_len_constraint.is_none());
        assert!(certificate.subject_alternative_name().unwrap().is_none());
    }
    let channel = sentry.channel(sentry.creds("ca.crt"), "spiffe://td.example/ns/sys/dapr-sentry");
    let answer = proto::sentry::v1::ca_client::CaClient::new(channel).sign_certificate(request("a", "n")).await;
    assert!(answer.is_ok(), "{answer:?}");
}

#[tokio::test]
async fn a_leaf_follows_the_profile_and_nothing_of_the_csr_but_its_key() {
    let ca = Ca::new(&rcgen::PKCS_ECDSA_P256_SHA256);
    let stored = ca.stored();
    let sentry = Start::standalone().bundle(&stored).ready().await;
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_RSA_SHA256] {
        let (key, csr) = greedy_csr(algorithm);
        let answer = sentry
            .sign(SignCertificateRequest { certificate_signing_request: csr, ..request("app", "ns") })
            .await
            .unwrap();
        let chain = certificates(&answer.workload_certificate);
        assert_eq!(chain.len(), 2, "exactly two PEM blocks for a root and issuer bundle");
        assert!(answer.workload_certificate.ends_with(b"-----END CERTIFICATE-----\n"));
        assert_eq!(chain[1], certificates(&stored.chain)[0], "byte-identical to the configured issuer");
        let (leaf, issuer) = (parse(&chain[0]), parse(&chain[1]));
        leaf.verify_signature(Some(issuer.public_key())).unwrap();
        assert_eq!(leaf.issuer().as_raw(), issuer.subject().as_raw());
        assert_eq!(names(&leaf), ["spiffe://public/ns/ns/app"]);
        assert_eq!(leaf.subject().as_raw(), [0x30, 0], "the subject is empty");
        assert!(leaf.basic_constraints().unwrap().is_none());
        assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature only");
        let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(purposes.server_auth && purposes.client_auth);
        assert_eq!(leaf.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key));
        assert_eq!(answer.valid_until.unwrap().seconds, leaf.validity().not_after.timestamp());
        assert_eq!(answer.trust_chain_certificates, std::slice::from_ref(&stored.anchors));
        assert!(answer.jwt.is_none() && answer.per_audience_jwts.is_empty());
    }
}

#[tokio::test]
async fn chains_of_two_intermediates_come_back_and_roots_never_do() {
    let ca = Ca::with_intermediate();
    let mut stored = ca.stored();
    // A trailing root in the chain, comments, and a second root among the anchors.
    let other = Ca::new(&rcgen::PKCS_ED25519);
    stored.chain = format!("# my issuer\n{}{}", ca.chain_pem, ca.root_pem).into_bytes();
    stored.anchors = format!("# my roots\n{}{}", ca.root_pem, other.root_pem).into_bytes();
    let sentry = Start::standalone().bundle(&stored).ready().await;
    let answer = sentry.sign(request("app", "ns")).await.unwrap();
    let chain = certificates(&answer.workload_certificate);
    assert_eq!(&chain[1..], &certificates(ca.chain_pem.as_bytes())[..]);
    let anchors = format!("{}{}", ca.root_pem, other.root_pem).replace("\r\n", "\n");
    assert_eq!(answer.trust_chain_certificates, [anchors.into_bytes()], "comments are stripped");
    assert_eq!(sentry.creds("ca.crt"), stored.anchors, "loading never rewrites files");
}

#[tokio::test]
async fn the_serving_certificate_is_ed25519_whatever_the_ca() {
    for algorithm in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let ca = Ca::new(algorithm);
        let sentry = Start::standalone().bundle(&ca.stored()).ready().await;
        assert!(sentry.sign(request("app", "ns")).await.is_ok());
        let serving = sentry.serving_chain().await;
        let leaf = parse(&serving[0]);
        assert_eq!(leaf.public_key().algorithm.algorithm.to_id_string(), "1.3.101.112");
        assert_eq!(names(&leaf), ["spiffe://localhost/ns/default/dapr-sentry"]);
        let issuer = certificates(ca.chain_pem.as_bytes()).remove(0);
        assert_eq!(serving[1], issuer);
    }
}

#[tokio::test]
async fn issuer_expiry_gauge_is_the_users_issuer_not_after() {
    let ca = Ca::with(&rcgen::PKCS_ED25519, |_, params| params.not_after = rcgen::date_time_ymd(2035, 3, 1));
    let sentry = Start::standalone().bundle(&ca.stored()).ready().await;
    let text = get(sentry.metrics, "/", &[]).await.unwrap().2;
    assert!(text.contains("\ndapr_sentry_issuercert_expiry_timestamp 2056320000\n"), "{text}");
}

#[tokio::test]
async fn a_key_with_leading_ec_parameters_is_accepted() {
    let ca = Ca::new(&rcgen::PKCS_ECDSA_P256_SHA256);
    let mut stored = ca.stored();
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    stored.key = [parameters.as_bytes(), &stored.key].concat();
    let sentry = Start::standalone().bundle(&stored).ready().await;
    assert!(sentry.sign(request("app", "ns")).await.is_ok());
}

#[tokio::test]
async fn validators_in_standalone_mode() {
    let sentry = Start::standalone().ready().await;
    let with = |validator: i32| SignCertificateRequest { token_validator: validator, ..request("app", "ns") };
    for bad in [-1, TokenValidator::Kubernetes.into(), TokenValidator::Jwks.into(), 99] {
        let status = sentry.sign(with(bad)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad}");
        assert!(status.message().contains("not enabled"), "{status}");
    }
    assert!(sentry.sign(with(TokenValidator::Insecure.into())).await.is_ok());
    let garbage = SignCertificateRequest { token: "garbage".into(), ..request("app", "ns") };
    assert!(sentry.sign(garbage).await.is_ok());
    assert_eq!(sentry.metric("dapr_sentry_cert_sign_failure_total").await, Some(4.0));
    assert_eq!(sentry.metric("dapr_sentry_cert_sign_success_total").await, Some(2.0));
    assert_eq!(sentry.metric("dapr_sentry_cert_sign_request_received_total").await, Some(6.0));
}

#[tokio::test]
async fn refusals_carry_upstreams_codes_and_texts() {
    let sentry = Start::standalone().ready().await;
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem().into_bytes();
    let base = || request("app", "ns");
    let rows = [
        (
            SignCertificateRequest { certificate_signing_request: vec![], ..base() },
            Code::PermissionDenied,
            "CSR is required",
        ),
        (
            SignCertificateRequest { namespace: String::new(), ..base() },
            Code::PermissionDenied,
            "namespace is required",
        ),
        (
            SignCertificateRequest { id: "a".repeat(65), ..base() },
            Code::PermissionDenied,
            "app ID must be 64 characters or less",
        ),
        (
            SignCertificateRequest { trust_domain: "Bad".into(), ..base() },
            Code::PermissionDenied,
            "trust domain characters are limited",
        ),
        (
            SignCertificateRequest { certificate_signing_request: key, ..base() },
            Code::InvalidArgument,
            "invalid certificate signing request",
        ),
        (
            SignCertificateRequest {
                certificate_signing_request:
                    b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n".to_vec(),
                ..base()
            },
            Code::InvalidArgument,
            "failed to parse certificate signing request",
        ),
        (SignCertificateRequest { id: "a:b".into(), ..base() }, Code::Internal, "failed to sign certificate"),
        (SignCertificateRequest { namespace: "../x".into(), ..base() }, Code::Internal, "failed to sign certificate"),
    ];
    for (request, code, text) in rows {
        let status = sentry.sign(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    let log = sentry.log();
    assert!(log.contains("audit=refused") && log.contains("reason=invalid_request"), "{log}");
}

#[tokio::test]
async fn a_changed_bundle_is_taken_up_without_dropping_connections() {
    let first = Ca::new(&rcgen::PKCS_ED25519).stored();
    let sentry = Start::standalone().bundle(&first).ready().await;
    let kept = sentry.channel(first.anchors.clone(), "spiffe://localhost/ns/default/dapr-sentry");
    let mut client = proto::sentry::v1::ca_client::CaClient::new(kept);
    client.sign_certificate(request("app", "ns")).await.unwrap();
    // Garbage first: the last good bundle stays.
    std::fs::write(sentry.dir.path().join("creds/issuer.crt"), "garbage").unwrap();
    let metric = || async { sentry.metric("dapr_sentry_bundle_problem").await.filter(|value| *value > 0.5) };
    testkit::wait_until("the problem is reported", std::time::Duration::from_secs(10), metric).await;
    client.sign_certificate(request("app", "ns")).await.unwrap();
    let second = Ca::new(&rcgen::PKCS_ED25519).stored();
    let creds = sentry.dir.path().join("creds");
    for (name, content) in [("ca.crt", &second.anchors), ("issuer.crt", &second.chain), ("issuer.key", &second.key)] {
        std::fs::write(creds.join(name), content).unwrap();
    }
    let mut moved = client.clone();
    let wanted = second.anchors.clone();
    testkit::wait_until("the new bundle signs", std::time::Duration::from_secs(10), || {
        let (mut client, wanted) = (moved.clone(), wanted.clone());
        async move {
            let answer = client.sign_certificate(request("app", "ns")).await.unwrap().into_inner();
            (answer.trust_chain_certificates == [wanted]).then_some(())
        }
    })
    .await;
    moved.sign_certificate(request("app", "ns")).await.unwrap();
    // New connections see a serving certificate of the new issuer.
    assert!(sentry.sign(request("app", "ns")).await.is_ok());
}

#[tokio::test]
async fn faulty_bundles_end_the_start_with_code_1_naming_the_fault() {
    let (a, b) = (Ca::new(&rcgen::PKCS_ED25519), Ca::new(&rcgen::PKCS_ED25519));
    let (good, other) = (a.stored(), b.stored());
    let two = Ca::with_intermediate();
    let reversed: String = {
        let mut blocks = pem::parse_many(&two.chain_pem).unwrap();
        blocks.reverse();
        blocks.iter().map(pem::encode).collect()
    };
    let rows: [(&str, sentry::core::bundle::Stored, &str); 8] = [
        (
            "anchors of another",
            sentry::core::bundle::Stored { anchors: other.anchors.clone(), ..good.clone() },
            "does not belong to trust anchors",
        ),
        (
            "garbage anchors",
            sentry::core::bundle::Stored { anchors: b"x".to_vec(), ..good.clone() },
            "no certificates found",
        ),
        (
            "garbage chain",
            sentry::core::bundle::Stored { chain: b"x".to_vec(), ..good.clone() },
            "no certificates found",
        ),
        ("garbage key", sentry::core::bundle::Stored { key: b"x".to_vec(), ..good.clone() }, "key is not PEM encoded"),
        (
            "another's key",
            sentry::core::bundle::Stored { key: other.key.clone(), ..good.clone() },
            "issuer key does not match issuer certificate",
        ),
        (
            "wrong order",
            sentry::core::bundle::Stored { chain: reversed.into_bytes(), ..two.stored() },
            "certificate chain is not valid",
        ),
        (
            "a non-root anchor",
            sentry::core::bundle::Stored { anchors: good.chain.clone(), ..good.clone() },
            "not self-signed",
        ),
        ("no key", sentry::core::bundle::Stored { key: vec![], ..good.clone() }, "issuer.key missing"),
    ];
    for (what, stored, text) in rows {
        let start = Start::standalone().bundle(&stored);
        let (status, log) = start.ended().await;
        assert_eq!(status.code(), Some(1), "{what}: {log}");
        assert!(log.contains(text), "{what}: {log}");
    }
}

#[tokio::test]
async fn with_jwt_on_tokens_verify_against_the_served_jwks() {
    for algorithm in ["RS256", "PS384", "ES256", "ES512"] {
        let sentry = Start::standalone()
            .flag("--jwt-enabled")
            .flag(&format!("--jwt-signing-algorithm={algorithm}"))
            .flag("--jwt-issuer=https://issuer.example/base")
            .flag("--jwt-key-id=my key")
            .flag("--oidc-enabled")
            .flag("--oidc-server-tls-enabled=false")
            .flag("--oidc-path-prefix=/x/")
            .ready()
            .await;
        let asked = SignCertificateRequest { jwt_audiences: vec!["aud-1".into()], ..request("app", "ns") };
        let answer = sentry.sign(asked).await.unwrap();
        let (status, head, jwks) = get(sentry.oidc, "/x/jwks.json", &[]).await.unwrap();
        assert_eq!(status, 200);
        assert!(
            head.contains("content-type: application/json") && head.contains("cache-control: public, max-age=3600")
        );
        let keys = sentry::core::jwks::JwkSet::parse(jwks.as_bytes()).unwrap();
        assert_eq!(keys.keys[0].kid.as_deref(), Some("my key"));
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = i64::try_from(since.as_secs()).unwrap();
        let subject = "spiffe://public/ns/ns/app";
        let check = |token: &str, audience: &str| {
            let expected = sentry::core::jws::Expected { audience, subject };
            sentry::core::jws::verify(token, &keys, expected, now)
        };
        let jwt = answer.jwt.unwrap();
        check(&jwt, "public").unwrap();
        check(&jwt, "aud-1").unwrap();
        let mut audiences: Vec<_> = answer.per_audience_jwts.keys().cloned().collect();
        audiences.sort();
        assert_eq!(audiences, ["aud-1", "public"]);
        check(&answer.per_audience_jwts["aud-1"], "aud-1").unwrap();
        assert!(check(&answer.per_audience_jwts["aud-1"], "public").is_err());
        let (_, _, document) = get(sentry.oidc, "/x/.well-known/openid-configuration", &[]).await.unwrap();
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(document["issuer"], "https://issuer.example/base");
        assert_eq!(document["jwks_uri"], "https://issuer.example/x/jwks.json");
        assert_eq!(document["id_token_signing_alg_values_supported"][0], algorithm);
        assert_eq!(get(sentry.oidc, "/jwks.json", &[]).await.unwrap().0, 404);
        assert_eq!(send("POST", sentry.oidc, "/x/jwks.json", &[]).await.unwrap().0, 405);
    }
}

#[tokio::test]
async fn jwt_material_survives_a_restart() {
    let sentry = Start::standalone().flag("--jwt-enabled").flag("--jwt-key-id=k").ready().await;
    let (key, jwks, ca) = (sentry.creds("jwt.key"), sentry.creds("jwks.json"), sentry.creds("ca.crt"));
    let again = Start::standalone().flag("--jwt-enabled").flag("--jwt-key-id=k");
    for name in ["ca.crt", "issuer.crt", "issuer.key", "jwt.key", "jwks.json"] {
        std::fs::write(again.dir.path().join("creds").join(name), sentry.creds(name)).unwrap();
    }
    drop(sentry);
    let again = again.ready().await;
    assert_eq!((again.creds("jwt.key"), again.creds("jwks.json"), again.creds("ca.crt")), (key, jwks, ca));
}

#[tokio::test]
async fn bad_options_end_with_code_1_and_unknown_flags_with_2() {
    for (flag, code, text) in [
        ("--mode=cluster", 1, "invalid mode: cluster"),
        ("--jwt-issuer=x", 1, "jwt-issuer cannot be set when jwt-enabled is false"),
        ("--oidc-enabled", 1, "oidc-server-tls-cert-file is required"),
        ("--oidc-server-tls-cert-file=/x", 1, "both OIDC TLS certificate and key"),
        ("--no-such-flag", 2, "--no-such-flag"),
    ] {
        let (status, log) = Start::standalone().flag(flag).ended().await;
        assert_eq!(status.code(), Some(code), "{flag}: {log}");
        assert!(log.contains(text), "{flag}: {log}");
    }
    let (status, log) = Start::standalone().config("spec: {mtls: {workloadCertTTL: 0s}}").ended().await;
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("spec.mtls.workloadCertTTL"), "{log}");
}

#[tokio::test]
async fn a_start_finishes_new_material_that_a_crash_left_half_copied() {
    let stored = Ca::new(&rcgen::PKCS_ED25519).stored();
    let start = Start::standalone().file("ca.crt", &stored.anchors);
    let pending = start.dir.path().join("creds/.sentry-pending");
    std::fs::create_dir(&pending).unwrap();
    for (index, content) in [&stored.anchors, &stored.chain, &stored.key].into_iter().enumerate() {
        std::fs::write(pending.join(index.to_string()), content).unwrap();
    }
    let sentry = start.ready().await;
    assert_eq!(sentry.creds("issuer.key"), stored.key);
    assert!(sentry.sign(request("app", "ns")).await.is_ok());
    assert!(!pending.exists());
}
