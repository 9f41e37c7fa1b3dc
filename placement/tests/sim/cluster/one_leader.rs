//! At most one replica acts as the leader at an instant (the lease), and leaders follow each other.
//!
//! openraft orders leaders by term and number: a term may have several, each higher than the one before.
//! A lower one after a higher one means that a voter forgot its vote.

use super::replica::Process;
use super::world::{Cluster, Seen};
use super::{Chaos, Fault, Invariant, catches, holds, holds_under};

/// The lease: what the hub obeys.
pub struct OneActing;

impl Invariant for OneActing {
    fn check(&mut self, cluster: &Cluster, seen: &Seen) -> Result<(), String> {
        if !matches!(seen, Seen::Led | Seen::Look) {
            return Ok(());
        }
        // One that sleeps decides nothing, and knows better as soon as it is awake.
        let awake = cluster.replicas.iter().flatten().filter(|p| cluster.acts(p.index));
        let acting: Vec<_> = awake.filter(|p| p.leads()).map(|p: &Process| p.index).collect();
        if acting.len() > 1 { Err(format!("replicas {acting:?} act as leaders")) } else { Ok(()) }
    }
}

/// Raft's own promise, which rests on the vote being written before it is given.
pub struct InOrder;

impl Invariant for InOrder {
    fn check(&mut self, cluster: &Cluster, _: &Seen) -> Result<(), String> {
        cluster.network.disorder().map_or(Ok(()), Err)
    }
}

#[test]
fn one_replica_at_most_acts_as_the_leader() {
    holds("one acting leader");
}

#[test]
fn leaders_follow_each_other_in_order() {
    holds("leaders in order");
}

#[test]
fn a_leader_that_counts_acknowledgements_nobody_gave_is_noticed() {
    catches("one acting leader", (Fault::ForgedAcknowledgement, Chaos::Everything), 100);
}

#[test]
fn contested_elections_have_one_outcome() {
    holds_under(Chaos::Elections, "one acting leader", 40);
}

/// The voter of a new leader follows the old one again: two leaders by one vote.
#[test]
fn an_unpersisted_vote_is_noticed() {
    catches("one acting leader", (Fault::UnpersistedVote, Chaos::Elections), 200);
}
