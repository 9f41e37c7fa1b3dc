//! Host, path and method rules of the OIDC discovery server (contract §8).
#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions of a test")]

use sentry::core::{
    jwks::{Jwk, JwkSet},
    jwt::{Algorithm, Hash},
    keys::PublicKey,
    oidc::{Answer, Ask, Discovery},
};

fn discovery() -> Discovery {
    Discovery {
        issuer: None,
        jwks_uri: None,
        prefix: String::new(),
        allowed_hosts: Vec::new(),
        algorithm: Algorithm::Rs(Hash::Sha256),
        tls: true,
    }
}

fn keys() -> JwkSet {
    JwkSet { keys: vec![Jwk::of(&PublicKey::ed25519(&[7; 32]).unwrap())] }
}

const ASK: Ask<'static> =
    Ask { method: "GET", path: "/.well-known/openid-configuration", host: "a.example:9080", forwarded_host: "" };

fn document(discovery: &Discovery, ask: &Ask<'_>) -> serde_json::Value {
    match discovery.answer(ask, Some(&keys())) {
        Answer::Json(json) => serde_json::from_str(&json).unwrap(),
        Answer::Text(status, text) => panic!("{status} {text}"),
    }
}

fn status(discovery: &Discovery, ask: &Ask<'_>) -> u16 {
    match discovery.answer(ask, Some(&keys())) {
        Answer::Json(_) => 200,
        Answer::Text(status, _) => status,
    }
}

#[test]
fn other_paths_are_404_and_non_get_is_405() {
    assert_eq!(status(&discovery(), &Ask { path: "/", ..ASK }), 404);
    assert_eq!(status(&discovery(), &Ask { path: "/jwks.json/", ..ASK }), 404);
    assert_eq!(status(&discovery(), &Ask { method: "HEAD", ..ASK }), 405);
    assert_eq!(status(&discovery(), &Ask { path: "/jwks.json", ..ASK }), 200);
}

#[test]
fn the_prefix_is_honoured_and_unprefixed_paths_are_404() {
    let discovery = Discovery { prefix: "/oidc".into(), ..discovery() };
    assert_eq!(status(&discovery, &ASK), 404);
    let ask = Ask { path: "/oidc/.well-known/openid-configuration", ..ASK };
    assert_eq!(document(&discovery, &ask)["jwks_uri"], "https://a.example:9080/oidc/jwks.json");
    assert_eq!(document(&discovery, &ask)["issuer"], "https://a.example:9080");
}

#[test]
fn allowed_hosts_with_and_without_port_and_the_wildcard() {
    let with =
        |hosts: &[&str]| Discovery { allowed_hosts: hosts.iter().map(ToString::to_string).collect(), ..discovery() };
    assert_eq!(status(&with(&["a.example"]), &ASK), 200);
    assert_eq!(status(&with(&["a.example:9080"]), &ASK), 200);
    assert_eq!(status(&with(&["A.example"]), &ASK), 403, "case-sensitive");
    assert_eq!(status(&with(&["b.example"]), &ASK), 403);
    assert_eq!(status(&with(&["*"]), &ASK), 200);
    let forwarded = Ask { forwarded_host: "b.example", ..ASK };
    assert_eq!(status(&with(&["b.example"]), &forwarded), 200);
    assert_eq!(status(&with(&["a.example"]), &forwarded), 403);
    assert_eq!(
        status(&with(&["b.example"]), &Ask { method: "POST", ..ASK }),
        403,
        "the host is checked before the method"
    );
}

#[test]
fn a_forwarded_host_never_leaks_without_a_concrete_allow_list() {
    let forwarded = Ask { forwarded_host: "evil.example", ..ASK };
    assert_eq!(document(&discovery(), &forwarded)["issuer"], "https://a.example:9080");
    let wildcard = Discovery { allowed_hosts: vec!["*".into(), "x".into()], ..discovery() };
    assert_eq!(document(&wildcard, &forwarded)["issuer"], "https://a.example:9080");
    let concrete = Discovery { allowed_hosts: vec!["b.example".into()], ..discovery() };
    let forwarded = Ask { forwarded_host: "b.example", ..ASK };
    assert_eq!(document(&concrete, &forwarded)["issuer"], "https://b.example");
}

#[test]
fn scheme_follows_tls_and_a_custom_jwks_uri_is_verbatim() {
    let discovery = Discovery { tls: false, jwks_uri: Some("urn:anything".into()), ..discovery() };
    let document = document(&discovery, &ASK);
    assert_eq!(document["issuer"], "http://a.example:9080");
    assert_eq!(document["jwks_uri"], "urn:anything");
    assert_eq!(document.get("authorization_endpoint"), None);
}

#[test]
fn an_illegal_host_is_refused() {
    assert_eq!(status(&discovery(), &Ask { host: "a b/c", ..ASK }), 400);
    assert_eq!(status(&discovery(), &Ask { host: "", ..ASK }), 400);
}

#[test]
fn private_members_of_a_key_are_never_served() {
    let set = JwkSet::parse(
        br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc","d":"c2VjcmV0"}]}"#,
    )
    .unwrap();
    let Answer::Json(json) = discovery().answer(&Ask { path: "/jwks.json", ..ASK }, Some(&set)) else { panic!() };
    assert!(json.contains("\"x\"") && !json.contains("\"d\"") && !json.contains("c2VjcmV0"), "{json}");
}
