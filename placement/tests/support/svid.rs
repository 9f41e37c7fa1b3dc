//! An identity that a test's authority signed.

use std::sync::Arc;

use identity::{Svid, SvidRx};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use testkit::ca::TestCa;
use tokio::sync::watch;

/// The identity of `id`.
pub fn svid(ca: &TestCa, id: &str) -> SvidRx {
    let leaf = ca.leaf(id, |_| {});
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).expect("a key");
    watch::channel(Some(Arc::new(Svid::from_pem(leaf.chain_pem.as_bytes(), key).expect("a chain")))).1
}
