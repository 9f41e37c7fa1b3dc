//! Public keys and signatures of the three families sentry handles: Ed25519, ECDSA on the
//! NIST curves P-256, P-384 and P-521, and RSA.
//!
//! A `PublicKey` is rebuilt from the numbers that make it, never copied from the caller's
//! encoding: what ends in a certificate is the canonical form and nothing else. One function
//! verifies every signature sentry looks at, in CSRs as in certificates.

use aws_lc_rs::{
    encoding::AsDer,
    rsa::KeyPair as RsaKeyPair,
    signature::{
        self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey,
        VerificationAlgorithm,
    },
};
use x509_parser::{
    asn1_rs::Oid,
    prelude::FromDer,
    public_key::{PublicKey as ParsedKey, RSAPublicKey as ParsedRsa},
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};
use yasna::{DERWriter, models::ObjectIdentifier};

/// Below this an RSA key is refused (RULINGS 11).
const RSA_MIN_BITS: usize = 1024;
/// What the crypto library verifies at most.
const RSA_MAX_BITS: usize = 8192;

/// The family of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// RSA with PKCS#1 v1.5 signatures.
    Rsa,
}

/// Why a key or signature was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key is of a kind sentry does not know.
    #[error("unsupported public key algorithm {oid}")]
    UnknownKey {
        /// Its object identifier.
        oid: String,
    },
    /// The key does not follow the rules of its kind.
    #[error("malformed {family:?} public key: {reason}")]
    MalformedKey {
        /// The kind.
        family: Family,
        /// Which rule.
        reason: &'static str,
    },
    /// An RSA key is too small or too large.
    #[error("RSA key has {bits} bits, allowed are {RSA_MIN_BITS} to {RSA_MAX_BITS}")]
    RsaSize {
        /// Its size.
        bits: usize,
    },
    /// The signature is of a kind sentry does not accept for this key.
    #[error("unsupported signature algorithm {oid} for a {family:?} key")]
    UnknownSignature {
        /// Its object identifier.
        oid: String,
        /// The key's kind.
        family: Family,
    },
    /// The signature does not verify.
    #[error("signature does not verify")]
    BadSignature,
}

/// A public key in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    family: Family,
    /// Contents of the BIT STRING: point, `RSAPublicKey` or the 32 bytes of Ed25519.
    bits: Vec<u8>,
}

impl PublicKey {
    /// Reads and checks a key as a CSR or certificate carries it.
    pub fn read(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, KeyError> {
        let bits = info.subject_public_key.data.as_ref();
        match info.algorithm.algorithm.to_id_string().as_str() {
            "1.3.101.112" => Self::ed25519(bits),
            "1.2.840.10045.2.1" => Self::ecdsa(curve(&info.algorithm)?, bits),
            "1.2.840.113549.1.1.1" => Self::rsa(info),
            other => Err(KeyError::UnknownKey { oid: other.into() }),
        }
    }

    /// An Ed25519 key from its 32 bytes.
    pub fn ed25519(bits: &[u8]) -> Result<Self, KeyError> {
        if bits.len() != 32 {
            return Err(malformed(Family::Ed25519, "not 32 bytes"));
        }
        Ok(Self { family: Family::Ed25519, bits: bits.to_vec() })
    }

    /// An ECDSA key from an uncompressed point.
    pub fn ecdsa(family: Family, bits: &[u8]) -> Result<Self, KeyError> {
        let coordinate = match family {
            Family::P256 => 32,
            Family::P384 => 48,
            Family::P521 => 66,
            Family::Ed25519 | Family::Rsa => return Err(malformed(family, "not a curve")),
        };
        if bits.len() != 1 + 2 * coordinate || bits[0] != 4 {
            return Err(malformed(family, "not an uncompressed point of the curve"));
        }
        Ok(Self { family, bits: bits.to_vec() })
    }

    fn rsa(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, KeyError> {
        let Ok(ParsedKey::RSA(key)) = info.parsed() else {
            return Err(malformed(Family::Rsa, "not an RSAPublicKey"));
        };
        Self::from_rsa_parts(key.modulus, key.exponent)
    }

    /// An RSA key of an allowed size, from its two numbers (big endian).
    pub fn from_rsa_parts(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let modulus = strip_zeros(modulus);
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !(RSA_MIN_BITS..=RSA_MAX_BITS).contains(&bits) {
            return Err(KeyError::RsaSize { bits });
        }
        let exponent = strip_zeros(exponent);
        if exponent.is_empty() || exponent.len() > 4 || exponent == [1] || exponent.ends_with(&[0]) {
            return Err(malformed(Family::Rsa, "exponent out of range"));
        }
        Ok(Self { family: Family::Rsa, bits: rsa_public_key(modulus, exponent) })
    }

    /// The kind of key.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The contents of the key's BIT STRING.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// Modulus and exponent of an RSA key.
    pub fn rsa_parts(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let Ok((_, ParsedRsa { modulus, exponent })) = ParsedRsa::from_der(&self.bits) else {
            return None;
        };
        (self.family == Family::Rsa).then(|| (strip_zeros(modulus).to_vec(), strip_zeros(exponent).to_vec()))
    }

    /// Writes the `SubjectPublicKeyInfo`.
    pub fn write_info(&self, writer: DERWriter<'_>) {
        writer.write_sequence(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&oid(key_oid(self.family)));
                match self.family {
                    Family::Ed25519 => {}
                    Family::Rsa => writer.next().write_null(),
                    curve => writer.next().write_oid(&oid(curve_oid(curve))),
                }
            });
            writer.next().write_bitvec_bytes(&self.bits, self.bits.len() * 8);
        });
    }

    /// Verifies a signature of this key, of a kind that suits the key.
    pub fn verify(
        &self,
        algorithm: &AlgorithmIdentifier<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), KeyError> {
        let oid = algorithm.algorithm.to_id_string();
        let Some(scheme) = verification(self.family, &oid) else {
            return Err(KeyError::UnknownSignature { oid, family: self.family });
        };
        UnparsedPublicKey::new(scheme, &self.bits).verify(message, signature).map_err(|_| KeyError::BadSignature)
    }
}

fn malformed(family: Family, reason: &'static str) -> KeyError {
    KeyError::MalformedKey { family, reason }
}

fn strip_zeros(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_bigint_bytes(modulus, true);
            writer.next().write_bigint_bytes(exponent, true);
        });
    })
}

fn curve(algorithm: &AlgorithmIdentifier<'_>) -> Result<Family, KeyError> {
    let curve: Option<Oid<'_>> = algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    match curve.map(|oid| oid.to_id_string()).as_deref() {
        Some("1.2.840.10045.3.1.7") => Ok(Family::P256),
        Some("1.3.132.0.34") => Ok(Family::P384),
        Some("1.3.132.0.35") => Ok(Family::P521),
        other => Err(KeyError::UnknownKey { oid: format!("EC curve {}", other.unwrap_or("without a name")) }),
    }
}

pub(crate) fn oid(components: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(components)
}

fn key_oid(family: Family) -> &'static [u64] {
    match family {
        Family::Ed25519 => &[1, 3, 101, 112],
        Family::Rsa => &[1, 2, 840, 113_549, 1, 1, 1],
        Family::P256 | Family::P384 | Family::P521 => &[1, 2, 840, 10_045, 2, 1],
    }
}

fn curve_oid(family: Family) -> &'static [u64] {
    match family {
        Family::P384 => &[1, 3, 132, 0, 34],
        Family::P521 => &[1, 3, 132, 0, 35],
        _ => &[1, 2, 840, 10_045, 3, 1, 7],
    }
}

/// Writes the `AlgorithmIdentifier` of the signatures sentry makes with a key of `family`.
pub fn write_signature_algorithm(family: Family, writer: DERWriter<'_>) {
    let components: &[u64] = match family {
        Family::Ed25519 => &[1, 3, 101, 112],
        Family::P256 => &[1, 2, 840, 10_045, 4, 3, 2],
        Family::P384 => &[1, 2, 840, 10_045, 4, 3, 3],
        Family::P521 => &[1, 2, 840, 10_045, 4, 3, 4],
        Family::Rsa => &[1, 2, 840, 113_549, 1, 1, 11],
    };
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(components));
        if family == Family::Rsa {
            writer.next().write_null();
        }
    });
}

/// How a signature with algorithm `oid` by a key of `family` is verified, if it is accepted.
fn verification(family: Family, oid: &str) -> Option<&'static dyn VerificationAlgorithm> {
    const SHA256: &str = "1.2.840.10045.4.3.2";
    const SHA384: &str = "1.2.840.10045.4.3.3";
    const SHA512: &str = "1.2.840.10045.4.3.4";
    Some(match (family, oid) {
        (Family::Ed25519, "1.3.101.112") => &signature::ED25519,
        (Family::P256, SHA256) => &signature::ECDSA_P256_SHA256_ASN1,
        (Family::P256, SHA384) => &signature::ECDSA_P256_SHA384_ASN1,
        (Family::P256, SHA512) => &signature::ECDSA_P256_SHA512_ASN1,
        (Family::P384, SHA256) => &signature::ECDSA_P384_SHA256_ASN1,
        (Family::P384, SHA384) => &signature::ECDSA_P384_SHA384_ASN1,
        (Family::P384, SHA512) => &signature::ECDSA_P384_SHA512_ASN1,
        (Family::P521, SHA256) => &signature::ECDSA_P521_SHA256_ASN1,
        (Family::P521, SHA384) => &signature::ECDSA_P521_SHA384_ASN1,
        (Family::P521, SHA512) => &signature::ECDSA_P521_SHA512_ASN1,
        (Family::Rsa, "1.2.840.113549.1.1.11") => &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        (Family::Rsa, "1.2.840.113549.1.1.12") => &signature::RSA_PKCS1_2048_8192_SHA384,
        (Family::Rsa, "1.2.840.113549.1.1.13") => &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        _ => return None,
    })
}

/// Why a private key was refused; texts as upstream's where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrivateKeyError {
    /// There is no PEM block.
    #[error("key is not PEM encoded")]
    NotPem,
    /// The block is of another kind.
    #[error("unsupported block type {found}")]
    BlockType {
        /// Its kind.
        found: String,
    },
    /// The key inside cannot be used.
    #[error("private key cannot be read: neither Ed25519, ECDSA (P-256, P-384, P-521) nor RSA")]
    Unreadable,
}

/// A private key that signs certificates or tokens. Never printed.
pub struct PrivateKey {
    pub(crate) pair: Pair,
    public: PublicKey,
}

/// The key pair of each family, for ASN.1 signatures.
pub(crate) enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateKey({:?} …)", self.public.family)
    }
}

const CURVES: [(Family, &EcdsaSigningAlgorithm); 3] = [
    (Family::P256, &signature::ECDSA_P256_SHA256_ASN1_SIGNING),
    (Family::P384, &signature::ECDSA_P384_SHA384_ASN1_SIGNING),
    (Family::P521, &signature::ECDSA_P521_SHA512_ASN1_SIGNING),
];

impl PrivateKey {
    /// Reads the first private key of a PEM text. A leading `EC PARAMETERS` block, which
    /// openssl writes by default, is skipped.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PrivateKeyError> {
        let blocks = pem::parse_many(pem).map_err(|_| PrivateKeyError::NotPem)?;
        let block = blocks.iter().find(|block| block.tag() != "EC PARAMETERS").ok_or(PrivateKeyError::NotPem)?;
        let der = block.contents();
        let key = match block.tag() {
            "PRIVATE KEY" => Self::from_pkcs8(der),
            "EC PRIVATE KEY" => CURVES.iter().find_map(|(family, algorithm)| {
                let pair = EcdsaKeyPair::from_private_key_der(algorithm, der).ok()?;
                Some(Self::from_ecdsa(*family, pair))
            }),
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(der).ok().and_then(Self::from_rsa),
            other => return Err(PrivateKeyError::BlockType { found: other.into() }),
        };
        key.ok_or(PrivateKeyError::Unreadable)
    }

    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Some(Self::from_ed25519(pair));
        }
        for (family, algorithm) in CURVES {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, der) {
                return Some(Self::from_ecdsa(family, pair));
            }
        }
        RsaKeyPair::from_pkcs8(der).ok().and_then(Self::from_rsa)
    }

    /// Wraps an Ed25519 key.
    pub fn from_ed25519(pair: Ed25519KeyPair) -> Self {
        let bits = pair.public_key().as_ref().to_vec();
        Self { pair: Pair::Ed25519(pair), public: PublicKey { family: Family::Ed25519, bits } }
    }

    /// Wraps an ECDSA key of the curve `family`.
    pub fn from_ecdsa(family: Family, pair: EcdsaKeyPair) -> Self {
        let bits = pair.public_key().as_ref().to_vec();
        Self { pair: Pair::Ecdsa(pair), public: PublicKey { family, bits } }
    }

    /// Wraps an RSA key of an allowed size.
    pub fn from_rsa(pair: RsaKeyPair) -> Option<Self> {
        let bits = {
            let public = pair.public_key();
            rsa_public_key(
                strip_zeros(public.modulus().big_endian_without_leading_zero()),
                strip_zeros(public.exponent().big_endian_without_leading_zero()),
            )
        };
        Some(Self { pair: Pair::Rsa(pair), public: PublicKey { family: Family::Rsa, bits } })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The key as a PKCS#8 `PRIVATE KEY` block.
    pub fn to_pkcs8_pem(&self) -> String {
        pem_block("PRIVATE KEY", self.to_pkcs8_der())
    }

    /// The key in PKCS#8.
    pub fn to_pkcs8_der(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Ed25519(pair) => pair.to_pkcs8v1().map(|der| der.as_ref().to_vec()),
            Pair::Ecdsa(pair) => pair.to_pkcs8v1().map(|der| der.as_ref().to_vec()),
            Pair::Rsa(pair) => pair.as_der().map(|der| der.as_ref().to_vec()),
        }
        .expect("a key that was read or generated can be written")
    }
}

/// One PEM block with line feeds, as Go and openssl write it.
pub fn pem_block(tag: &str, der: impl Into<Vec<u8>>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}
