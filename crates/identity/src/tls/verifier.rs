//! Decides in a handshake whether the peer is believed: chain against the anchors that are
//! current at that moment, then the rule. Host names play no part.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{AnchorsRx, SpiffeId, SpiffeUri, anchors::ChainError};

use super::{PeerRule, provider};

/// The chain is good but belongs to somebody else.
#[derive(Debug, thiserror::Error)]
#[error("peer is {found}, not {expected}")]
struct WrongPeer {
    found: SpiffeUri,
    expected: SpiffeId,
}

#[derive(Debug)]
pub(super) struct SpiffeVerifier {
    anchors: AnchorsRx,
    rule: PeerRule,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SpiffeVerifier {
    pub(super) fn new(anchors: AnchorsRx, rule: PeerRule) -> Self {
        Self { anchors, rule, algorithms: provider().signature_verification_algorithms }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let anchors = self.anchors.borrow().clone();
        let Some(anchors) = anchors else {
            return Err(Error::General("trust anchors are not loaded yet".into()));
        };
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(leaf).chain(intermediates).map(|der| CertificateDer::from(der.as_ref())).collect();
        let found = anchors.verify(&chain, now).map_err(refusal)?;
        match &self.rule {
            PeerRule::AnySpiffeId => Ok(()),
            PeerRule::Exactly(expected) if expected.is_exactly(&found) => Ok(()),
            PeerRule::Exactly(expected) => Err(other(WrongPeer { found, expected: expected.clone() })),
        }
    }
}

/// Keeps the TLS alert right for the usual causes; the rest travels as our own error.
fn refusal(error: ChainError) -> Error {
    let known = match &error {
        ChainError::Path { source, .. } => match source {
            webpki::Error::UnknownIssuer => Some(CertificateError::UnknownIssuer),
            webpki::Error::CertExpired { .. } => Some(CertificateError::Expired),
            webpki::Error::CertNotValidYet { .. } => Some(CertificateError::NotValidYet),
            _ => None,
        },
        ChainError::Empty | ChainError::Leaf(_) => None,
    };
    known.map_or_else(|| other(error), Error::InvalidCertificate)
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
