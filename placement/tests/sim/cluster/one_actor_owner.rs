//! No two sidecars run the same actor: neither by an unlocked table nor within the drain after their
//! replica was lost, when hosts are held.
//!
//! Left out: sidecars that were frozen (RULINGS 21); 1.16, which acknowledges nothing (RULINGS 15); and
//! those whose replica slept longer than a host is held, and could not end their streams (see `sleep`).

use std::sync::Arc;

use placement::core::Generation;

use super::world::{Cluster, Seen};
use super::{Chaos, Fault, Invariant, catches, holds};

const ACTORS: u64 = 8;

pub struct OneOwner;

impl Invariant for OneOwner {
    fn check(&mut self, cluster: &Cluster, seen: &Seen) -> Result<(), String> {
        if !matches!(seen, Seen::Moved) {
            return Ok(());
        }
        for namespace in ["default", "other"] {
            for actor_type in ["a", "b", "c"].map(Arc::from) {
                for actor in 0..ACTORS {
                    one_owner(cluster, namespace, &actor_type, actor)?;
                }
            }
        }
        Ok(())
    }
}

fn one_owner(cluster: &Cluster, namespace: &str, actor_type: &Arc<str>, actor: u64) -> Result<(), String> {
    let here = cluster.members.iter().filter(|m| m.namespace == namespace);
    let provable =
        here.filter(|m| !m.sidecar.was_frozen && m.sidecar.generation != Generation::V116 && !cluster.oversleeps(m));
    let provable = provable.map(|m| &m.sidecar);
    let now = cluster.now();
    let mut claims = provable.filter(|s| s.claims(actor_type, actor) || s.drains(now, actor_type, actor));
    match (claims.next(), claims.next()) {
        (Some(one), Some(other)) => Err(format!("{} and {} both run {actor_type}/{actor}", one.name, other.name)),
        _ => Ok(()),
    }
}

#[test]
fn an_actor_never_runs_on_two_hosts_of_a_cluster() {
    holds("one owner");
}

#[test]
fn a_follower_that_keeps_streams_without_a_lease_is_noticed() {
    catches("one owner", (Fault::FollowerWithoutLease, Chaos::Isolation), 30);
}

#[test]
fn a_skipped_hold_after_a_failover_is_noticed() {
    catches("one owner", (Fault::SkippedHold, Chaos::Isolation), 30);
}
