//! Leader election over a `coordination.k8s.io/v1` Lease, with client-go's rules, so that replicas of
//! this control plane and of upstream's elect one leader between them during an upgrade.
//!
//! `decide` is the pure rule; [`Lease::run`] is its shell. A holder that cannot renew within the
//! renew deadline gives leadership up (and tells so through the watch) before others may take it.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease as LeaseObject, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::BoxError;

/// How long others wait after the last renewal they saw (client-go's default).
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a holder may fail to renew before it gives up.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two attempts.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// A candidate for one Lease.
pub struct Lease {
    api: Api<LeaseObject>,
    name: String,
    identity: String,
    leading: watch::Sender<bool>,
}

/// What a candidate should do, given the Lease it just read.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// The Lease is ours: renew it.
    Renew,
    /// Nobody holds it, or the holder is gone: take it.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// Decides from the holder and from how long this candidate has seen the object unchanged. Clocks of
/// other machines play no part.
fn decide(identity: &str, holder: Option<&str>, unchanged_for: Duration, duration: Duration) -> Decision {
    match holder {
        Some(holder) if holder == identity => Decision::Renew,
        None | Some("") => Decision::Take,
        Some(_) if unchanged_for >= duration => Decision::Take,
        Some(_) => Decision::Wait,
    }
}

/// The last version of the object seen and when.
struct Observed {
    version: Option<String>,
    since: Instant,
}

impl Lease {
    /// A candidate named `identity` (unique per process) for Lease `namespace/name`, and the watch
    /// that tells whether it leads.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> (Self, watch::Receiver<bool>) {
        let (leading, leading_rx) = watch::channel(false);
        let lease = Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            leading,
        };
        (lease, leading_rx)
    }

    /// Takes part until `stop`, then releases the Lease if held. Errors of the API server are logged
    /// and retried.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut observed = Observed { version: None, since: Instant::now() };
        let mut renewed = Instant::now();
        loop {
            let attempt = tokio::time::timeout(RENEW_DEADLINE / 2, self.attempt(&mut observed)).await;
            match attempt {
                Ok(Ok(holds)) => {
                    renewed = Instant::now();
                    self.set_leading(holds);
                }
                Ok(Err(error)) => tracing::warn!(
                    lease = self.name,
                    error = &error as &dyn std::error::Error,
                    "cannot reach the leader lease, retrying"
                ),
                Err(_) => tracing::warn!(lease = self.name, "the leader lease did not answer in time, retrying"),
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                self.set_leading(false);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(RETRY_PERIOD.mul_f64(rand::random_range(1.0..1.2))) => {}
            }
        }
        self.release().await;
        Ok(())
    }

    fn set_leading(&self, leads: bool) {
        let changed = self.leading.send_if_modified(|leading| std::mem::replace(leading, leads) != leads);
        if changed {
            tracing::info!(lease = self.name, identity = self.identity, leads, "leadership changed");
        }
    }

    async fn attempt(&self, observed: &mut Observed) -> Result<bool, kube::Error> {
        let Some(mut object) = self.api.get_opt(&self.name).await? else {
            return self.create().await;
        };
        if object.metadata.resource_version != observed.version {
            *observed = Observed { version: object.metadata.resource_version.clone(), since: Instant::now() };
        }
        let spec = object.spec.get_or_insert_default();
        let duration =
            spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(LEASE_DURATION, Duration::from_secs);
        let decision = decide(&self.identity, spec.holder_identity.as_deref(), observed.since.elapsed(), duration);
        if decision == Decision::Wait {
            return Ok(false);
        }
        let now = MicroTime(Timestamp::now());
        if decision == Decision::Take {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(seconds(LEASE_DURATION));
        spec.renew_time = Some(now);
        self.replace(&object).await
    }

    /// `Ok(false)` when another candidate was faster.
    async fn replace(&self, object: &LeaseObject) -> Result<bool, kube::Error> {
        match self.api.replace(&self.name, &PostParams::default(), object).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn create(&self) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let object = LeaseObject {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(seconds(LEASE_DURATION)),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        match self.api.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets the next candidate take over at once.
    async fn release(&self) {
        if !*self.leading.borrow() {
            return;
        }
        self.set_leading(false);
        let released = async {
            let Some(mut object) = self.api.get_opt(&self.name).await? else { return Ok(false) };
            let spec = object.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.identity) {
                return Ok(false);
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            self.replace(&object).await
        };
        match tokio::time::timeout(RETRY_PERIOD, released).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(
                lease = self.name,
                error = &error as &dyn std::error::Error,
                "could not release the leader lease"
            ),
            Err(_) => tracing::warn!(lease = self.name, "could not release the leader lease in time"),
        }
    }
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Duration = Duration::from_secs(1);
    const STALE: Duration = Duration::from_secs(15);

    #[test]
    fn a_holder_renews_however_stale_the_lease_is() {
        assert_eq!(decide("me", Some("me"), STALE, LEASE_DURATION), Decision::Renew);
    }

    #[test]
    fn a_released_or_new_lease_is_taken_at_once() {
        assert_eq!(decide("me", Some(""), FRESH, LEASE_DURATION), Decision::Take);
        assert_eq!(decide("me", None, FRESH, LEASE_DURATION), Decision::Take);
    }

    #[test]
    fn anothers_lease_is_taken_only_once_it_stood_unchanged_for_its_duration() {
        assert_eq!(decide("me", Some("you"), FRESH, LEASE_DURATION), Decision::Wait);
        assert_eq!(decide("me", Some("you"), STALE, LEASE_DURATION), Decision::Take);
    }
}
