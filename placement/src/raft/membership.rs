//! How a node becomes a voter: the first start of a cluster, and the return of a member that lost its
//! memory (no log path, or an empty disk).
//!
//! A member without memory may have voted before, and the leader counts on entries it acknowledged. So
//! it takes no part until the leader has forgotten it; then it is brought up to date as a learner, and
//! votes and campaigns only when it is a voter again. Only when a majority of the members has no memory
//! is there nothing to contradict: they may start anew, or follow the one that remembers. A leader
//! without a majority is no leader here: it could not change the members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::{BasicNode, ChangeMembers, Membership};
use runtime::{BoxError, CancellationToken};

use super::Replica;
use super::chance::mix;
use super::rpc::{Greeting, JoinRequest, Method};
use super::types::{NodeId, node_id};

/// Wait between two looks around, in milliseconds; see [`pause`].
const RETRY_MS: std::ops::Range<u64> = 150..450;
/// An answer that does not come within this will not: everything asked may be asked again.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

/// Brings a node into the cluster that is blank or gave up its vote, then waits for the end.
pub struct MembershipTask {
    replica: Replica,
    blank: bool,
    /// The members agreed to forget what this node was before, or nothing needs to be forgotten; that lasts
    /// as long as the process.
    forgotten: bool,
    /// It votes already, because a majority has no memory; perhaps it was forgotten before.
    helping: bool,
}

/// What a look around says to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// Nobody remembers anything: form the cluster of `--initial-cluster`.
    Form,
    /// Someone leads: ask to be taken in.
    Join(NodeId, String),
    /// A majority has no memory, but someone has: let it win the election.
    Vote,
    /// Too few answers to know.
    Wait,
}

impl MembershipTask {
    pub(super) fn new(replica: Replica, blank: bool) -> Self {
        Self { replica, blank, forgotten: !blank, helping: false }
    }

    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut outside = true;
        let mut tries = 0;
        while outside {
            tries += 1;
            let wait = pause(node_id(&self.replica.options.id), tries);
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                done = self.attempt() => outside = !done?,
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait), if outside => {}
                () = std::future::ready(()), if !outside => {}
            }
        }
        stop.cancelled().await;
        Ok(())
    }

    /// One look around and what follows from it: true when this node may vote.
    async fn attempt(&mut self) -> Result<bool, BoxError> {
        if !self.blank {
            return Ok(self.come_back().await);
        }
        if self.helping && self.is_voter() {
            return Ok(true);
        }
        let answers = self.ask_around().await;
        match decide(self.replica.options.members.len(), &answers, |id| self.address_of(id)) {
            Next::Form => self.form().await?,
            Next::Join(leader, address) => {
                if !self.join((leader, &address)).await {
                    return Ok(false);
                }
            }
            Next::Vote => {
                if !std::mem::replace(&mut self.helping, true) {
                    tracing::warn!("a majority of the members has no memory; helping the others to elect one");
                }
                self.take_part();
                return Ok(false);
            }
            Next::Wait => return Ok(false),
        }
        self.take_part();
        Ok(true)
    }

    /// Whether a node with memory is a member, also if it gave up its vote at its last stop. Its own memory
    /// may not tell: nobody sends the last change to a member that it removes.
    async fn come_back(&mut self) -> bool {
        if self.replica.leadership().borrow().is_leading() {
            return true;
        }
        let answers = self.ask_around().await;
        let Some((leader, greeting)) = leading(&answers) else { return false };
        if greeting.voters.contains(&node_id(&self.replica.options.id)) {
            return true;
        }
        let address = self.address_of(leader);
        self.join((node_id(leader), &address)).await
    }

    fn address_of(&self, id: &str) -> String {
        self.replica.options.members[id].clone()
    }

    fn is_voter(&self) -> bool {
        let metrics = self.replica.raft.metrics().borrow().clone();
        metrics.membership_config.membership().voter_ids().any(|id| id == metrics.id)
    }

    fn take_part(&self) {
        self.replica.gates.append.store(true, Ordering::Release);
        self.replica.gates.vote.store(true, Ordering::Release);
        self.replica.raft.runtime_config().elect(true);
    }

    async fn ask_around(&self) -> BTreeMap<String, Greeting> {
        let options = &self.replica.options;
        let others = options.members.iter().filter(|(id, _)| **id != options.id);
        let greetings =
            others.map(|(id, address)| async move { (id.clone(), self.replica.greet((node_id(id), address)).await) });
        let answers = futures::future::join_all(greetings).await;
        answers.into_iter().filter_map(|(id, greeting)| Some((id, greeting?))).collect()
    }

    async fn form(&self) -> Result<(), BoxError> {
        let members: BTreeMap<_, _> = self
            .replica
            .options
            .members
            .iter()
            .map(|(id, address)| (node_id(id), BasicNode { addr: address.clone() }))
            .collect();
        match self.replica.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(error) if error.api_error().is_some() => {
                tracing::debug!(%error, "the cluster was formed meanwhile");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn join(&mut self, leader: (NodeId, &str)) -> bool {
        let request =
            JoinRequest { node: node_id(&self.replica.options.id), address: self.replica.address().to_owned() };
        let peers = &self.replica.peers;
        let forgotten = &mut self.forgotten;
        let joined = async {
            if !*forgotten {
                peers.call::<_, ()>(leader, Method::Leave, &request, JOIN_LIMIT).await?;
                *forgotten = true;
            }
            // Whatever was acknowledged before is forgotten: a log from its beginning may come.
            self.replica.gates.append.store(true, Ordering::Release);
            peers.call::<_, ()>(leader, Method::Join, &request, JOIN_LIMIT).await
        };
        match joined.await {
            Ok(()) => {
                tracing::info!(leader = leader.1, "rejoined the cluster as a voter");
                true
            }
            Err(error) => {
                tracing::info!(%error, leader = leader.1, "could not rejoin the cluster yet");
                false
            }
        }
    }
}

/// The change that leaves these members out, if there are any: those with a vote first, then learners.
pub(super) fn without(
    members: &Membership<NodeId, BasicNode>,
    is_gone: impl Fn(NodeId) -> bool,
) -> Option<ChangeMembers<NodeId, BasicNode>> {
    let voters: BTreeSet<_> = members.voter_ids().filter(|id| is_gone(*id)).collect();
    if !voters.is_empty() {
        return Some(ChangeMembers::RemoveVoters(voters));
    }
    let learners: BTreeSet<_> = members.learner_ids().filter(|id| is_gone(*id)).collect();
    (!learners.is_empty()).then_some(ChangeMembers::RemoveNodes(learners))
}

/// Differs from member to member and from try to try, so that members do not keep step.
fn pause(node: NodeId, tries: u64) -> Duration {
    let spread = RETRY_MS.end - RETRY_MS.start;
    Duration::from_millis(RETRY_MS.start + mix(node.wrapping_add(tries)) % spread)
}

/// The one that says of itself that it leads.
fn leading(answers: &BTreeMap<String, Greeting>) -> Option<(&String, &Greeting)> {
    answers.iter().find(|(id, greeting)| greeting.has_state && greeting.leader == Some(node_id(id)))
}

fn decide(members: usize, answers: &BTreeMap<String, Greeting>, address: impl Fn(&str) -> String) -> Next {
    if let Some((leader, _)) = leading(answers) {
        return Next::Join(node_id(leader), address(leader));
    }
    let blank = 1 + answers.values().filter(|g| !g.has_state).count();
    let remembering = answers.values().any(|g| g.has_state);
    match (blank > members / 2, remembering) {
        (true, false) => Next::Form,
        (true, true) => Next::Vote,
        (false, _) => Next::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(answers: &[(&str, bool, Option<&str>)]) -> Next {
        let greeting = |answer: &(&str, bool, Option<&str>)| {
            let (id, has_state, leader) = *answer;
            (id.to_owned(), Greeting { has_state, leader: leader.map(node_id), voters: [].into() })
        };
        let answers = answers.iter().map(greeting).collect();
        decide(3, &answers, |leader| format!("address of {leader}"))
    }

    #[test]
    fn members_look_around_at_their_own_times() {
        let pauses = |id| (1..20).map(|tries| pause(node_id(id), tries)).collect::<Vec<_>>();
        let in_bounds = |p: &Duration| (150..450).contains(&p.as_millis());
        assert!(pauses("a").iter().all(in_bounds));
        let same = pauses("a").iter().zip(&pauses("b")).filter(|(a, b)| a == b).count();
        assert!(same < 3, "{same} of 20 pauses are the same");
    }

    #[test]
    fn a_single_member_forms_its_cluster_alone() {
        assert_eq!(decide(1, &BTreeMap::new(), str::to_owned), Next::Form);
    }

    #[test]
    fn a_blank_member_waits_until_a_majority_answered() {
        assert_eq!(around(&[]), Next::Wait);
        assert_eq!(around(&[("b", true, None)]), Next::Wait);
        assert_eq!(around(&[("b", false, None)]), Next::Form);
    }

    #[test]
    fn a_member_without_memory_joins_under_the_leader() {
        let join = Next::Join(node_id("c"), "address of c".into());
        assert_eq!(around(&[("b", true, Some("c")), ("c", true, Some("c"))]), join);
        assert_eq!(around(&[("c", true, Some("c"))]), join);
    }

    #[test]
    fn nobody_joins_a_leader_that_does_not_answer() {
        assert_eq!(around(&[("b", true, Some("c"))]), Next::Wait);
    }

    #[test]
    fn a_majority_without_memory_lets_the_one_that_remembers_win() {
        assert_eq!(around(&[("b", true, None), ("c", false, None)]), Next::Vote);
    }
}
