//! JSON Web Keys: reading key sets, matching them with a private key, writing our own.
//!
//! Private members of a key that somebody put into a set are never read, so never served.

use std::fmt;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::{Deserialize, Serialize};

use super::keys::{Family, PrivateKey, PrivateKeyError, PublicKey};

/// One key; only what a public key may say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// Kind of key: `RSA`, `EC` or `OKP`.
    pub kty: String,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// What it is for, `sig`.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// The algorithm it is used with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// Curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// RSA modulus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// RSA exponent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
    /// First coordinate, or the Ed25519 key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// Second coordinate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
}

/// A key set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwkSet {
    /// Its keys.
    pub keys: Vec<Jwk>,
}

/// Why JWT material is refused; texts as upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// The text is no key set.
    #[error("failed to parse JWKS: {0}")]
    Unreadable(String),
    /// The set is empty.
    #[error("JWKS doesn't contain any keys")]
    Empty,
    /// The signing key cannot be read.
    #[error("failed to load JWT signing key: failed to decode JWT signing key: {0}")]
    SigningKey(#[from] PrivateKeyError),
    /// No key of the set is the signing key's.
    #[error("JWKS doesn't contain a matching public key for the JWT signing key")]
    NoMatch,
    /// The configured key id is not in the set.
    #[error("JWKS doesn't contain a key with user-provided key ID {0:?}")]
    NoSuchKeyId(String),
    /// The configured key id is another key's.
    #[error("JWKS contains a key with user-provided key ID {0:?} but the key content doesn't match the signing key")]
    ForeignKeyId(String),
}

impl JwkSet {
    /// Reads a set; a single key counts as a set of one.
    pub fn parse(json: &[u8]) -> Result<Self, JwksError> {
        let value: serde_json::Value =
            serde_json::from_slice(json).map_err(|error| JwksError::Unreadable(error.to_string()))?;
        let set = if value.get("keys").is_some() {
            serde_json::from_value(value)
        } else {
            serde_json::from_value(value).map(|key| Self { keys: vec![key] })
        };
        set.map_err(|error| JwksError::Unreadable(error.to_string()))
    }

    /// The set as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a key set is plain strings")
    }
}

impl Jwk {
    /// The public key in it, if it is one sentry can use.
    pub fn public_key(&self) -> Option<PublicKey> {
        let field = |value: &Option<String>| URL_SAFE_NO_PAD.decode(value.as_ref()?.trim_end_matches('=')).ok();
        match self.kty.as_str() {
            "RSA" => PublicKey::from_rsa_parts(&field(&self.n)?, &field(&self.e)?).ok(),
            "EC" => {
                let family = match self.crv.as_deref()? {
                    "P-256" => Family::P256,
                    "P-384" => Family::P384,
                    "P-521" => Family::P521,
                    _ => return None,
                };
                let point = [&[4][..], &field(&self.x)?, &field(&self.y)?].concat();
                PublicKey::ecdsa(family, &point).ok()
            }
            "OKP" if self.crv.as_deref() == Some("Ed25519") => PublicKey::ed25519(&field(&self.x)?).ok(),
            _ => None,
        }
    }

    /// A key without name, use and algorithm.
    pub fn of(key: &PublicKey) -> Self {
        let encode = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
        let mut jwk = Self {
            kty: String::new(),
            kid: None,
            purpose: None,
            alg: None,
            crv: None,
            n: None,
            e: None,
            x: None,
            y: None,
        };
        match key.family() {
            Family::Rsa => {
                let (n, e) = key.rsa_parts().expect("an RSA key was built from its two numbers");
                jwk.kty = "RSA".into();
                jwk.n = encode(&n);
                jwk.e = encode(&e);
            }
            Family::Ed25519 => {
                jwk.kty = "OKP".into();
                jwk.crv = Some("Ed25519".into());
                jwk.x = encode(key.bits());
            }
            curve => {
                let coordinates = &key.bits()[1..];
                let (x, y) = coordinates.split_at(coordinates.len() / 2);
                jwk.kty = "EC".into();
                jwk.crv = Some(curve_name(curve).into());
                jwk.x = encode(x);
                jwk.y = encode(y);
            }
        }
        jwk
    }

    /// The members that RFC 7638 hashes into a key's thumbprint, as JSON.
    pub fn thumbprint_input(&self) -> String {
        let members = [
            ("crv", &self.crv),
            ("e", &self.e),
            ("kty", &Some(self.kty.clone())),
            ("n", &self.n),
            ("x", &self.x),
            ("y", &self.y),
        ];
        let members: Vec<String> = members
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("\"{name}\":\"{value}\"")))
            .collect();
        format!("{{{}}}", members.join(","))
    }

    /// Whether the key may be used for signatures.
    pub fn may_sign(&self) -> bool {
        self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
    }
}

fn curve_name(family: Family) -> &'static str {
    match family {
        Family::P384 => "P-384",
        Family::P521 => "P-521",
        _ => "P-256",
    }
}

/// The key id of a key that nobody named: its thumbprint, in standard base64 with padding.
pub fn default_key_id(key: &PublicKey) -> String {
    let input = Jwk::of(key).thumbprint_input();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, input.as_bytes());
    STANDARD.encode(digest)
}

/// The JWT half of the trust bundle.
pub struct JwtBundle {
    /// The key as stored.
    pub key_pem: Vec<u8>,
    /// The set as stored.
    pub jwks_json: Vec<u8>,
    /// The signing key.
    pub key: PrivateKey,
    /// The public set.
    pub set: JwkSet,
}

impl fmt::Debug for JwtBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtBundle").field("set", &self.set).finish_non_exhaustive()
    }
}

impl PartialEq for JwtBundle {
    fn eq(&self, other: &Self) -> bool {
        self.key_pem == other.key_pem && self.jwks_json == other.jwks_json
    }
}

impl JwtBundle {
    /// Checks stored material; with a configured key id, the set must have that very key.
    pub fn load(key_pem: Vec<u8>, jwks_json: Vec<u8>, key_id: Option<&str>) -> Result<Self, JwksError> {
        let key = PrivateKey::from_pem(&key_pem)?;
        let set = JwkSet::parse(&jwks_json)?;
        if set.keys.is_empty() {
            return Err(JwksError::Empty);
        }
        find(&set, key.public(), key_id)?;
        Ok(Self { key_pem, jwks_json, key, set })
    }

    /// Makes the set that goes with a key.
    pub fn of_key(key: PrivateKey, key_pem: Vec<u8>, key_id: Option<&str>, algorithm: &str) -> Self {
        let set = JwkSet {
            keys: vec![Jwk {
                kid: Some(key_id.map_or_else(|| default_key_id(key.public()), str::to_owned)),
                purpose: Some("sig".into()),
                alg: Some(algorithm.into()),
                ..Jwk::of(key.public())
            }],
        };
        Self { jwks_json: set.to_json().into_bytes(), key_pem, key, set }
    }
}

fn find(set: &JwkSet, key: &PublicKey, key_id: Option<&str>) -> Result<(), JwksError> {
    let matches = |jwk: &Jwk| jwk.may_sign() && jwk.public_key().as_ref() == Some(key);
    let Some(key_id) = key_id else {
        return if set.keys.iter().any(matches) { Ok(()) } else { Err(JwksError::NoMatch) };
    };
    let mut named = set.keys.iter().filter(|jwk| jwk.kid.as_deref() == Some(key_id)).peekable();
    if named.peek().is_none() {
        return Err(JwksError::NoSuchKeyId(key_id.into()));
    }
    if named.any(matches) { Ok(()) } else { Err(JwksError::ForeignKeyId(key_id.into())) }
}
