//! Picks the certificate of a handshake: always the SVID that is current at that moment.

use std::sync::Arc;

use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::SvidRx;

#[derive(Debug)]
pub(super) struct CurrentSvid(pub(super) SvidRx);

impl CurrentSvid {
    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().as_ref().map(|svid| svid.certified())
    }
}

impl ResolvesServerCert for CurrentSvid {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for CurrentSvid {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.0.borrow().is_some()
    }
}
