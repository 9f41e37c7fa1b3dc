//! The X.509 half of the trust bundle: anchors, issuer chain and issuer key, checked in the
//! order of contract §6.2. A `X509Bundle` that exists can sign, and what it signs verifies.
//!
//! Everything signing needs is read once, when the bundle is loaded. Debug output holds no key.

use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer};

use super::{
    keys::{KeyError, PrivateKey, PrivateKeyError, PublicKey, pem_block},
    profile::Signer,
    rotation::CertificateId,
};

/// Why material is no usable bundle; texts as upstream's where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The PEM of one item is broken or holds no certificate.
    #[error("failed to decode {item}: no certificates found")]
    NoCertificates {
        /// Anchors or issuer chain.
        item: Item,
    },
    /// A certificate cannot be read.
    #[error("failed to decode {item}: certificate {position}: {reason}")]
    Certificate {
        /// Anchors or issuer chain.
        item: Item,
        /// Which one, counted from 1.
        position: usize,
        /// Where reading stopped.
        reason: String,
    },
    /// An anchor is not a root.
    #[error("certificate in trust anchor is not self-signed: {0}")]
    NotSelfSigned(KeyError),
    /// The anchor's issuer name is another's.
    #[error("certificate in trust anchor is not self-signed: its issuer is not its subject")]
    ForeignIssuerName,
    /// The issuer chain's certificates do not sign each other in order.
    #[error("certificate chain is not valid")]
    Chain,
    /// The issuer may not sign certificates.
    #[error("intermediate certificate is not valid for signing")]
    NotAnAuthority,
    /// Only roots are in the issuer chain.
    #[error("issuer chain is empty after re-encoding")]
    EmptyChain,
    /// The issuer's key cannot be used.
    #[error(transparent)]
    Key(#[from] PrivateKeyError),
    /// The issuer's key is another certificate's.
    #[error("issuer key does not match issuer certificate")]
    KeyMismatch,
    /// No anchor signs any certificate of the chain.
    #[error("issuer chain does not belong to trust anchors: certificate signed by unknown authority")]
    UnknownAuthority,
    /// A certificate on the way to the anchor is not valid now.
    #[error("issuer chain does not belong to trust anchors: certificate has expired or is not yet valid")]
    Expired,
    /// The issuer is restricted to other purposes.
    #[error("issuer chain does not belong to trust anchors: certificate specifies an incompatible key usage")]
    Purpose,
}

/// The part of a bundle an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// `ca.crt`.
    Anchors,
    /// `issuer.crt`.
    IssuerChain,
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anchors => "trust anchors",
            Self::IssuerChain => "issuer chain",
        })
    }
}

/// The three items as they are stored, comments and all.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// `ca.crt`.
    pub anchors: Vec<u8>,
    /// `issuer.crt`.
    pub chain: Vec<u8>,
    /// `issuer.key`.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stored(…)")
    }
}

/// A checked bundle.
pub struct X509Bundle {
    stored: Stored,
    anchors: Vec<Certificate>,
    chain: Vec<Certificate>,
    anchors_pem: String,
    chain_pem: String,
    key: PrivateKey,
    signer: Signer,
    limit: i64,
}

impl std::fmt::Debug for X509Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("X509Bundle")
            .field("anchors", &self.anchors.len())
            .field("chain", &self.chain.len())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl PartialEq for X509Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.stored == other.stored
    }
}

impl X509Bundle {
    /// Checks stored material at `now`.
    pub fn load(stored: Stored, now: i64) -> Result<Self, BundleError> {
        let anchors = Certificate::read_all(&stored.anchors, Item::Anchors)?;
        for anchor in &anchors {
            if anchor.subject != anchor.issuer {
                return Err(BundleError::ForeignIssuerName);
            }
            anchor.is_signed_by(anchor).map_err(BundleError::NotSelfSigned)?;
        }
        let chain = read_chain(&stored.chain)?;
        let issuer = &chain[0];
        if !issuer.may_sign {
            return Err(BundleError::NotAnAuthority);
        }
        let emitted: Vec<&Certificate> = chain.iter().filter(|certificate| !certificate.is_self_signed()).collect();
        if emitted.is_empty() {
            return Err(BundleError::EmptyChain);
        }
        let key = PrivateKey::from_pem(&stored.key)?;
        if *key.public() != issuer.key {
            return Err(BundleError::KeyMismatch);
        }
        if !issuer.serves_tls_servers {
            return Err(BundleError::Purpose);
        }
        let limit = limit(&chain, &anchors, now)?;
        Ok(Self {
            anchors_pem: anchors.iter().map(Certificate::pem).collect(),
            chain_pem: emitted.into_iter().map(Certificate::pem).collect(),
            signer: Signer {
                subject: issuer.subject.clone(),
                key_id: issuer.key_id.clone(),
                family: key.public().family(),
            },
            stored,
            anchors,
            chain,
            key,
            limit,
        })
    }

    /// The material this was loaded from.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// All anchors, PEM, without comments.
    pub fn anchors_pem(&self) -> &str {
        &self.anchors_pem
    }

    /// The certificates that follow a leaf, PEM, without comments and roots.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The certificates that follow a leaf, DER.
    pub fn chain_der(&self) -> impl Iterator<Item = &[u8]> {
        self.chain
            .iter()
            .filter(|certificate| !certificate.is_self_signed())
            .map(|certificate| certificate.der.as_slice())
    }

    /// The issuer's key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// What a leaf takes from the issuer.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The last second at which everything between a leaf and its anchor still holds.
    pub fn limit(&self) -> i64 {
        self.limit
    }

    /// Whether path lengths leave room for the two authorities that a change of the root puts
    /// below the issuer. Without it there is no seamless way to a new root (RULINGS 12).
    pub fn has_room_for_successor(&self) -> bool {
        let has_room = |certificate: &Certificate, above: usize| {
            certificate.path_len.is_none_or(|length| usize::try_from(length).is_ok_and(|length| length >= 2 + above))
        };
        let retiring = self.anchors_of_chain();
        let mut anchors = self.anchors.iter().filter(|anchor| retiring.contains(&CertificateId::of(&anchor.der)));
        self.chain.iter().enumerate().all(|(above, certificate)| has_room(certificate, above))
            && anchors.all(|anchor| has_room(anchor, self.chain.len()))
    }

    /// The anchors that vouch for the issuer's chain.
    pub fn anchors_of_chain(&self) -> Vec<CertificateId> {
        let signs = |anchor: &&Certificate| {
            let mut chain = self.chain.iter();
            chain.any(|below| below.issuer == anchor.subject && below.is_signed_by(anchor).is_ok())
        };
        self.anchors.iter().filter(signs).map(|anchor| CertificateId::of(&anchor.der)).collect()
    }

    /// Whether the issuer bears the name that sentry and the CLI give to issuers they make.
    pub fn is_made_by_sentry(&self) -> bool {
        self.chain[0].has_sentrys_name
    }

    /// NotBefore of the issuer.
    pub fn issuer_not_before(&self) -> i64 {
        self.chain[0].not_before
    }

    /// NotAfter of the issuer.
    pub fn issuer_not_after(&self) -> i64 {
        self.chain[0].not_after
    }

    /// NotAfter of the anchor that lasts longest.
    pub fn root_not_after(&self) -> i64 {
        self.anchors.iter().map(|anchor| anchor.not_after).max().unwrap_or(i64::MIN)
    }
}

/// Nothing but an organization that is a sentry's SPIFFE ID.
fn has_sentrys_name(certificate: &X509Certificate<'_>) -> bool {
    let mut attributes = certificate.subject().iter_attributes();
    let organization = certificate.subject().iter_organization().next().and_then(|value| value.as_str().ok());
    attributes.next().is_some()
        && attributes.next().is_none()
        && organization.is_some_and(|name| name.starts_with("spiffe://") && name.ends_with("/dapr-sentry"))
}

fn read_chain(pem: &[u8]) -> Result<Vec<Certificate>, BundleError> {
    let mut chain = Certificate::read_all(pem, Item::IssuerChain)?;
    for pair in chain.windows(2) {
        if pair[0].issuer != pair[1].subject || pair[0].is_signed_by(&pair[1]).is_err() {
            return Err(BundleError::Chain);
        }
    }
    if chain.len() > 1 && chain.last().is_some_and(Certificate::is_self_signed) {
        chain.pop();
    }
    Ok(chain)
}

/// The end of the longest-lasting way from the issuer to an anchor that holds `now`.
/// Path length constraints do not count here, as upstream's check ignores them at the issuer.
fn limit(chain: &[Certificate], anchors: &[Certificate], now: i64) -> Result<i64, BundleError> {
    let mut best = None;
    let mut signed = false;
    let mut until = i64::MAX;
    let mut valid = true;
    for certificate in chain {
        until = until.min(certificate.not_after);
        valid &= certificate.holds_at(now);
        for anchor in anchors {
            if certificate.issuer != anchor.subject || certificate.is_signed_by(anchor).is_err() {
                continue;
            }
            signed = true;
            if valid && anchor.holds_at(now) {
                best = best.max(Some(until.min(anchor.not_after)));
            }
        }
    }
    best.ok_or(if signed { BundleError::Expired } else { BundleError::UnknownAuthority })
}

/// What is read of a certificate.
#[derive(Debug)]
struct Certificate {
    der: Vec<u8>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    key: PublicKey,
    key_id: Option<Vec<u8>>,
    not_before: i64,
    not_after: i64,
    may_sign: bool,
    serves_tls_servers: bool,
    path_len: Option<u32>,
    has_sentrys_name: bool,
}

impl Certificate {
    /// All certificates up to the first PEM block of another kind.
    fn read_all(pem: &[u8], item: Item) -> Result<Vec<Self>, BundleError> {
        let blocks = pem::parse_many(pem).map_err(|_| BundleError::NoCertificates { item })?;
        let certificates = blocks
            .iter()
            .take_while(|block| block.tag() == "CERTIFICATE")
            .enumerate()
            .map(|(index, block)| {
                Self::read(block.contents()).map_err(|reason| BundleError::Certificate {
                    item,
                    position: index + 1,
                    reason,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if certificates.is_empty() {
            return Err(BundleError::NoCertificates { item });
        }
        Ok(certificates)
    }

    fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("data follows the certificate".into());
        }
        if !has_exact_frame(der, &parsed) {
            return Err("the certificate is not in the distinguished encoding (DER)".into());
        }
        let key = PublicKey::read(parsed.public_key()).map_err(|error| error.to_string())?;
        let constraints = parsed.basic_constraints().map_err(|error| error.to_string())?;
        let usage = parsed.key_usage().map_err(|error| error.to_string())?;
        let purposes = parsed.extended_key_usage().map_err(|error| error.to_string())?;
        let key_id = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        Ok(Self {
            der: der.to_vec(),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            key,
            key_id,
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            // Upstream refuses only what lacks every sign of an authority (contract §6.2, 4).
            may_sign: constraints.is_some() || usage.is_some_and(|usage| usage.value.key_cert_sign()),
            serves_tls_servers: purposes.is_none_or(|purposes| purposes.value.server_auth || purposes.value.any),
            has_sentrys_name: has_sentrys_name(&parsed),
            path_len: constraints.and_then(|constraints| constraints.value.path_len_constraint),
        })
    }

    fn is_signed_by(&self, signer: &Self) -> Result<(), KeyError> {
        let (_, parsed) = X509Certificate::from_der(&self.der).map_err(|_| KeyError::BadSignature)?;
        signer.key.verify(&parsed.signature_algorithm, parsed.tbs_certificate.as_ref(), &parsed.signature_value.data)
    }

    fn is_self_signed(&self) -> bool {
        self.subject == self.issuer && self.is_signed_by(self).is_ok()
    }

    fn holds_at(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    fn pem(&self) -> String {
        pem_block("CERTIFICATE", self.der.clone())
    }
}

/// Whether what the signature does not cover is exactly DER: a SEQUENCE of the signed part, the algorithm
/// and the signature as a BIT STRING. The parser is lenient there, peers in Go are not.
fn has_exact_frame(der: &[u8], parsed: &X509Certificate<'_>) -> bool {
    let (signed, signature) = (parsed.tbs_certificate.as_ref(), parsed.signature_value.data.as_ref());
    let Some(start) = der.windows(signed.len()).position(|window| window == signed) else { return false };
    let after = &der[start + signed.len()..];
    // Algorithms are short: their length takes one byte.
    let algorithm = after.get(1).and_then(|length| after.get(..2 + usize::from(*length))).unwrap_or_default();
    let exact = yasna::construct_der(|writer| {
        writer.write_sequence(|fields| {
            fields.next().write_der(signed);
            fields.next().write_der(algorithm);
            fields.next().write_bitvec_bytes(signature, signature.len() * 8);
        });
    });
    // RFC 5280 §4.1.1.2: the signed part names the same algorithm, byte for byte.
    let is_named_inside = !algorithm.is_empty() && signed.windows(algorithm.len()).any(|window| window == algorithm);
    is_named_inside && exact == der
}
