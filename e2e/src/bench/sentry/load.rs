//! Callers that want certificates: in a closed loop for cost, at a fixed rate for latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::sentry::v1::SignCertificateRequest;
use proto::sentry::v1::ca_client::CaClient;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Channel;

use crate::bench::credentials::Sentry;

/// Callers of the closed loop, as many as upstream's figures were taken with.
const CALLERS: usize = 16;

/// How callers connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// One for each caller, kept.
    Kept,
    /// A new one for each request, as sidecars do.
    New,
}

/// Its connection, if it keeps one.
pub type Caller = Option<CaClient<Channel>>;

/// A sentry and what to ask it for, in turns.
pub struct Load {
    sentry: Sentry,
    requests: Vec<SignCertificateRequest>,
    next: AtomicUsize,
}

impl Load {
    /// Asks `sentry` for these in turns.
    pub fn new(sentry: Sentry, requests: Vec<SignCertificateRequest>) -> Self {
        Self { sentry, requests, next: AtomicUsize::new(0) }
    }

    fn request(&self) -> SignCertificateRequest {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.requests[turn % self.requests.len()].clone()
    }

    async fn sign(&self, client: &mut CaClient<Channel>) -> Result<()> {
        let signed = client.sign_certificate(self.request()).await.context("ask for a certificate")?;
        ensure!(!signed.into_inner().workload_certificate.is_empty(), "sentry's answer has no certificate");
        Ok(())
    }

    async fn sign_anew(&self) -> Result<()> {
        self.sign(&mut self.sentry.connect().await?).await
    }

    /// The callers of the closed loop.
    pub async fn callers(&self, connections: Connections) -> Result<Vec<Caller>> {
        let caller = || async {
            Ok(match connections {
                Connections::Kept => Some(self.sentry.connect().await?),
                Connections::New => None,
            })
        };
        futures::future::try_join_all((0..CALLERS).map(|_| caller())).await
    }

    /// Has `total` certificates signed as fast as the callers can; how long it took.
    pub async fn closed_loop(&self, callers: &mut [Caller], total: usize) -> Result<Duration> {
        let left = AtomicUsize::new(total);
        let left = &left;
        let calls = callers.iter_mut().map(|kept| async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                match kept {
                    Some(client) => self.sign(client).await?,
                    None => self.sign_anew().await?,
                }
            }
            anyhow::Ok(())
        });
        let started = Instant::now();
        futures::future::try_join_all(calls).await?;
        Ok(started.elapsed())
    }
}

/// How long each call took, counted from when it was due, and how many of them failed.
#[derive(Debug, Default)]
pub struct Latencies {
    /// Of answered and of failed calls.
    pub took: Vec<Duration>,
    /// Failed calls.
    pub failed: usize,
}

impl Latencies {
    fn take(&mut self, (took, is_ok): (Duration, bool)) {
        self.took.push(took);
        self.failed += usize::from(!is_ok);
    }
}

/// Begins `rate` requests a second on new connections for `time`, whether or not earlier ones were
/// answered.
pub async fn at_rate(load: &Arc<Load>, rate: u32, time: Duration) -> Result<Latencies> {
    let period = Duration::from_secs(1) / rate;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls: JoinSet<(Duration, bool)> = JoinSet::new();
    let mut latencies = Latencies::default();
    let started = tokio::time::Instant::now();
    while started.elapsed() < time {
        let due = ticks.tick().await;
        let load = Arc::clone(load);
        calls.spawn(async move {
            let signed = load.sign_anew().await;
            (due.elapsed(), signed.is_ok())
        });
        while let Some(call) = calls.try_join_next() {
            latencies.take(call.context("a call was lost")?);
        }
    }
    while let Some(call) = calls.join_next().await {
        latencies.take(call.context("a call was lost")?);
    }
    Ok(latencies)
}
