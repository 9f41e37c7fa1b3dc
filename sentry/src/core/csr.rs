//! Certificate signing requests: a caller's public key and the proof that it holds the other
//! half. Nothing else a request says is read, let alone copied (RULINGS 11).

use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::keys::{KeyError, PublicKey};

/// No honest request comes near this: an RSA-8192 request is about 3 KiB. Subjects of 16 KiB
/// still fit, and are ignored.
const MAX_PEM_BYTES: usize = 64 * 1024;

/// Why a request is refused; texts as upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// There is no PEM block of the right kind.
    #[error("invalid certificate signing request")]
    NotACsr,
    /// The request cannot be read.
    #[error("failed to parse certificate signing request: {reason}")]
    Unreadable {
        /// Where reading stopped.
        reason: String,
    },
    /// The request is not signed by the key inside, or with a key or scheme that is refused.
    #[error("invalid signature")]
    Signature(#[source] KeyError),
}

/// Reads the first PEM block as a request and checks its signature.
pub fn read(pem: &[u8]) -> Result<PublicKey, CsrError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(unreadable(format!("{} bytes, allowed are {MAX_PEM_BYTES}", pem.len())));
    }
    let block = pem::parse(pem).map_err(|_| CsrError::NotACsr)?;
    // `CERTIFICATE` is what very old sidecars called it.
    if !matches!(block.tag(), "CERTIFICATE REQUEST" | "CERTIFICATE") {
        return Err(CsrError::NotACsr);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(block.contents()).map_err(|error| unreadable(error.to_string()))?;
    if !rest.is_empty() {
        return Err(unreadable("data follows the request".into()));
    }
    if request.signature_value.unused_bits != 0 {
        return Err(unreadable("signature is not a whole number of bytes".into()));
    }
    let info = &request.certification_request_info;
    let key = PublicKey::read(&info.subject_pki).map_err(|error| match error {
        KeyError::MalformedKey { .. } => unreadable(error.to_string()),
        other => CsrError::Signature(other),
    })?;
    key.verify(&request.signature_algorithm, info.raw, &request.signature_value.data).map_err(CsrError::Signature)?;
    Ok(key)
}

fn unreadable(reason: String) -> CsrError {
    CsrError::Unreadable { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::keys::Family;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};

    fn csr(algorithm: &'static rcgen::SignatureAlgorithm) -> (KeyPair, Vec<u8>) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        (key, request.pem().unwrap().into_bytes())
    }

    #[test]
    fn ecdsa_rsa_and_ed25519_csrs_are_all_accepted() {
        for (algorithm, family) in [
            (&rcgen::PKCS_ED25519, Family::Ed25519),
            (&rcgen::PKCS_ECDSA_P256_SHA256, Family::P256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Family::P384),
            (&rcgen::PKCS_ECDSA_P521_SHA512, Family::P521),
            (&rcgen::PKCS_RSA_SHA256, Family::Rsa),
        ] {
            let (_, pem) = csr(algorithm);
            assert_eq!(read(&pem).unwrap().family(), family);
        }
    }

    #[test]
    fn pem_of_another_type_and_no_pem_are_invalid_requests() {
        let key = KeyPair::generate().unwrap();
        assert_eq!(read(key.serialize_pem().as_bytes()), Err(CsrError::NotACsr));
        assert_eq!(read(b"not pem"), Err(CsrError::NotACsr));
        assert_eq!(read(b"\xff\xfe\x00"), Err(CsrError::NotACsr));
        assert_eq!(CsrError::NotACsr.to_string(), "invalid certificate signing request");
    }

    #[test]
    fn unparsable_csr_says_that_it_failed_to_parse() {
        let pem = crate::core::keys::pem_block("CERTIFICATE REQUEST", b"junk".to_vec());
        let text = read(pem.as_bytes()).unwrap_err().to_string();
        assert!(text.starts_with("failed to parse certificate signing request: "), "{text}");
    }

    #[test]
    fn a_csr_whose_signature_does_not_verify_is_refused() {
        let (_, pem) = csr(&rcgen::PKCS_ED25519);
        let mut der = pem::parse(&pem).unwrap().contents().to_vec();
        *der.last_mut().unwrap() ^= 1;
        let pem = crate::core::keys::pem_block("CERTIFICATE REQUEST", der);
        let error = read(pem.as_bytes()).unwrap_err();
        assert_eq!(error, CsrError::Signature(KeyError::BadSignature));
        assert_eq!(error.to_string(), "invalid signature");
    }

    #[test]
    fn data_after_the_first_block_is_ignored() {
        let (_, mut pem) = csr(&rcgen::PKCS_ED25519);
        pem.extend_from_slice(b"trailing rubbish\n-----BEGIN X-----");
        assert!(read(&pem).is_ok());
    }

    #[test]
    fn an_rsa_512_request_is_an_invalid_signature() {
        // Generated with `openssl req -new -newkey rsa:512 -nodes -subj /`.
        let pem = include_bytes!("../../tests/data/rsa512.csr.pem");
        assert_eq!(read(pem), Err(CsrError::Signature(KeyError::RsaSize { bits: 512 })));
    }

    #[test]
    fn an_oversized_request_is_refused_before_it_is_read() {
        assert!(matches!(read(&vec![b'x'; MAX_PEM_BYTES + 1]), Err(CsrError::Unreadable { .. })));
    }

    #[test]
    fn a_subject_of_16_kib_is_ignored() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "x".repeat(16 * 1024));
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        assert!(read(pem.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            prop_assert!(read(&bytes).is_err());
            let pem = crate::core::keys::pem_block("CERTIFICATE REQUEST", bytes);
            prop_assert!(read(pem.as_bytes()).is_err());
        }

        /// The algorithm identifier between the two is not signed; changes that leave it
        /// readable as the same algorithm are harmless.
        #[test]
        fn a_changed_byte_in_what_is_signed_or_in_the_signature_never_passes(
            position in 0usize..150, change in 1u8..=255, in_signature in any::<bool>(),
        ) {
            let (_, pem) = csr(&rcgen::PKCS_ED25519);
            let mut der = pem::parse(&pem).unwrap().contents().to_vec();
            let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
            let signed = request.certification_request_info.raw;
            let start = signed.as_ptr() as usize - der.as_ptr() as usize;
            let range = if in_signature { der.len() - 64..der.len() } else { start..start + signed.len() };
            let position = range.start + position % range.len();
            der[position] ^= change;
            prop_assert!(read(crate::core::keys::pem_block("CERTIFICATE REQUEST", der).as_bytes()).is_err());
        }

        #[test]
        fn a_truncated_request_never_passes(length in 0usize..150) {
            let (_, pem) = csr(&rcgen::PKCS_ED25519);
            let mut der = pem::parse(&pem).unwrap().contents().to_vec();
            der.truncate(length);
            prop_assert!(read(crate::core::keys::pem_block("CERTIFICATE REQUEST", der).as_bytes()).is_err());
        }
    }
}
