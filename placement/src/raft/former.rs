//! Members that are gone for good: whoever leads takes their votes away.
//!
//! A member that does not answer may come back, so its vote counts until somebody says that it will not.
//! An operator says so with `--former-members`, or with an `--initial-cluster` that does not name it any
//! more while it is silent: of replicas that are stopped together, one may have had to keep its vote.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use runtime::{BoxError, CancellationToken};
use tokio::time::Instant;

use super::Replica;
use super::membership::without;
use super::types::{NodeId, node_id};

/// A change of members takes two commits; a leader that cannot commit stops leading before.
const LIMIT: Duration = Duration::from_secs(10);
/// Wait between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// A member that is not in the leader's list and does not answer for so long is gone. If it comes back it
/// is taken in again.
const SILENCE: Duration = Duration::from_secs(10);

/// Removes former members while this node leads.
pub struct FormerTask {
    replica: Replica,
    former: BTreeSet<NodeId>,
    listed: BTreeSet<NodeId>,
    /// Members that are not listed and do not answer, since when.
    silent: BTreeMap<NodeId, Instant>,
}

impl FormerTask {
    /// `former` are the `--id`s of members that do not come back. This node is never removed by itself.
    pub fn new(replica: Replica, former: &[String]) -> Self {
        let me = replica.id().to_owned();
        let former = former.iter().filter(|id| **id != me).map(|id| node_id(id)).collect();
        let listed = replica.options.members.keys().map(|id| node_id(id)).collect();
        Self { replica, former, listed, silent: BTreeMap::new() }
    }

    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let work = async {
            loop {
                if self.replica.leadership().borrow().is_leading() {
                    self.listen().await;
                    self.remove().await;
                } else {
                    self.silent.clear();
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            () = work => Ok(()),
        }
    }

    /// Asks members that are not listed whether they are there.
    async fn listen(&mut self) {
        let members = self.replica.raft.metrics().borrow().membership_config.clone();
        let unlisted = members.nodes().filter(|(id, _)| !self.listed.contains(id));
        let replica = &self.replica;
        let answers = unlisted.map(|(id, node)| async { (*id, replica.greet((*id, &node.addr)).await.is_some()) });
        let silent = futures::future::join_all(answers).await.into_iter().filter(|(_, answered)| !answered);
        let now = Instant::now();
        self.silent = silent.map(|(id, _)| (id, self.silent.get(&id).copied().unwrap_or(now))).collect();
    }

    fn is_gone(&self, id: NodeId) -> bool {
        self.former.contains(&id) || self.silent.get(&id).is_some_and(|since| since.elapsed() >= SILENCE)
    }

    async fn remove(&self) {
        let members = self.replica.raft.metrics().borrow().membership_config.clone();
        let Some(change) = without(members.membership(), |id| self.is_gone(id)) else { return };
        let Some(_writing) = self.replica.gates.write.enter().await else { return };
        tracing::info!(?change, "removing former members");
        match tokio::time::timeout(LIMIT, self.replica.raft.change_membership(change, false)).await {
            Ok(Ok(_)) => tracing::info!("former members are removed"),
            Ok(Err(error)) => tracing::warn!(%error, "former members could not be removed yet"),
            Err(_elapsed) => tracing::warn!("former members could not be removed in time"),
        }
    }
}
