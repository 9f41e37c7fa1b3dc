//! Metric names are API: the first four are upstream's (placement.md §11.3), the rest is ours.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::core::RoundSummary;

/// A stall worth counting: a phase that kept a namespace waiting this long.
const STALL_SECONDS: f64 = 0.1;

/// Label of upstream's runtime gauges.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HostNamespace {
    /// Namespace of the sidecars.
    pub host_namespace: String,
}

/// Label of phase durations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfPhase {
    /// The phase.
    pub phase: PhaseLabel,
}

/// The phases of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "label values are lower case")]
pub enum PhaseLabel {
    /// LOCK to its last acknowledgement.
    lock,
    /// Replicating the table.
    commit,
    /// UPDATE to its last acknowledgement.
    update,
    /// UNLOCK to its last acknowledgement.
    unlock,
}

/// Label of ended streams.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfReason {
    /// Category of the ending.
    pub reason: &'static str,
}

/// All metrics of placement; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Admitted streams.
    pub runtimes: Family<HostNamespace, Gauge>,
    /// Admitted streams that host actor types.
    pub actor_runtimes: Family<HostNamespace, Gauge>,
    /// 1 on the leader.
    pub leader: Gauge,
    /// The same value under its second name.
    pub raft_leader: Gauge,
    /// Open streams of any kind.
    pub streams: Gauge,
    /// Streams that wait for their first table.
    pub queued: Gauge,
    /// Hosts that keep their place although their stream was lost.
    pub held: Gauge,
    /// Finished rounds.
    pub rounds: Counter,
    /// Phase durations.
    pub phases: Family<OfPhase, Histogram>,
    /// Phases that took over 100 ms.
    pub stalls: Family<OfPhase, Counter>,
    /// Streams ended by placement.
    pub ended: Family<OfReason, Counter>,
    /// Bytes of the last encoded table.
    pub table_bytes: Gauge,
    /// Changes of leadership seen here.
    pub leader_changes: Counter,
    /// Entries that the slowest member lacks.
    pub replication_lag: Gauge<u64, AtomicU64>,
    /// Whether a majority is reachable.
    pub quorum: Gauge,
}

impl Metrics {
    /// Registers everything.
    pub fn register(registry: &mut Registry) -> Self {
        let phases = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let metrics = Self {
            runtimes: Family::default(),
            actor_runtimes: Family::default(),
            leader: Gauge::default(),
            raft_leader: Gauge::default(),
            streams: Gauge::default(),
            queued: Gauge::default(),
            held: Gauge::default(),
            rounds: Counter::default(),
            phases: Family::new_with_constructor(phases),
            stalls: Family::default(),
            ended: Family::default(),
            table_bytes: Gauge::default(),
            leader_changes: Counter::default(),
            replication_lag: Gauge::default(),
            quorum: Gauge::default(),
        };
        metrics.register_upstream(registry.sub_registry_with_prefix("dapr_placement"));
        metrics.register_own(registry.sub_registry_with_prefix("dapr_placement"));
        metrics
    }

    fn register_upstream(&self, r: &mut Registry) {
        r.register("runtimes_total", "Number of sidecars connected", self.runtimes.clone());
        r.register("actor_runtimes_total", "Number of sidecars that host actors", self.actor_runtimes.clone());
        r.register("leader_status", "1 if this replica leads", self.leader.clone());
        r.register("raft_leader_status", "1 if this replica leads", self.raft_leader.clone());
    }

    fn register_own(&self, r: &mut Registry) {
        r.register("streams", "Open streams", self.streams.clone());
        r.register("queued_streams", "Streams that wait for their first table", self.queued.clone());
        r.register("held_hosts", "Hosts kept in the table although their stream was lost", self.held.clone());
        r.register("rounds", "Finished rounds", self.rounds.clone());
        r.register("round_phase_seconds", "Time a phase took", self.phases.clone());
        r.register("stalls", "Phases that took over 100 ms", self.stalls.clone());
        r.register("ended_streams", "Streams ended by placement", self.ended.clone());
        r.register("table_bytes", "Bytes of the table encoded last", self.table_bytes.clone());
        r.register("leader_changes", "Changes of leadership seen by this replica", self.leader_changes.clone());
        r.register("raft_replication_lag", "Entries the slowest member lacks", self.replication_lag.clone());
        r.register("raft_quorum", "1 if a majority is reachable", self.quorum.clone());
    }

    /// This replica leads, or not any more.
    pub fn set_leader(&self, leads: bool) {
        let changed = self.leader.set(i64::from(leads)) != i64::from(leads);
        self.raft_leader.set(i64::from(leads));
        if changed {
            self.leader_changes.inc();
        }
    }

    /// A round is over.
    pub fn finished(&self, round: &RoundSummary) {
        self.rounds.inc();
        let phases = [
            (PhaseLabel::lock, round.lock),
            (PhaseLabel::commit, round.commit),
            (PhaseLabel::update, round.update),
            (PhaseLabel::unlock, round.unlock),
        ];
        for (phase, took) in phases {
            let label = OfPhase { phase };
            self.phases.get_or_create(&label).observe(took.as_secs_f64());
            if took.as_secs_f64() > STALL_SECONDS {
                self.stalls.get_or_create(&label).inc();
            }
        }
    }
}
