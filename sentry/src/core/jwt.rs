//! JWT-SVIDs: the algorithms, and the text that gets signed (contract §7).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use identity::SpiffeId;
use serde::Serialize;

use super::keys::Family;

/// A JWS algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5 with a hash.
    Rs(Hash),
    /// RSA PSS with a hash.
    Ps(Hash),
    /// ECDSA; the hash decides the curve.
    Es(Hash),
    /// Ed25519.
    EdDsa,
}

/// A hash of the SHA-2 family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// The text names no algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unsupported signature algorithm: {0}; allowed are RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 and EdDSA"
)]
pub struct UnknownAlgorithm(String);

const ALL: [(&str, Algorithm); 10] = [
    ("RS256", Algorithm::Rs(Hash::Sha256)),
    ("RS384", Algorithm::Rs(Hash::Sha384)),
    ("RS512", Algorithm::Rs(Hash::Sha512)),
    ("PS256", Algorithm::Ps(Hash::Sha256)),
    ("PS384", Algorithm::Ps(Hash::Sha384)),
    ("PS512", Algorithm::Ps(Hash::Sha512)),
    ("ES256", Algorithm::Es(Hash::Sha256)),
    ("ES384", Algorithm::Es(Hash::Sha384)),
    ("ES512", Algorithm::Es(Hash::Sha512)),
    ("EdDSA", Algorithm::EdDsa),
];

impl std::str::FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        ALL.into_iter()
            .find_map(|(name, algorithm)| (name == text).then_some(algorithm))
            .ok_or_else(|| UnknownAlgorithm(text.into()))
    }
}

impl Algorithm {
    /// Its name.
    pub fn name(self) -> &'static str {
        ALL.into_iter()
            .find_map(|(name, algorithm)| (algorithm == self).then_some(name))
            .expect("the table holds every algorithm")
    }

    /// The kind of key it needs.
    pub fn family(self) -> Family {
        match self {
            Self::Rs(_) | Self::Ps(_) => Family::Rsa,
            Self::Es(Hash::Sha256) => Family::P256,
            Self::Es(Hash::Sha384) => Family::P384,
            Self::Es(Hash::Sha512) => Family::P521,
            Self::EdDsa => Family::Ed25519,
        }
    }

    /// Bytes of each of the two numbers of an ECDSA signature in a JWS.
    pub fn ecdsa_number_bytes(self) -> Option<usize> {
        match self {
            Self::Es(Hash::Sha256) => Some(32),
            Self::Es(Hash::Sha384) => Some(48),
            Self::Es(Hash::Sha512) => Some(66),
            _ => None,
        }
    }
}

/// What a token says.
#[derive(Debug)]
pub struct Token<'a> {
    /// Whose it is.
    pub id: &'a SpiffeId,
    /// Whom it is for.
    pub audiences: &'a [String],
    /// Issuer, if configured; may be empty.
    pub issuer: Option<&'a str>,
    /// When it was made.
    pub issued_at: i64,
    /// How far clocks may differ, in seconds.
    pub skew: i64,
    /// How long it holds, in seconds.
    pub ttl: i64,
    /// Random bytes that name it.
    pub token_id: [u8; 16],
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a [String],
    exp: i64,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    jti: String,
    nbf: i64,
    sub: String,
    #[serde(rename = "use")]
    purpose: &'a str,
}

/// Header and claims as they are signed.
pub fn signing_input(algorithm: Algorithm, key_id: &str, token: &Token<'_>) -> String {
    let header = Header { alg: algorithm.name(), kid: key_id, typ: "JWT" };
    let claims = Claims {
        aud: token.audiences,
        exp: token.issued_at + token.ttl,
        iat: token.issued_at,
        iss: token.issuer,
        jti: hex::encode(token.token_id),
        nbf: token.issued_at - token.skew,
        sub: token.id.to_string(),
        purpose: "sig",
    };
    format!("{}.{}", part(&header), part(&claims))
}

fn part(value: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).expect("strings and numbers serialise"))
}

/// The whole token.
pub fn compact(signing_input: &str, signature: &[u8]) -> String {
    format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature))
}
