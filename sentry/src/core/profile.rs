//! The bytes of the three certificates sentry makes: leaf, issuer and root (contract §5).
//!
//! The certificates are written field by field because a leaf's issuer name must be the very
//! bytes of the issuer's subject: Go peers chain names byte by byte. Only what stands here can
//! be in a certificate; of a CSR nothing but the public key arrives.

use identity::SpiffeId;
use time::OffsetDateTime;
use yasna::{
    DERWriter, DERWriterSeq, Tag,
    models::{GeneralizedTime, UTCTime},
};

use super::{
    keys::{Family, PublicKey, oid, write_signature_algorithm},
    validity::Window,
};

const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const SUBJECT_KEY_ID: &[u64] = &[2, 5, 29, 14];
const AUTHORITY_KEY_ID: &[u64] = &[2, 5, 29, 35];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];

/// What a certificate takes from the one that signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The signer's subject, as its certificate has it.
    pub subject: Vec<u8>,
    /// The signer's subject key identifier, if its certificate has one.
    pub key_id: Option<Vec<u8>>,
    /// The kind of the signer's key.
    pub family: Family,
}

/// Random bytes of a serial number.
pub type Serial = [u8; 16];

/// A leaf to be written.
#[derive(Debug)]
pub struct Leaf<'a> {
    /// Its one URI name.
    pub id: &'a SpiffeId,
    /// Its DNS names.
    pub dns: &'a [String],
    /// The caller's key.
    pub key: &'a PublicKey,
    /// When it holds.
    pub window: Window,
    /// Its number.
    pub serial: Serial,
}

/// A certificate authority's own certificate to be written.
#[derive(Debug)]
pub struct Authority<'a> {
    /// Its organization, the only part of its subject.
    pub organization: &'a str,
    /// Its key.
    pub key: &'a PublicKey,
    /// When it holds.
    pub window: Window,
    /// Its number.
    pub serial: Serial,
    /// Whether it may sign revocation lists: the issuer may, the root may not.
    pub role: Role,
}

/// Which authority a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The trust anchor.
    Root,
    /// The one that signs workload certificates.
    Issuer,
}

/// The part of a leaf that gets signed.
pub fn leaf_tbs(leaf: &Leaf<'_>, signer: &Signer) -> Vec<u8> {
    let empty_subject = yasna::construct_der(|writer| writer.write_sequence(|_| {}));
    let frame = Frame { serial: leaf.serial, window: leaf.window, subject: &empty_subject, key: leaf.key };
    tbs(&frame, signer, |extensions| {
        // digitalSignature
        extension(extensions, KEY_USAGE, true, |w| w.write_bitvec_bytes(&[0x80], 1));
        extension(extensions, EXTENDED_KEY_USAGE, false, |writer| {
            writer.write_sequence(|writer| {
                writer.next().write_oid(&oid(SERVER_AUTH));
                writer.next().write_oid(&oid(CLIENT_AUTH));
            });
        });
        if let Some(key_id) = &signer.key_id {
            extension(extensions, AUTHORITY_KEY_ID, false, |writer| {
                writer.write_sequence(|writer| {
                    writer.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(key_id));
                });
            });
        }
        // The subject is empty, so the names are critical (RFC 5280 4.2.1.6).
        extension(extensions, SUBJECT_ALT_NAME, true, |writer| write_names(writer, leaf));
    })
}

fn write_names(writer: DERWriter<'_>, leaf: &Leaf<'_>) {
    writer.write_sequence(|writer| {
        for name in leaf.dns {
            writer.next().write_tagged_implicit(Tag::context(2), |w| w.write_ia5_string(name));
        }
        let uri = leaf.id.to_string();
        writer.next().write_tagged_implicit(Tag::context(6), |w| w.write_ia5_string(&uri));
    });
}

/// The part of an authority's certificate that gets signed.
pub fn authority_tbs(authority: &Authority<'_>, signer: &Signer, key_id: &[u8]) -> Vec<u8> {
    let subject = subject(authority.organization);
    let frame = Frame { serial: authority.serial, window: authority.window, subject: &subject, key: authority.key };
    tbs(&frame, signer, |extensions| {
        extension(extensions, KEY_USAGE, true, |writer| match authority.role {
            // digitalSignature, keyCertSign
            Role::Root => writer.write_bitvec_bytes(&[0x84], 6),
            // digitalSignature, keyCertSign, cRLSign
            Role::Issuer => writer.write_bitvec_bytes(&[0x86], 7),
        });
        extension(extensions, BASIC_CONSTRAINTS, true, |writer| {
            writer.write_sequence(|writer| writer.next().write_bool(true));
        });
        extension(extensions, SUBJECT_KEY_ID, false, |w| w.write_bytes(key_id));
    })
}

/// A subject with an organization and nothing else, spelled as upstream spells it:
/// `PrintableString` where the characters allow it, else UTF-8.
pub fn subject(organization: &str) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_set(|writer| {
                writer.next().write_sequence(|writer| {
                    writer.next().write_oid(&oid(ORGANIZATION));
                    if organization.bytes().all(is_printable) {
                        writer.next().write_printable_string(organization);
                    } else {
                        writer.next().write_utf8_string(organization);
                    }
                });
            });
        });
    })
}

fn is_printable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte)
}

/// Puts the signed part and its signature together.
pub fn certificate(tbs: &[u8], family: Family, signature: &[u8]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(tbs);
            write_signature_algorithm(family, writer.next());
            writer.next().write_bitvec_bytes(signature, signature.len() * 8);
        });
    })
}

/// What every certificate has besides its extensions.
struct Frame<'a> {
    serial: Serial,
    window: Window,
    subject: &'a [u8],
    key: &'a PublicKey,
}

fn tbs(frame: &Frame<'_>, signer: &Signer, extensions: impl FnOnce(&mut DERWriterSeq<'_>)) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
            writer.next().write_bigint_bytes(&frame.serial, true);
            write_signature_algorithm(signer.family, writer.next());
            writer.next().write_der(&signer.subject);
            writer.next().write_sequence(|writer| {
                write_time(writer.next(), frame.window.not_before);
                write_time(writer.next(), frame.window.not_after);
            });
            writer.next().write_der(frame.subject);
            frame.key.write_info(writer.next());
            writer.next().write_tagged(Tag::context(3), |writer| writer.write_sequence(extensions));
        });
    })
}

fn write_time(writer: DERWriter<'_>, unix: i64) {
    let time = OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    if (1950..2050).contains(&time.year()) {
        writer.write_utctime(&UTCTime::from_datetime(time));
    } else {
        writer.write_generalized_time(&GeneralizedTime::from_datetime(time));
    }
}

fn extension(writer: &mut DERWriterSeq<'_>, id: &[u64], critical: bool, value: impl FnOnce(DERWriter<'_>)) {
    writer.next().write_sequence(|writer| {
        writer.next().write_oid(&oid(id));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(&yasna::construct_der(value));
    });
}
