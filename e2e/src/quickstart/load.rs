//! A steady stream of calls of every kind, made by a pod of order-processor or one like it, which keeps every
//! failure with its time. A test takes something away meanwhile and reads what it cost.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep};

use super::access::{Access, Port};
use super::manifests::NAMESPACE;
use crate::progress::say;

const APP_PORT: u16 = 8080;
/// How long calls must succeed before something is measured.
const WELL_FOR: Duration = Duration::from_secs(15);
/// Twice as long as the user's breaker stays open.
const WELL_LIMIT: Duration = Duration::from_mins(2);

/// What one kind of call came to.
#[derive(Debug, Deserialize)]
pub struct Tally {
    /// Calls made.
    pub calls: u64,
    /// Calls that failed.
    pub failed: u64,
    /// The slowest answer in nanoseconds.
    pub slowest_ns: u64,
    /// The failures.
    pub failures: Vec<Failure>,
}

/// One call that failed.
#[derive(Debug, Deserialize)]
pub struct Failure {
    /// When, in RFC 3339.
    pub at: String,
    /// What the caller was told.
    pub error: String,
}

/// A time in which failures are excused.
pub type Excuse = std::ops::RangeInclusive<OffsetDateTime>;

impl Tally {
    /// Every failure must lie within an excuse, and at least `expected` calls must have been made.
    pub fn judge(&self, kind: &str, expected: u64, excuses: &[Excuse]) -> Result<()> {
        ensure!(self.calls >= expected, "only {} {kind} calls were made, expected {expected}", self.calls);
        for failure in &self.failures {
            let at = OffsetDateTime::parse(&failure.at, &Rfc3339).with_context(|| format!("time {}", failure.at))?;
            ensure!(excuses.iter().any(|e| e.contains(&at)), "{kind} call failed at {at}: {}", failure.error);
        }
        // Failures are kept one by one: none may be lost on the way here.
        ensure!(
            self.failures.len() as u64 == self.failed,
            "{} {kind} failures, {} told",
            self.failed,
            self.failures.len()
        );
        Ok(())
    }
}

/// The pod that makes the calls.
#[derive(Clone)]
pub struct Load {
    access: Access,
    caller: String,
}

impl Load {
    /// A pod of order-processor that can make calls.
    pub async fn of(access: Access) -> Result<Self> {
        let pods = access.pod_names(NAMESPACE, "order-processor").await?;
        let caller = pods.into_iter().next_back().context("order-processor has no pod")?;
        Ok(Self::in_pod(access, caller))
    }

    /// A pod that runs order-processor's program.
    pub fn in_pod(access: Access, pod: String) -> Self {
        Self { access, caller: pod }
    }

    /// Begins anew, with `rate` calls a second of each kind.
    pub async fn start(&self, rate: u32) -> Result<()> {
        self.ask("POST", &format!("/load/start?rate={rate}")).await.map(drop)
    }

    /// Begins anew, calling these applications as well.
    pub async fn start_with_peers(&self, rate: u32, peers: &[String]) -> Result<()> {
        self.ask("POST", &format!("/load/start?rate={rate}&peers={}", peers.join(","))).await.map(drop)
    }

    /// Begins anew until all goes well for a while: a breaker that something earlier opened stays open
    /// for a minute (the user's Resiliency), and what follows shall be measured, not what was.
    pub async fn start_well(&self, rate: u32) -> Result<()> {
        let deadline = Instant::now() + WELL_LIMIT;
        loop {
            self.start(rate).await?;
            sleep(WELL_FOR).await;
            let tallies = self.tallies().await?;
            let Some((kind, bad)) = tallies.iter().find(|(_, tally)| tally.failed > 0) else { return Ok(()) };
            let example = bad.failures.first();
            ensure!(Instant::now() < deadline, "{kind} calls fail before anything is disturbed: {example:?}");
            say(format!("{} of {} {kind} calls fail, waiting: {example:?}", bad.failed, bad.calls));
        }
    }

    /// Ends it.
    pub async fn stop(&self) -> Result<()> {
        self.ask("POST", "/load/stop").await.map(drop)
    }

    /// What each kind of call came to so far.
    pub async fn tallies(&self) -> Result<BTreeMap<String, Tally>> {
        let report = self.ask("GET", "/load/report").await?;
        serde_json::from_value(report["kinds"].clone()).context("the load report cannot be read")
    }

    /// Says how the calls fare, so that a failure is seen next to what caused it.
    pub async fn tell(&self) -> Result<()> {
        for (kind, Tally { calls, failed, slowest_ns, failures }) in self.tallies().await? {
            let slowest = slowest_ns / 1_000_000;
            say(format!("{kind}: {calls} calls, slowest {slowest} ms, {failed} failed {:?}", failures.last()));
        }
        Ok(())
    }

    /// Asks the pod's keeper, an actor with a reminder.
    pub async fn keeper(&self, method: &str) -> Result<Value> {
        self.ask("POST", &format!("/actor/keeper/{method}")).await
    }

    async fn ask(&self, method: &str, path: &str) -> Result<Value> {
        let port = Port { namespace: NAMESPACE, pod: &self.caller, number: APP_PORT };
        self.access.ask_json(port, method, path, None).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "2026-01-01T00:00:30Z";

    fn tally(calls: u64, failures: &[&str]) -> Tally {
        let failure = |at: &&str| Failure { at: (*at).to_owned(), error: "refused".to_owned() };
        let failures: Vec<_> = failures.iter().map(failure).collect();
        Tally { calls, failed: failures.len() as u64, slowest_ns: 0, failures }
    }

    fn excuse(from: i64, to: i64) -> Excuse {
        let at = OffsetDateTime::parse(AT, &Rfc3339).unwrap();
        at + time::Duration::seconds(from)..=at + time::Duration::seconds(to)
    }

    #[test]
    fn one_failure_outside_every_excuse_fails_the_judgement() {
        assert!(tally(10, &[AT]).judge("state", 10, &[]).is_err());
        assert!(tally(10, &[AT]).judge("actor", 10, &[excuse(-20, -10), excuse(1, 10)]).is_err());
        tally(10, &[AT]).judge("actor", 10, &[excuse(-20, -10), excuse(-1, 9)]).unwrap();
    }

    #[test]
    fn too_few_calls_and_untold_failures_fail_the_judgement() {
        assert!(tally(9, &[]).judge("state", 10, &[]).is_err());
        assert!(Tally { failed: 1, ..tally(10, &[]) }.judge("state", 10, &[]).is_err());
        tally(10, &[]).judge("state", 10, &[]).unwrap();
    }
}
