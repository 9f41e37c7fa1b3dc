//! The issuer: signs approved leaves with the bundle that is current at that moment, and makes
//! new certificate authorities.
//!
//! The current bundle is swapped whole; a signature in progress finishes with the one it began
//! with. [`Issuer::replace`] is called by the bundle keeper only.

use std::sync::Arc;

use arc_swap::ArcSwap;
use identity::SpiffeId;
use tokio::sync::watch;

use crate::{
    clock::unix_now,
    core::{
        asked::Approved,
        bundle::{Stored, X509Bundle},
        decide::Bundle,
        keys::{PrivateKey, PublicKey, pem_block},
        profile::{self, Authority, Leaf, Role, Serial, Signer},
        rotation::Successor,
        validity::{IssuerExpiring, Lifetimes, Window, window},
    },
    signing::{self, CryptoError},
};

/// How long a generated root and issuer live.
const CA_LIFETIME_SECS: i64 = 365 * 24 * 3600;

/// Why nothing was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The issuer or its root has expired or is about to.
    #[error(transparent)]
    Expiring(#[from] IssuerExpiring),
    /// The crypto library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// A signed leaf.
#[derive(Debug)]
pub struct Issued {
    /// The leaf.
    pub leaf: Vec<u8>,
    /// Its number.
    pub serial: Serial,
    /// Its window.
    pub window: Window,
    /// The bundle that signed it.
    pub bundle: Arc<Bundle>,
}

impl Issued {
    /// Leaf and issuer chain, PEM.
    pub fn chain_pem(&self) -> String {
        let mut pem = pem_block("CERTIFICATE", self.leaf.as_slice());
        pem.push_str(self.bundle.x509.chain_pem());
        pem
    }

    /// Leaf and issuer chain, DER.
    pub fn chain_der(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.leaf.as_slice()).chain(self.bundle.x509.chain_der())
    }
}

/// Signs with the current bundle.
#[derive(Debug)]
pub struct Issuer {
    bundle: ArcSwap<Bundle>,
    changed: watch::Sender<u64>,
    lifetimes: Lifetimes,
}

impl Issuer {
    /// Begins with `bundle`.
    pub fn new(bundle: Bundle, lifetimes: Lifetimes) -> Self {
        Self { bundle: ArcSwap::from_pointee(bundle), changed: watch::Sender::new(0), lifetimes }
    }

    /// The current bundle.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.bundle.load_full()
    }

    /// Signs with `bundle` from now on.
    pub fn replace(&self, bundle: Bundle) {
        self.bundle.store(Arc::new(bundle));
        self.changed.send_modify(|count| *count += 1);
    }

    /// Ticks whenever the bundle was replaced.
    pub fn changed_rx(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How long certificates live.
    pub fn lifetimes(&self) -> Lifetimes {
        self.lifetimes
    }

    /// Signs what was approved.
    pub fn issue(&self, approved: &Approved) -> Result<Issued, IssueError> {
        self.sign(approved.id(), approved.dns(), approved.key())
    }

    /// Signs sentry's own serving certificate.
    pub fn issue_own(&self, id: &SpiffeId, key: &PublicKey) -> Result<Issued, IssueError> {
        self.sign(id, &[], key)
    }

    fn sign(&self, id: &SpiffeId, dns: &[String], key: &PublicKey) -> Result<Issued, IssueError> {
        let bundle = self.bundle.load_full();
        let window = window(self.lifetimes, unix_now(), bundle.x509.limit(), signing::fraction())?;
        let serial = signing::serial()?;
        let leaf = sign_leaf(&bundle.x509, &Leaf { id, dns, key, window, serial })?;
        Ok(Issued { leaf, serial, window, bundle })
    }
}

/// Signs a leaf with the issuer of `x509`.
pub fn sign_leaf(x509: &X509Bundle, leaf: &Leaf<'_>) -> Result<Vec<u8>, CryptoError> {
    let tbs = profile::leaf_tbs(leaf, x509.signer());
    let signature = signing::sign(x509.key(), &tbs)?;
    Ok(profile::certificate(&tbs, x509.signer().family, &signature))
}

/// Makes a new certificate authority (contract §5.2): an Ed25519 root, whose key is forgotten,
/// and an Ed25519 issuer.
pub fn generate_ca(sentry: &SpiffeId, lifetimes: Lifetimes) -> Result<Stored, CryptoError> {
    let now = unix_now();
    new_ca(sentry, lifetimes, now, now).map(|(stored, _)| stored)
}

/// Makes the CA that takes the place of `old`, whose issuer vouches for the new root. It lasts
/// longer than the old one by the life of a new CA, for the old root may stay to its end.
pub fn generate_successor(
    sentry: &SpiffeId,
    lifetimes: Lifetimes,
    old: &X509Bundle,
    now: i64,
) -> Result<Successor, CryptoError> {
    let (stored, root_key) = new_ca(sentry, lifetimes, now, old.limit().max(now))?;
    let cross = Authority {
        organization: sentry.trust_domain().as_str(),
        key: &root_key,
        window: Window { not_before: not_before(lifetimes, now), not_after: old.issuer_not_after() },
        serial: signing::serial()?,
        role: Role::Root,
    };
    let cross = authority_pem(&cross, old.signer(), old.key())?;
    let chain = [&stored.chain, cross.as_bytes(), old.chain_pem().as_bytes()].concat();
    Ok(Successor { root: stored.anchors, chain, key: stored.key })
}

fn not_before(lifetimes: Lifetimes, now: i64) -> i64 {
    now - i64::try_from(lifetimes.skew().as_secs()).unwrap_or(0)
}

/// A new CA whose life is counted from `from`, with the public key of its root.
fn new_ca(sentry: &SpiffeId, lifetimes: Lifetimes, now: i64, from: i64) -> Result<(Stored, PublicKey), CryptoError> {
    let window = Window { not_before: not_before(lifetimes, now), not_after: from + CA_LIFETIME_SECS };
    let root_key = signing::new_ed25519()?;
    let issuer_key = signing::new_ed25519()?;
    let root = Authority {
        organization: sentry.trust_domain().as_str(),
        key: root_key.public(),
        window,
        serial: signing::serial()?,
        role: Role::Root,
    };
    let signer = Signer {
        subject: profile::subject(root.organization),
        // Upstream's own authorities carry no authority key id (contract §5.2).
        key_id: None,
        family: root_key.public().family(),
    };
    let issuer = Authority {
        organization: &sentry.to_string(),
        key: issuer_key.public(),
        window,
        serial: signing::serial()?,
        role: Role::Issuer,
    };
    let stored = Stored {
        anchors: authority_pem(&root, &signer, &root_key)?.into_bytes(),
        chain: authority_pem(&issuer, &signer, &root_key)?.into_bytes(),
        key: issuer_key.to_pkcs8_pem().into_bytes(),
    };
    Ok((stored, root_key.public().clone()))
}

fn authority_pem(authority: &Authority<'_>, signer: &Signer, key: &PrivateKey) -> Result<String, CryptoError> {
    // RFC 7093, method 1: the leftmost 160 bits of the key's SHA-256.
    let key_id = &signing::sha256(authority.key.bits())[..20];
    let tbs = profile::authority_tbs(authority, signer, key_id);
    let signature = signing::sign(key, &tbs)?;
    Ok(pem_block("CERTIFICATE", profile::certificate(&tbs, signer.family, &signature)))
}

/// Loads material that this process just made or wrote.
pub fn load_now(stored: Stored) -> Result<X509Bundle, crate::core::bundle::BundleError> {
    X509Bundle::load(stored, unix_now())
}
