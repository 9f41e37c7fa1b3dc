//! Signing and making keys: the parts of cryptography that need randomness.

use aws_lc_rs::{
    error::Unspecified,
    rand::{SecureRandom, SystemRandom},
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaEncoding},
};

use crate::core::{
    jwt::{Algorithm, Hash},
    keys::{Family, Pair, PrivateKey},
    profile::Serial,
};

/// The random generator or the crypto library failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the crypto library could not {0}")]
pub struct CryptoError(&'static str);

fn failed(what: &'static str) -> impl FnOnce(Unspecified) -> CryptoError {
    move |_| CryptoError(what)
}

/// Signs as certificates are signed: Ed25519, ECDSA with the curve's hash in ASN.1, or RSA
/// PKCS#1 v1.5 with SHA-256.
pub fn sign(key: &PrivateKey, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let rng = SystemRandom::new();
    match &key.pair {
        Pair::Ed25519(pair) => pair.try_sign(message).map(|signature| signature.as_ref().to_vec()),
        Pair::Ecdsa(pair) => pair.sign(&rng, message).map(|signature| signature.as_ref().to_vec()),
        Pair::Rsa(pair) => {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &rng, message, &mut signature).map(|()| signature)
        }
    }
    .map_err(failed("sign"))
}

/// Signs as a JWS with `algorithm`, which must suit the key.
pub fn sign_jws(key: &PrivateKey, algorithm: Algorithm, input: &[u8]) -> Result<Vec<u8>, CryptoError> {
    match (&key.pair, algorithm) {
        (Pair::Rsa(pair), Algorithm::Rs(_) | Algorithm::Ps(_)) => {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(rsa_encoding(algorithm), &SystemRandom::new(), input, &mut signature)
                .map(|()| signature)
                .map_err(failed("sign a token"))
        }
        (Pair::Ecdsa(_), Algorithm::Es(_)) => {
            let width = algorithm.ecdsa_number_bytes().unwrap_or_default();
            fixed_width(&sign(key, input)?, width).ok_or(CryptoError("convert a signature"))
        }
        (Pair::Ed25519(_), Algorithm::EdDsa) => sign(key, input),
        _ => Err(CryptoError("sign a token with a key of another kind")),
    }
}

fn rsa_encoding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        Algorithm::Rs(Hash::Sha384) => &signature::RSA_PKCS1_SHA384,
        Algorithm::Rs(Hash::Sha512) => &signature::RSA_PKCS1_SHA512,
        Algorithm::Ps(Hash::Sha256) => &signature::RSA_PSS_SHA256,
        Algorithm::Ps(Hash::Sha384) => &signature::RSA_PSS_SHA384,
        Algorithm::Ps(Hash::Sha512) => &signature::RSA_PSS_SHA512,
        _ => &signature::RSA_PKCS1_SHA256,
    }
}

/// The two numbers of an ASN.1 ECDSA signature, each in `width` bytes, as a JWS has them.
fn fixed_width(asn1: &[u8], width: usize) -> Option<Vec<u8>> {
    let numbers = yasna::parse_der(asn1, |reader| {
        reader.read_sequence(|reader| {
            let (r, _) = reader.next().read_bigint_bytes()?;
            let (s, _) = reader.next().read_bigint_bytes()?;
            Ok([r, s])
        })
    })
    .ok()?;
    let mut signature = Vec::with_capacity(2 * width);
    for number in numbers {
        let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let digits = &number[start..];
        signature.resize(signature.len() + width.checked_sub(digits.len())?, 0);
        signature.extend_from_slice(digits);
    }
    Some(signature)
}

/// A new key of the kind that `algorithm` needs.
pub fn new_jwt_key(algorithm: Algorithm) -> Result<PrivateKey, CryptoError> {
    let curve = match algorithm.family() {
        Family::Rsa => return new_rsa(),
        Family::Ed25519 => return new_ed25519(),
        Family::P256 => &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        Family::P384 => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        Family::P521 => &signature::ECDSA_P521_SHA512_ASN1_SIGNING,
    };
    EcdsaKeyPair::generate(curve)
        .map(|pair| PrivateKey::from_ecdsa(algorithm.family(), pair))
        .map_err(failed("generate an ECDSA key"))
}

/// A new Ed25519 key.
pub fn new_ed25519() -> Result<PrivateKey, CryptoError> {
    Ed25519KeyPair::generate().map(PrivateKey::from_ed25519).map_err(failed("generate an Ed25519 key"))
}

/// A new RSA-2048 key.
pub fn new_rsa() -> Result<PrivateKey, CryptoError> {
    const WHAT: &str = "generate an RSA key";
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed(WHAT))?;
    PrivateKey::from_rsa(pair).ok_or(CryptoError(WHAT))
}

/// 16 random bytes.
pub fn serial() -> Result<Serial, CryptoError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(failed("generate random bytes"))?;
    Ok(bytes)
}

/// A random number in [0, 1).
pub fn fraction() -> f64 {
    rand::random::<f64>()
}

/// The SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}
