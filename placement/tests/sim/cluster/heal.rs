//! After the faults have stopped, all replicas are voters under one leader, and every live sidecar is
//! connected, unlocked, and holds the table of exactly the live hosts of its namespace.

use std::collections::BTreeSet;

use super::world::{Cluster, Member, Seen};
use super::{Chaos, END, Fault, Invariant, REPLICAS, catches, holds, holds_under};
use crate::world::ms;

pub struct Heal;

impl Invariant for Heal {
    fn check(&mut self, cluster: &Cluster, seen: &Seen) -> Result<(), String> {
        if let Some(failure) = &cluster.failure {
            return Err(failure.clone());
        }
        if !matches!(seen, Seen::Look) || cluster.now() + ms(2000) < END {
            return Ok(());
        }
        let statuses = cluster.statuses();
        let leaders: BTreeSet<_> = statuses.iter().map(|s| s.leader).collect();
        let whole = statuses.iter().all(|s| s.quorum && s.voters == REPLICAS && s.lag == 0);
        if statuses.len() != REPLICAS || leaders.len() != 1 || leaders.contains(&None) || !whole {
            return Err(format!("replicas are not whole: {statuses:?}"));
        }
        cluster.members.iter().filter(|m| m.sidecar.alive).try_for_each(|member| is_well(cluster, member))
    }
}

fn is_well(cluster: &Cluster, member: &Member) -> Result<(), String> {
    let sidecar = &member.sidecar;
    let peers = cluster.members.iter().filter(|m| m.namespace == member.namespace && m.sidecar.alive);
    let hosting: BTreeSet<_> = peers.filter(|m| !m.sidecar.types.is_empty()).map(|m| m.sidecar.name.clone()).collect();
    let Some(table) = &sidecar.table else { return Err(format!("{} has no table", sidecar.name)) };
    if sidecar.locked_since.is_some() || !sidecar.stuck().is_empty() {
        return Err(format!("{} is locked, or has types blocked: {:?}", sidecar.name, sidecar.stuck()));
    }
    let named: BTreeSet<_> = table.hosts.keys().cloned().collect();
    if named == hosting {
        return Ok(());
    }
    Err(format!("{} holds table {} of {named:?}, live are {hosting:?}", sidecar.name, table.version))
}

#[test]
fn the_cluster_is_in_order_again_after_the_faults_stop() {
    holds("heal");
}

#[test]
fn two_replicas_without_memory_and_one_that_remembers_find_together() {
    holds_under(Chaos::Forgetful, "heal", 60);
}

#[test]
fn a_cut_that_stays_is_noticed() {
    catches("heal", (Fault::UnmendedCut, Chaos::Everything), 50);
}
