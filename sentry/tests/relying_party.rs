//! Sentry as the OIDC provider of a relying party that follows the standard and uses a library of
//! its own (contract §19): from the issuer's name alone it finds the keys and checks a token.
#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions of a test")]

mod support;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind, jwk::JwkSet};
use proto::sentry::v1::SignCertificateRequest;
use serde::Deserialize;
use support::{
    process::{Start, free_port, get},
    request,
};

/// What OpenID Connect Discovery 1.0 demands and this relying party uses.
#[derive(Deserialize)]
struct Provider {
    issuer: String,
    jwks_uri: String,
    id_token_signing_alg_values_supported: Vec<Algorithm>,
    response_types_supported: Vec<String>,
    subject_types_supported: Vec<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

struct RelyingParty {
    provider: Provider,
    keys: JwkSet,
    audience: &'static str,
}

/// The body behind an address on this machine.
async fn fetch(url: &str) -> String {
    let rest = url.strip_prefix("http://localhost:").unwrap();
    let (port, path) = rest.split_once('/').unwrap();
    let (status, head, body) = get(port.parse().unwrap(), &format!("/{path}"), &[]).await.unwrap();
    assert!(status == 200 && head.contains("content-type: application/json"), "{url}: {status} {head}");
    body
}

impl RelyingParty {
    async fn of(issuer: &str, audience: &'static str) -> Self {
        let document = fetch(&format!("{issuer}/.well-known/openid-configuration")).await;
        let provider: Provider = serde_json::from_str(&document).unwrap();
        assert_eq!(provider.issuer, issuer, "discovery: the issuer is the one that was asked");
        assert!(provider.response_types_supported.contains(&"id_token".to_owned()));
        assert!(provider.subject_types_supported.contains(&"public".to_owned()));
        let keys = serde_json::from_str(&fetch(&provider.jwks_uri).await).unwrap();
        Self { provider, keys, audience }
    }

    fn check(&self, token: &str) -> Result<String, ErrorKind> {
        let refused = |error: jsonwebtoken::errors::Error| error.into_kind();
        let key_id = decode_header(token).map_err(refused)?.kid.ok_or(ErrorKind::InvalidToken)?;
        let key = self.keys.find(&key_id).ok_or(ErrorKind::InvalidToken)?;
        let mut rules = Validation::new(self.provider.id_token_signing_alg_values_supported[0]);
        rules.algorithms.clone_from(&self.provider.id_token_signing_alg_values_supported);
        rules.set_issuer(&[&self.provider.issuer]);
        rules.set_audience(&[self.audience]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub", "nbf"]);
        rules.validate_nbf = true;
        let key = DecodingKey::from_jwk(key).map_err(refused)?;
        decode::<Claims>(token, &key, &rules).map(|token| token.claims.sub).map_err(refused)
    }
}

#[tokio::test]
async fn sentry_works_as_oidc_provider_for_a_standard_relying_party_library() {
    for algorithm in ["RS256", "RS512", "PS384", "ES256", "ES384"] {
        let oidc = free_port();
        let issuer = format!("http://localhost:{oidc}/mesh");
        let start = Start::standalone()
            .flag("--jwt-enabled")
            .flag(&format!("--jwt-signing-algorithm={algorithm}"))
            .flag(&format!("--jwt-issuer={issuer}"))
            .flag("--oidc-enabled")
            .flag("--oidc-server-tls-enabled=false")
            .flag("--oidc-path-prefix=/mesh");
        let sentry = Start { oidc: Some(oidc), ..start }.ready().await;
        let asked = SignCertificateRequest { jwt_audiences: vec!["shop".into()], ..request("app", "ns") };
        let answer = sentry.sign(asked).await.unwrap();
        let token = &answer.per_audience_jwts["shop"];

        let shop = RelyingParty::of(&issuer, "shop").await;
        assert_eq!(shop.check(token).unwrap(), "spiffe://public/ns/ns/app", "{algorithm}");
        // The token with every audience is for each of them.
        shop.check(&answer.jwt.unwrap()).unwrap();
        let bank = RelyingParty::of(&issuer, "bank").await;
        assert_eq!(bank.check(token), Err(ErrorKind::InvalidAudience));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let first = if signature.starts_with('A') { "B" } else { "A" };
        let forged = format!("{signed}.{first}{}", &signature[1..]);
        assert_eq!(shop.check(&forged), Err(ErrorKind::InvalidSignature));
        let other = Start::standalone().flag("--jwt-enabled").flag(&format!("--jwt-signing-algorithm={algorithm}"));
        let foreign = other.ready().await.sign(request("app", "ns")).await.unwrap().jwt.unwrap();
        assert_eq!(shop.check(&foreign), Err(ErrorKind::InvalidToken), "another mesh's key is unknown here");
    }
}
