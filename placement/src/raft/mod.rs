//! Raft's shell: who leads, and a log that every replica of placement agrees on.
//!
//! | part | does |
//! |---|---|
//! | [`Replica`] | starts a node, proposes facts, hands leadership over |
//! | [`Leadership`] | what the rest of placement sees: leading with these ledgers, or not |
//! | `membership`, `former` | first start, rejoin without memory; removal for good |
//! | `store`, `machine` | hard state on disk or in memory; ledgers |
//! | `network`, `server`, `rpc` | the raft port |
#![allow(clippy::result_large_err, reason = "openraft's storage errors are that large, and rare")]

mod chance;
mod former;
mod leadership;
mod machine;
mod membership;
mod network;
mod rpc;
mod server;
mod store;
mod types;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use identity::{Security, SpiffeId};
use openraft::error::{ClientWriteError, RaftError};
use openraft::storage::RaftLogStorage;
use openraft::{BasicNode, Config, LogId, RaftMetrics, SnapshotPolicy};
use tokio::sync::watch;

pub use chance::seed_thread;
pub use former::FormerTask;
pub use leadership::{Leadership, LeadershipTask, NodeStatus};
pub use machine::LedgerMachine;
pub use membership::MembershipTask;
pub use network::Peers;
pub use rpc::{Envelope, Method, Wire};
use rpc::{Greeting, JoinRequest};
use server::FEWEST_VOTERS;
pub use server::{Gates, PeerService};
pub use store::{OpenError, Store};
pub use types::{Fact, Ledgers, NodeId, Raft, Types, node_id};

/// A leader that heard from no majority for this long stops acting as one. Voters grant nobody else
/// their vote for the upper bound of `ELECTION` after they heard of it, which is longer.
pub const LEASE: Duration = Duration::from_millis(1200);
const HEARTBEAT: Duration = Duration::from_millis(250);
/// Followers wait between these before they campaign; the upper one is also the lease that voters grant.
/// A lost leader is replaced after both: streams elsewhere live on for `core::LEASE` and `core::GRACE`.
const ELECTION: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(1800));
/// How long a planned handover may take; upstream's followers need 2 to 4 s without one.
const HANDOVER_LIMIT: Duration = Duration::from_secs(5);
/// How long giving up the vote may take; the leader may be handing over at the same time.
const RESIGN_LIMIT: Duration = Duration::from_secs(8);
const HANDOVER_RETRY: Duration = Duration::from_millis(250);
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// A snapshot after this many entries; each is a few hundred bytes.
const SNAPSHOT_AFTER: u64 = 2000;
const KEEP_LOGS: u64 = 500;

/// Members by `--id`, with their raft addresses.
pub type Members = BTreeMap<String, String>;

/// What a node needs to know to start.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// `--id`.
    pub id: String,
    /// `--initial-cluster`.
    pub members: Members,
    /// `--raft-logstore-path`; memory when unset.
    pub log_path: Option<PathBuf>,
    /// Placement's own identity: what peers must prove and what this node proves.
    pub identity: SpiffeId,
}

/// Why a node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The node is not a member.
    #[error("address for node {id} not found in raft peers {members}")]
    NotAMember {
        /// `--id`.
        id: String,
        /// `--initial-cluster`, as understood.
        members: String,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log cannot be read.
    #[error("cannot read raft state")]
    Storage(#[from] openraft::StorageError<NodeId>),
    /// Raft refuses its settings.
    #[error("raft settings")]
    Config(#[from] openraft::ConfigError),
    /// Raft stopped.
    #[error("raft stopped")]
    Fatal(#[from] openraft::error::Fatal<NodeId>),
}

/// A fact was not replicated.
#[derive(Debug, thiserror::Error)]
pub enum NotReplicated {
    /// This node is about to stop.
    #[error("leadership is being handed over")]
    HandingOver,
    /// This node does not lead any more, or not yet.
    #[error("not replicated")]
    Raft(#[source] Box<RaftError<NodeId, ClientWriteError<NodeId, BasicNode>>>),
}

/// A running node. Clones share it.
#[derive(Clone)]
pub struct Replica {
    options: Arc<ReplicaOptions>,
    raft: Raft,
    machine: LedgerMachine,
    peers: Peers,
    gates: Arc<Gates>,
    leadership: watch::Receiver<Leadership>,
}

/// The tasks of a node, to be run by the owner.
pub struct ReplicaTasks {
    /// Follows Raft's metrics.
    pub leadership: LeadershipTask,
    /// Bootstraps or rejoins.
    pub membership: MembershipTask,
    /// Answers peers; needs a listener.
    pub server: PeerService,
}

impl Replica {
    /// Opens the log and starts the node. It takes part once its tasks run.
    pub async fn start(options: ReplicaOptions, security: Security) -> Result<(Self, ReplicaTasks), ReplicaError> {
        if !options.members.contains_key(&options.id) {
            let members: Vec<_> = options.members.iter().map(|(id, address)| format!("{id}={address}")).collect();
            return Err(ReplicaError::NotAMember { id: options.id, members: members.join(",") });
        }
        let store = Store::open(options.log_path.as_deref())?;
        let peers = Peers::new(security, options.identity.clone());
        Self::start_on(options, (store.clone(), store), peers).await
    }

    /// Starts the node on an opened store, which Raft uses through `log`.
    pub async fn start_on<L: RaftLogStorage<Types>>(
        options: ReplicaOptions,
        (store, log): (Store, L),
        peers: Peers,
    ) -> Result<(Self, ReplicaTasks), ReplicaError> {
        let blank = store.is_blank()?;
        let machine = LedgerMachine::open(store)?;
        let config = Arc::new(config()?);
        let me = node_id(&options.id);
        let raft = Raft::new(me, config, peers.clone(), log, machine.clone()).await?;
        let gates = Arc::new(Gates::new(!blank));
        raft.runtime_config().elect(!blank);
        let (task, leadership) = LeadershipTask::new(raft.clone(), machine.clone());
        let options = Arc::new(options);
        let replica = Self { options, raft, machine, peers, gates, leadership };
        let tasks = ReplicaTasks {
            leadership: task,
            membership: MembershipTask::new(replica.clone(), blank),
            server: PeerService::new(replica.raft.clone(), replica.gates.clone()),
        };
        Ok((replica, tasks))
    }

    /// `--id`.
    pub fn id(&self) -> &str {
        &self.options.id
    }

    /// This node's raft address.
    pub fn address(&self) -> &str {
        &self.options.members[&self.options.id]
    }

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// What is known of every namespace here.
    pub fn ledgers(&self) -> Ledgers {
        self.machine.ledgers()
    }

    /// Replicates a fact: returns when a majority has it on disk (or in memory without a log path).
    pub async fn propose(&self, fact: Fact) -> Result<(), NotReplicated> {
        let _writing = self.gates.write.enter().await.ok_or(NotReplicated::HandingOver)?;
        self.raft.client_write(fact).await.map(|_| ()).map_err(|error| NotReplicated::Raft(error.into()))
    }

    /// The raft address of the leader, if another node is known to lead.
    pub fn leader(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader.filter(|leader| *leader != metrics.id)?;
        metrics.membership_config.membership().get_node(&leader).map(|node| node.addr.clone())
    }

    /// Asks a member whether it is there, and what it knows; none if it does not answer.
    async fn greet(&self, (node, address): (NodeId, &str)) -> Option<Greeting> {
        match self.peers.call((node, address), Method::Hello, &(), CALL_LIMIT).await {
            Ok(greeting) => Some(greeting),
            Err(error) => {
                tracing::debug!(%error, address, "member does not answer");
                None
            }
        }
    }

    /// What Raft says of this node, for metrics and `/readyz`.
    pub fn status(&self) -> NodeStatus {
        NodeStatus::read(&self.raft.metrics().borrow())
    }

    /// Gives leadership to the member that is furthest; returns when another one leads, or gives up.
    pub async fn hand_over(&self) {
        self.raft.runtime_config().elect(false);
        if !self.gates.write.shut(CALL_LIMIT).await {
            tracing::debug!("something is still being written");
        }
        // What was written is committed, and so is told here; metrics are behind.
        let Ok((last, _applied)) = self.raft.get_read_log_id().await else { return };
        let mut metrics = self.raft.metrics();
        let has_all = metrics.wait_for(|m| heirs(m).first().is_none_or(|heir| heir.log >= last));
        if tokio::time::timeout(CALL_LIMIT, has_all).await.is_err() {
            tracing::debug!("no other member has all that this leader wrote");
        }
        let heirs = heirs(&self.raft.metrics().borrow());
        if heirs.is_empty() {
            return;
        }
        self.raft.runtime_config().heartbeat(false);
        tracing::info!("handing leadership over");
        let me = node_id(&self.options.id);
        let limit = tokio::time::Instant::now() + HANDOVER_LIMIT;
        // Everyone is asked twice: those who refuse are about to leave, too.
        let mut refusals = 0;
        while refusals < 2 * heirs.len() && tokio::time::Instant::now() < limit {
            let heir = &heirs[refusals % heirs.len()];
            let to = (heir.node, heir.address.as_str());
            let asked: Result<(), _> = self.peers.call(to, Method::TakeOver, &(), CALL_LIMIT).await;
            if let Err(error) = asked {
                tracing::debug!(%error, heir = heir.node, "the heir does not take over");
                refusals += 1;
            }
            let taken = metrics.wait_for(|m| m.current_leader.is_some_and(|leader| leader != me));
            if tokio::time::timeout(HANDOVER_RETRY, taken).await.is_ok_and(|seen| seen.is_ok()) {
                tracing::info!(heir = heir.node, "leadership handed over");
                return;
            }
        }
        tracing::warn!("nobody took leadership over");
    }

    /// Gives up this node's vote before it stops, where more than three have one: so a cluster
    /// of five becomes one of three as its last replicas are stopped. If it is started again, it asks to be
    /// taken in.
    pub async fn resign(&self) {
        let request = JoinRequest { node: node_id(&self.options.id), address: self.address().to_owned() };
        let resigned = async {
            while self.status().voters > FEWEST_VOTERS {
                let leader = self.raft.metrics().borrow().current_leader;
                if let Some((leader, address)) = leader.zip(self.leader()) {
                    match self.peers.call((leader, &address), Method::Resign, &request, CALL_LIMIT).await {
                        Ok(()) => return,
                        Err(error) => tracing::debug!(%error, leader, "the leader did not take the resignation yet"),
                    }
                }
                tokio::time::sleep(HANDOVER_RETRY).await;
            }
        };
        if tokio::time::timeout(RESIGN_LIMIT, resigned).await.is_err() {
            tracing::warn!("this node stops with its vote: a replica that does not come back needs --former-members");
        }
    }

    /// Stops Raft; to be called last.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
    }
}

/// Another voter.
struct Heir {
    node: NodeId,
    address: String,
    /// The last entry it has.
    log: Option<LogId<NodeId>>,
}

/// Who may lead after a leader: first who has most of its log. Nobody when it is alone or does not lead.
fn heirs(metrics: &RaftMetrics<NodeId, BasicNode>) -> Vec<Heir> {
    let Some(replication) = &metrics.replication else { return Vec::new() };
    let members = metrics.membership_config.membership();
    let others = members.voter_ids().filter(|id| *id != metrics.id);
    let mut heirs: Vec<_> = others
        .filter_map(|node| {
            let address = members.get_node(&node)?.addr.clone();
            Some(Heir { node, address, log: replication.get(&node).copied().flatten() })
        })
        .collect();
    heirs.sort_by_key(|heir| Reverse(heir.log));
    heirs
}

/// The same for every number of members: a cluster of one may grow while it runs. A single voter elects
/// itself at once anyhow.
fn config() -> Result<Config, openraft::ConfigError> {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "placement".to_owned(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(ELECTION.0),
        election_timeout_max: millis(ELECTION.1),
        max_payload_entries: 64,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_AFTER),
        max_in_snapshot_log_to_keep: KEEP_LOGS,
        ..Config::default()
    }
    .validate()
}
