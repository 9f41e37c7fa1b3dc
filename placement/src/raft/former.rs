//! Members that are gone for good: whoever leads and was told of them takes their votes away.
//!
//! Nothing else removes a member: a replica that does not answer may come back, and its vote counts
//! until an operator says that it will not.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::{BasicNode, ChangeMembers};
use runtime::{BoxError, CancellationToken};

use super::Replica;
use super::types::{NodeId, node_id};

/// A change of members takes two commits; a leader that cannot commit stops leading before.
const LIMIT: Duration = Duration::from_secs(10);
/// Wait between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Removes former members while this node leads.
pub struct FormerTask {
    replica: Replica,
    former: BTreeSet<NodeId>,
}

impl FormerTask {
    /// `former` are the `--id`s of members that do not come back. This node is never removed by itself.
    pub fn new(replica: Replica, former: &[String]) -> Self {
        let me = replica.id().to_owned();
        let former = former.iter().filter(|id| **id != me).map(|id| node_id(id)).collect();
        Self { replica, former }
    }

    /// Runs until stopped.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let work = async {
            loop {
                if self.replica.leadership().borrow().is_leading() {
                    self.remove().await;
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

    async fn remove(&self) {
        let members = self.replica.raft.metrics().borrow().membership_config.clone();
        let known = |ids: &mut dyn Iterator<Item = NodeId>| -> BTreeSet<NodeId> {
            ids.filter(|id| self.former.contains(id)).collect()
        };
        let voters = known(&mut members.membership().voter_ids());
        let learners = known(&mut members.membership().learner_ids());
        let change: ChangeMembers<NodeId, BasicNode> = match (voters.is_empty(), learners.is_empty()) {
            (false, _) => ChangeMembers::RemoveVoters(voters),
            (true, false) => ChangeMembers::RemoveNodes(learners),
            (true, true) => return,
        };
        tracing::info!(?change, "removing former members");
        match tokio::time::timeout(LIMIT, self.replica.raft.change_membership(change, false)).await {
            Ok(Ok(_)) => tracing::info!("former members are removed"),
            Ok(Err(error)) => tracing::warn!(%error, "former members could not be removed yet"),
            Err(_elapsed) => tracing::warn!("former members could not be removed in time"),
        }
    }
}
