//! Who is at the other end of a connection, as its handshake proved it.
//!
//! A server's connections carry a [`Peer`]; tonic hands it to each request as an extension.
//! A handshake admits any valid SPIFFE ID: whether the name is a Dapr identity is asked
//! here, so that the service can answer with its own status.

use std::{net::SocketAddr, sync::Arc};

use rustls_pki_types::CertificateDer;

use crate::{
    SpiffeId, SpiffeUri,
    leaf::{Leaf, LeafKey},
    spiffe_id::MalformedPeer,
};

/// Why a connection has no Dapr identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The connection is plaintext, or its server asked for no certificate.
    #[error("peer presented no certificate")]
    NoCertificate,
    /// The name in the certificate has another shape.
    #[error(transparent)]
    Malformed(#[from] MalformedPeer),
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    remote_addr: SocketAddr,
    certificate: Option<Arc<Leaf>>,
}

impl Peer {
    /// A peer that proved nothing.
    pub fn anonymous(remote_addr: SocketAddr) -> Self {
        Self { remote_addr, certificate: None }
    }

    /// The peer of a handshake whose verifier accepted this leaf.
    pub(crate) fn verified(remote_addr: SocketAddr, leaf: Option<&CertificateDer<'_>>) -> Self {
        Self { remote_addr, certificate: leaf.and_then(|der| Leaf::read(der).ok()).map(Arc::new) }
    }

    /// Where the connection comes from.
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote_addr
    }

    /// The SPIFFE ID in the peer's certificate, if it presented one.
    pub fn uri(&self) -> Option<&SpiffeUri> {
        self.certificate.as_ref().map(|leaf| leaf.id())
    }

    /// The kind of key in the peer's certificate, if it presented one.
    pub fn key_kind(&self) -> Option<LeafKey> {
        self.certificate.as_ref().map(|leaf| leaf.key)
    }

    /// The peer's Dapr identity, tolerating path segments after the app id.
    pub fn id(&self) -> Result<SpiffeId, PeerError> {
        let uri = self.uri().ok_or(PeerError::NoCertificate)?;
        SpiffeId::from_peer(uri).ok_or_else(|| PeerError::Malformed(MalformedPeer { id: uri.to_string() }))
    }
}

/// The peer of the connection a request came on, if [`crate::server`] accepted it.
pub fn of<T>(request: &tonic::Request<T>) -> Option<&Peer> {
    request.extensions().get::<Peer>()
}

/// The Dapr identity of the connection a request came on.
pub fn id_of<T>(request: &tonic::Request<T>) -> Result<SpiffeId, PeerError> {
    of(request).ok_or(PeerError::NoCertificate)?.id()
}
