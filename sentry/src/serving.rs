//! Sentry's own serving certificate: signed by itself, replaced at half of its life and
//! whenever the bundle changes, picked up by the next handshake.

use std::{sync::Arc, time::Duration};

use identity::{SpiffeId, Svid, SvidError};
use runtime::{BoxError, CancellationToken};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{sync::watch, time::sleep};

use crate::{
    clock::unix_now,
    issuer::{IssueError, Issuer},
    metrics::{Metrics, Reason},
    signing::{self, CryptoError},
};

/// The wall clock is looked at this often: timers alone do not see it jump.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// However short a certificate lives, it is not renewed more often.
const LEAST_PAUSE: Duration = Duration::from_millis(500);
/// Pause after a failed renewal; the old certificate serves on.
const RETRY_EVERY: Duration = Duration::from_secs(10);

/// Why there is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The issuer did not sign.
    #[error("sentry's own certificate was not signed")]
    Issue(#[from] IssueError),
    /// No key.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// The result is no identity.
    #[error("sentry's own certificate is no SVID")]
    Svid(#[from] SvidError),
}

/// Keeps the serving certificate fresh.
pub struct Serving {
    issuer: Arc<Issuer>,
    id: SpiffeId,
    metrics: Metrics,
    svid_tx: watch::Sender<Option<Arc<Svid>>>,
}

impl Serving {
    /// Signs the first one.
    pub fn start(issuer: Arc<Issuer>, id: SpiffeId, metrics: Metrics) -> Result<Self, ServingError> {
        let serving = Self { issuer, id, metrics, svid_tx: watch::Sender::new(None) };
        serving.renew()?;
        Ok(serving)
    }

    /// The current one.
    pub fn svid_rx(&self) -> identity::SvidRx {
        self.svid_tx.subscribe()
    }

    fn renew(&self) -> Result<(), ServingError> {
        let svid = self.sign().inspect_err(|_| {
            self.metrics.serving_failed.get_or_create(&Reason { reason: "ca_error" }).inc();
        })?;
        self.metrics.serving_expiry(svid.not_after());
        self.svid_tx.send_replace(Some(Arc::new(svid)));
        Ok(())
    }

    fn sign(&self) -> Result<Svid, ServingError> {
        let key = signing::new_ed25519()?;
        let issued = self.issuer.issue_own(&self.id, key.public())?;
        let chain = issued.chain_der().map(|der| CertificateDer::from(der.to_vec())).collect();
        let pkcs8 = key.to_pkcs8_der();
        Ok(Svid::try_new(chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8)))?)
    }

    /// Seconds until the middle of the certificate's life.
    fn due_in(&self) -> u64 {
        let svid = self.svid_tx.borrow();
        let due_at = svid.as_ref().map_or(0, |svid| svid.not_before() + (svid.not_after() - svid.not_before()) / 2);
        u64::try_from(due_at - unix_now()).unwrap_or(0)
    }

    /// Until the next look: sooner for a certificate that lives shorter than that.
    fn pause(&self) -> Duration {
        Duration::from_secs(self.due_in()).clamp(LEAST_PAUSE, CHECK_EVERY)
    }

    /// Renews until `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut changed = self.issuer.changed_rx();
        let mut pause = self.pause();
        loop {
            let replaced = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                // The sender lives in the issuer, which this task keeps alive.
                _ = changed.changed() => true,
                () = sleep(pause) => false,
            };
            let renewed = if replaced || self.due_in() == 0 { self.renew() } else { Ok(()) };
            pause = self.pause();
            if let Err(error) = renewed {
                tracing::error!(error = %crate::keeper::chain(&error), "serving certificate was not renewed, the old one serves on");
                pause = RETRY_EVERY;
            }
        }
    }
}
