//! Verifies a signed token against a key set (contract §4.4).
//!
//! The key is chosen by the token's `kid`, the algorithm by the key: what the token says of its
//! own algorithm must agree. Claims that are absent are not required, except audience and
//! subject.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::{
    jwks::{Jwk, JwkSet},
    jwt::{Algorithm, Hash},
    keys::PublicKey,
};

/// How far the clocks of token issuers may differ from ours, in seconds.
const SKEW: f64 = 300.0;
/// No honest token comes near this.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// What a token must say.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// An audience it must have.
    pub audience: &'a str,
    /// Its subject.
    pub subject: &'a str,
}

/// Why a token is not accepted; texts hold what upstream's clients look for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It is no compact JWS.
    #[error("failed to parse jws: {0}")]
    Unreadable(String),
    /// It names no key.
    #[error("failed to find matching key: no key ID (\"kid\") specified in token")]
    NoKeyId,
    /// Its key is not in the set.
    #[error("failed to find key with key ID {0:?} in key set")]
    UnknownKey(String),
    /// Its signature or algorithm does not fit the key.
    #[error("could not verify message using any of the signatures or keys")]
    Signature,
    /// A claim is not as it must be.
    #[error("{claim:?} not satisfied")]
    Claim {
        /// Which.
        claim: &'static str,
    },
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Audiences,
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    iat: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Audiences {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

/// Verifies `token` at `now`.
pub fn verify(token: &str, keys: &JwkSet, expected: Expected<'_>, now: i64) -> Result<(), TokenFault> {
    let claims = verified_claims(token, keys)?;
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in f64")]
    let now = now as f64;
    let ok = [
        ("iat", claims.iat.is_none_or(|iat| iat <= now + SKEW)),
        ("exp", claims.exp.is_none_or(|exp| now < exp + SKEW)),
        ("nbf", claims.nbf.is_none_or(|nbf| nbf <= now + SKEW)),
        ("aud", has_audience(&claims.aud, expected.audience)),
        ("sub", claims.sub.as_deref() == Some(expected.subject)),
    ];
    match ok.into_iter().find(|(_, satisfied)| !satisfied) {
        Some((claim, _)) => Err(TokenFault::Claim { claim }),
        None => Ok(()),
    }
}

fn has_audience(audiences: &Audiences, wanted: &str) -> bool {
    match audiences {
        Audiences::None => false,
        Audiences::One(one) => one == wanted,
        Audiences::Many(many) => many.iter().any(|one| one == wanted),
    }
}

fn verified_claims(token: &str, keys: &JwkSet) -> Result<Claims, TokenFault> {
    let unreadable = |reason: &str| TokenFault::Unreadable(reason.to_owned());
    if token.len() > MAX_TOKEN_BYTES {
        return Err(unreadable("token is too long"));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or_else(|| unreadable("not three parts"))?;
    let (header, payload) = signed.split_once('.').ok_or_else(|| unreadable("not three parts"))?;
    let header: Header = part(header)?;
    if header.crit.is_some() {
        return Err(unreadable("critical headers are not supported"));
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|error| unreadable(&error.to_string()))?;
    let key_id = header.kid.filter(|kid| !kid.is_empty()).ok_or(TokenFault::NoKeyId)?;
    let jwk = keys
        .keys
        .iter()
        .find(|jwk| jwk.kid.as_deref() == Some(&key_id) && jwk.may_sign())
        .ok_or(TokenFault::UnknownKey(key_id))?;
    let (scheme, key) = scheme(jwk, &header.alg).ok_or(TokenFault::Signature)?;
    UnparsedPublicKey::new(scheme, key.bits())
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| TokenFault::Signature)?;
    part(payload)
}

fn part<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, TokenFault> {
    let unreadable = |reason: String| TokenFault::Unreadable(reason);
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|error| unreadable(error.to_string()))?;
    serde_json::from_slice(&json).map_err(|error| unreadable(error.to_string()))
}

/// How signatures of `jwk` are verified, if that is what the token claims to carry.
fn scheme(jwk: &Jwk, claimed: &str) -> Option<(&'static dyn VerificationAlgorithm, PublicKey)> {
    if jwk.alg.as_deref().is_some_and(|alg| alg != claimed) {
        return None;
    }
    let algorithm: Algorithm = claimed.parse().ok()?;
    let key = jwk.public_key()?;
    (key.family() == algorithm.family()).then(|| (verification(algorithm), key))
}

fn verification(algorithm: Algorithm) -> &'static dyn VerificationAlgorithm {
    match algorithm {
        Algorithm::Rs(Hash::Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs(Hash::Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs(Hash::Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps(Hash::Sha256) => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps(Hash::Sha384) => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps(Hash::Sha512) => &signature::RSA_PSS_2048_8192_SHA512,
        Algorithm::Es(Hash::Sha256) => &signature::ECDSA_P256_SHA256_FIXED,
        Algorithm::Es(Hash::Sha384) => &signature::ECDSA_P384_SHA384_FIXED,
        Algorithm::Es(Hash::Sha512) => &signature::ECDSA_P521_SHA512_FIXED,
        Algorithm::EdDsa => &signature::ED25519,
    }
}
