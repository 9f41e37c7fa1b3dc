//! The one writer of a workload's SVID and trust anchors.
//!
//! Two loops run beside each other, because new anchors may be just what lets a fetch that
//! is waiting for a trustworthy sentry succeed: one follows the anchors, the other fetches
//! and renews. Both end with the stop signal; the second also by a refused first SVID.

use std::{sync::Arc, time::SystemTime};

use rustls::ClientConfig;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{AnchorsRx, PeerRule, Svid, TrustAnchors, tls};

use super::{
    AnchorSource, FetchError, Timing, WorkloadOptions, anchor_file,
    fetch::fetch,
    rotation::{expired, next_look, renew_at},
};

/// Why an identity's task ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// There will be no first SVID.
    #[error("failed to retrieve the initial identity: {0}")]
    InitialIdentity(#[from] FetchError),
    /// The anchors given as text are no anchors.
    #[error(transparent)]
    Anchors(#[from] crate::AnchorsError),
}

type OnReady = Box<dyn FnOnce() + Send>;

/// Keeps a workload's identity fresh while it runs.
pub struct Task {
    options: WorkloadOptions,
    svid: watch::Sender<Option<Arc<Svid>>>,
    anchors: watch::Sender<Option<Arc<TrustAnchors>>>,
    on_ready: Option<OnReady>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Task {
    pub(super) fn new(
        options: WorkloadOptions,
        svid: watch::Sender<Option<Arc<Svid>>>,
        anchors: watch::Sender<Option<Arc<TrustAnchors>>>,
    ) -> Self {
        Self { options, svid, anchors, on_ready: None }
    }

    /// Called once, after the first SVID: the place to turn the health target ready.
    #[must_use]
    pub fn on_ready(mut self, call: impl FnOnce() + Send + 'static) -> Self {
        self.on_ready = Some(Box::new(call));
        self
    }

    /// Runs until stopped, or until sentry refuses the first SVID for good.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkloadError> {
        let Self { options, svid, anchors, on_ready } = self;
        let renewal = Renewal::new(&options, &svid, anchors.subscribe());
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            error = provide_anchors(&options, &anchors) => Err(error),
            ended = renewal.run(on_ready) => match ended {
                Err(error) => Err(error.into()),
                Ok(never) => match never {},
            },
        }
    }
}

/// Returns only with an error.
async fn provide_anchors(
    options: &WorkloadOptions,
    anchors: &watch::Sender<Option<Arc<TrustAnchors>>>,
) -> WorkloadError {
    match &options.trust_anchors {
        AnchorSource::File(path) => match anchor_file::follow(path, options.timing.anchors_poll, anchors).await {},
        AnchorSource::Inline(pem) => match TrustAnchors::parse(pem.clone()) {
            Err(error) => error.into(),
            Ok(parsed) => {
                anchors.send_replace(Some(Arc::new(parsed)));
                std::future::pending().await
            }
        },
    }
}

/// The loop that fetches and renews.
struct Renewal<'a> {
    options: &'a WorkloadOptions,
    timing: Timing,
    svid: &'a watch::Sender<Option<Arc<Svid>>>,
    anchors: AnchorsRx,
    tls: Arc<ClientConfig>,
}

impl<'a> Renewal<'a> {
    fn new(options: &'a WorkloadOptions, svid: &'a watch::Sender<Option<Arc<Svid>>>, anchors: AnchorsRx) -> Self {
        let sentry = PeerRule::Exactly(options.sentry_id());
        let tls = tls::client_anonymous(anchors.clone(), sentry);
        Self { options, timing: options.timing, svid, anchors, tls }
    }

    async fn run(mut self, on_ready: Option<OnReady>) -> Result<std::convert::Infallible, FetchError> {
        let mut svid = self.first().await?;
        if let Some(call) = on_ready {
            call();
        }
        loop {
            self.until_due(&svid).await;
            svid = self.next(&svid).await;
        }
    }

    /// The first SVID. Trouble that may pass is waited out: the component is not ready
    /// meanwhile, and restarting it would change nothing.
    async fn first(&mut self) -> Result<Arc<Svid>, FetchError> {
        // The sender lives in this very task, so it cannot be closed.
        let _ = self.anchors.wait_for(Option::is_some).await;
        loop {
            match self.fetch().await {
                Ok(svid) => return Ok(svid),
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "sentry has no identity for this component yet");
                    sleep(self.timing.least_between).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next SVID; the old one stays in use until there is one.
    async fn next(&mut self, old: &Svid) -> Arc<Svid> {
        loop {
            match self.fetch().await {
                Ok(svid) => return svid,
                Err(error) => {
                    if expired(SystemTime::now(), old.not_after()) {
                        tracing::error!(%error, "identity has expired and cannot be renewed");
                    } else {
                        tracing::warn!(%error, "identity could not be renewed; the old one stays in use");
                    }
                    sleep(self.timing.renewal_retry).await;
                }
            }
        }
    }

    /// Fetches and publishes; anchors that change from here on call for another one.
    async fn fetch(&mut self) -> Result<Arc<Svid>, FetchError> {
        self.anchors.mark_unchanged();
        let svid = Arc::new(fetch(self.options, &self.tls).await?);
        tracing::info!(id = %svid.id(), not_after = svid.not_after(), "identity obtained");
        self.svid.send_replace(Some(Arc::clone(&svid)));
        Ok(svid)
    }

    /// Waits for half of the SVID's life by the wall clock, or for other anchors.
    async fn until_due(&mut self, svid: &Svid) {
        let least = Instant::now() + self.timing.least_between;
        let due = renew_at(svid.not_before(), svid.not_after());
        loop {
            let look = next_look(SystemTime::now(), due, self.timing.clock_check);
            if look.is_zero() {
                break;
            }
            tokio::select! {
                biased;
                changed = self.anchors.changed() => {
                    if changed.is_ok() {
                        tracing::info!("trust anchors changed; the identity is renewed");
                    }
                    break;
                }
                () = sleep(look) => {}
            }
        }
        sleep_until(least).await;
    }
}
