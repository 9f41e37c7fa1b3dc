//! Turns Raft's metrics into one question: does this node lead, with a live lease, and with which ledgers?

use std::sync::Arc;
use std::time::Duration;

use openraft::{BasicNode, RaftMetrics, ServerState};
use runtime::{BoxError, CancellationToken};
use tokio::sync::watch;

use super::LEASE;
use super::machine::LedgerMachine;
use super::types::{Ledgers, NodeId, Raft};

/// How often the age of the lease is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What this node may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Leadership {
    /// Nobody is known to lead.
    #[default]
    Unknown,
    /// Another node leads.
    Following,
    /// This node leads and everything committed before is applied.
    Leading {
        /// Raft's term; a new one means a new leadership even without a gap.
        term: u64,
        /// The ledgers at its beginning.
        ledgers: Arc<Ledgers>,
    },
}

impl Leadership {
    /// Whether this node leads.
    pub fn is_leading(&self) -> bool {
        matches!(self, Self::Leading { .. })
    }
}

/// A node as the outside may see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NodeStatus {
    /// Raft's term.
    pub term: u64,
    /// Number of the leader it knows of.
    pub leader: Option<NodeId>,
    /// Voting members.
    pub voters: usize,
    /// Whether a majority answered the leader lately, or a follower follows one.
    pub quorum: bool,
    /// Entries that the slowest member lacks; leaders know it.
    pub lag: u64,
}

impl NodeStatus {
    pub(super) fn read(metrics: &RaftMetrics<NodeId, BasicNode>) -> Self {
        let last = metrics.last_log_index.unwrap_or_default();
        let slowest = metrics.replication.iter().flat_map(|r| r.values()).map(|at| at.map_or(0, |id| id.index)).min();
        Self {
            term: metrics.current_term,
            leader: metrics.current_leader,
            voters: metrics.membership_config.membership().voter_ids().count(),
            quorum: if metrics.state == ServerState::Leader {
                has_lease(metrics)
            } else {
                metrics.current_leader.is_some()
            },
            lag: last.saturating_sub(slowest.unwrap_or(last)),
        }
    }
}

fn has_lease(metrics: &RaftMetrics<NodeId, BasicNode>) -> bool {
    let alone = metrics.membership_config.membership().voter_ids().count() == 1;
    alone || metrics.millis_since_quorum_ack.is_some_and(|ms| Duration::from_millis(ms) < LEASE)
}

/// Follows Raft; the only writer of [`Leadership`].
pub struct LeadershipTask {
    raft: Raft,
    machine: LedgerMachine,
    leadership: watch::Sender<Leadership>,
}

impl LeadershipTask {
    pub(super) fn new(raft: Raft, machine: LedgerMachine) -> (Self, watch::Receiver<Leadership>) {
        let (leadership, rx) = watch::channel(Leadership::default());
        (Self { raft, machine, leadership }, rx)
    }

    /// Runs until stopped, or until Raft fails.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut metrics = self.raft.metrics();
        loop {
            let now = metrics.borrow_and_update().clone();
            now.running_state.clone()?;
            self.follow(&now).await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = metrics.changed() => changed?,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn follow(&self, metrics: &RaftMetrics<NodeId, BasicNode>) {
        let leads = metrics.state == ServerState::Leader && has_lease(metrics);
        if !leads {
            let other = metrics.current_leader.is_some_and(|id| id != metrics.id);
            self.set(if other { Leadership::Following } else { Leadership::Unknown });
            return;
        }
        let term = metrics.current_term;
        if matches!(&*self.leadership.borrow(), Leadership::Leading { term: known, .. } if *known == term) {
            return;
        }
        // Everything earlier leaders committed is applied before this one decides anything.
        match tokio::time::timeout(LEASE, self.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => self.set(Leadership::Leading { term, ledgers: Arc::new(self.machine.ledgers()) }),
            Ok(Err(error)) => tracing::debug!(%error, "leadership is not confirmed yet"),
            Err(_elapsed) => tracing::debug!("leadership is not confirmed yet"),
        }
    }

    fn set(&self, new: Leadership) {
        let changed = self.leadership.send_if_modified(|current| {
            let changed = *current != new;
            if changed {
                *current = new;
            }
            changed
        });
        if changed {
            match &*self.leadership.borrow() {
                Leadership::Leading { term, ledgers } => {
                    tracing::info!(term, namespaces = ledgers.len(), "this node is the leader");
                }
                Leadership::Following => tracing::info!("another node is the leader"),
                Leadership::Unknown => tracing::info!("there is no leader"),
            }
        }
    }
}
