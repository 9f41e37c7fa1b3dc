//! Answers peers on the raft port.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use identity::server::Incoming;
use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use openraft::{BasicNode, ChangeMembers, Vote};
use runtime::{BoxError, CancellationToken};
use serde::de::DeserializeOwned;
use tokio::sync::{RwLock, RwLockReadGuard};
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use super::leadership::NodeStatus;
use super::membership::without;
use super::rpc::{Envelope, Greeting, JoinRequest, Letter, MAX_MESSAGE, Method, pack, unpack};
use super::types::{NodeId, Raft, Types};
use crate::link::{self, Links};

/// How long a rejoining member may take to catch up before its attempt counts as failed.
const JOIN_LIMIT: Duration = Duration::from_secs(30);
/// With so many voters one may be lost; a planned stop does not make them fewer.
pub(super) const FEWEST_VOTERS: usize = 3;

/// What a member takes part in: not yet everything without its memory, and not everything at its end.
#[derive(Debug)]
pub struct Gates {
    /// It may have voted before it lost its memory.
    pub vote: AtomicBool,
    /// It may have acknowledged entries that it lost; leaders must forget that first.
    pub append: AtomicBool,
    /// Shut while it hands leadership over: an heir that lacks what is written now would win no vote.
    pub write: WriteGate,
}

/// Lets writes of a leader through until it is shut.
#[derive(Debug)]
pub struct WriteGate {
    open: AtomicBool,
    inside: RwLock<()>,
}

impl WriteGate {
    fn open() -> Self {
        Self { open: true.into(), inside: RwLock::new(()) }
    }

    /// To be held while something is written; none once the gate is shut.
    pub async fn enter(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let inside = self.inside.read().await;
        self.open.load(Ordering::Acquire).then_some(inside)
    }

    /// Lets nothing in any more; returns when nothing is inside, and says false if that takes too long.
    pub async fn shut(&self, limit: Duration) -> bool {
        self.open.store(false, Ordering::Release);
        tokio::time::timeout(limit, self.inside.write()).await.is_ok()
    }
}

impl Gates {
    /// Open for a member with memory.
    pub fn new(open: bool) -> Self {
        Self { vote: open.into(), append: open.into(), write: WriteGate::open() }
    }
}

/// The raft port's service.
#[derive(Clone)]
pub struct PeerService {
    raft: Raft,
    gates: Arc<Gates>,
    links: Option<Links>,
}

impl NamedService for PeerService {
    const NAME: &'static str = super::rpc::SERVICE;
}

impl PeerService {
    /// Serves `raft` as far as the gates are open.
    pub fn new(raft: Raft, gates: Arc<Gates>) -> Self {
        Self { raft, gates, links: None }
    }

    /// Takes the links of followers, too.
    #[must_use]
    pub fn with_links(self, links: Links) -> Self {
        Self { links: Some(links), ..self }
    }

    /// Serves peers until stopped.
    pub async fn run(self, incoming: Incoming, stop: CancellationToken) -> Result<(), BoxError> {
        let ended = stop.clone();
        let serve = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(2)))
            .http2_keepalive_timeout(Some(Duration::from_secs(3)))
            .serve_with_incoming_shutdown(self, incoming, async move { stop.cancelled().await });
        tokio::select! {
            served = serve => served.map_err(Into::into),
            () = async { ended.cancelled().await; tokio::time::sleep(Duration::from_secs(1)).await } => Ok(()),
        }
    }

    /// Answers one call.
    pub async fn answer(&self, method: Method, envelope: Envelope) -> Result<Envelope, Status> {
        match method {
            Method::Append | Method::Snapshot if !self.gates.append.load(Ordering::Acquire) => Err(forgetful()),
            Method::Vote if !self.gates.vote.load(Ordering::Acquire) => Err(forgetful()),
            Method::Append => {
                let rpc: AppendEntriesRequest<Types> = self.open(&envelope)?;
                self.not_my_own(&rpc.vote)?;
                pack(&self.raft.append_entries(rpc).await)
            }
            Method::Vote => {
                let rpc: VoteRequest<NodeId> = self.open(&envelope)?;
                self.not_my_own(&rpc.vote)?;
                pack(&self.raft.vote(rpc).await)
            }
            Method::Snapshot => {
                let rpc: InstallSnapshotRequest<Types> = self.open(&envelope)?;
                self.not_my_own(&rpc.vote)?;
                pack(&self.raft.install_snapshot(rpc).await)
            }
            Method::Hello => {
                let () = self.open(&envelope)?;
                self.hello()
            }
            Method::Leave => {
                let JoinRequest { node, address } = self.open(&envelope)?;
                tracing::info!(node, address, "member lost its memory");
                self.change(self.remove(node)).await
            }
            Method::Join => self.change(self.join(self.open(&envelope)?)).await,
            Method::Resign => self.change(self.resign(self.open(&envelope)?)).await,
            Method::TakeOver => {
                let () = self.open(&envelope)?;
                // One that is leaving itself would lead without writing anything.
                let _writing = self.may_write().await?;
                self.raft.trigger().elect().await.map_err(|e| Status::internal(e.to_string()))?;
                pack(&())
            }
        }
    }

    fn id(&self) -> NodeId {
        self.raft.metrics().borrow().id
    }

    /// Opens a letter that is meant for this node.
    fn open<T: DeserializeOwned>(&self, envelope: &Envelope) -> Result<T, Status> {
        let Letter { to, body } = unpack(envelope)?;
        if to == self.id() { Ok(body) } else { Err(Status::not_found("meant for another node")) }
    }

    /// Nobody is sent what it says itself: the sender only has the same name, and belongs to another
    /// cluster that was at this address before. Raft would take this for proof that it leads, and panic.
    fn not_my_own(&self, vote: &Vote<NodeId>) -> Result<(), Status> {
        if vote.leader_id().voted_for() == Some(self.id()) {
            return Err(Status::not_found("sent by another node of the same name"));
        }
        Ok(())
    }

    fn hello(&self) -> Result<Envelope, Status> {
        // Something was committed once: a freshly formed cluster without a leader does not count.
        let metrics = self.raft.metrics().borrow().clone();
        let quorum = NodeStatus::read(&metrics).quorum;
        let leader = metrics.current_leader.filter(|leader| *leader != metrics.id || quorum);
        let voters = metrics.membership_config.membership().voter_ids().collect();
        pack(&Greeting { has_state: metrics.last_applied.is_some(), leader, voters })
    }

    async fn may_write(&self) -> Result<RwLockReadGuard<'_, ()>, Status> {
        let entered = self.gates.write.enter().await;
        entered.ok_or_else(|| Status::failed_precondition("this node is leaving"))
    }

    /// Changes the members, unless this node hands leadership over.
    async fn change(&self, change: impl Future<Output = Result<(), Status>>) -> Result<Envelope, Status> {
        let _writing = self.may_write().await?;
        let limit = tokio::time::timeout(JOIN_LIMIT, change).await;
        limit.map_err(|_elapsed| Status::deadline_exceeded("the change of members took too long"))??;
        pack(&())
    }

    /// Goes on without the vote of a member that stops, as long as [`FEWEST_VOTERS`] remain. Otherwise the
    /// member keeps its vote, and that is no error.
    async fn resign(&self, join: JoinRequest) -> Result<(), Status> {
        let voters: BTreeSet<NodeId> =
            self.raft.metrics().borrow().membership_config.membership().voter_ids().collect();
        if voters.len() <= FEWEST_VOTERS && voters.contains(&join.node) {
            return Ok(());
        }
        tracing::info!(node = join.node, address = join.address, "member gives up its vote");
        self.remove(join.node).await
    }

    /// Forgets a member, and with it everything it ever acknowledged. Only a leader can.
    async fn remove(&self, node: NodeId) -> Result<(), Status> {
        let members = self.raft.metrics().borrow().membership_config.clone();
        let Some(change) = without(members.membership(), |id| id == node) else {
            // Nothing to forget, but only a leader may say so.
            return self.raft.ensure_linearizable().await.map(|_| ()).map_err(|e| refused(&e));
        };
        self.raft.change_membership(change, false).await.map(|_| ()).map_err(|e| refused(&e))
    }

    /// Takes a member in as a learner, then as a voter. Only a leader can.
    async fn join(&self, join: JoinRequest) -> Result<(), Status> {
        let node = BasicNode { addr: join.address };
        self.raft.add_learner(join.node, node, true).await.map_err(|e| refused(&e))?;
        let promote = ChangeMembers::<NodeId, BasicNode>::AddVoterIds(BTreeSet::from([join.node]));
        self.raft.change_membership(promote, false).await.map_err(|e| refused(&e))?;
        Ok(())
    }
}

fn forgetful() -> Status {
    Status::unavailable("this member lost its memory and was not taken in again yet")
}

fn refused(error: &dyn std::error::Error) -> Status {
    Status::failed_precondition(error.to_string())
}

struct Handler {
    service: PeerService,
    method: Method,
}

impl UnaryService<Envelope> for Handler {
    type Response = Envelope;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Envelope>, Status>> + Send>>;

    fn call(&mut self, request: Request<Envelope>) -> Self::Future {
        let (service, method) = (self.service.clone(), self.method);
        Box::pin(async move { service.answer(method, request.into_inner()).await.map(Response::new) })
    }
}

impl Service<http::Request<Body>> for PeerService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Method::ALL.into_iter().find(|m| m.path() == request.uri().path());
        let service = self.clone();
        Box::pin(async move {
            if let Some(links) = service.links.clone().filter(|_| request.uri().path() == link::PATH) {
                return Ok(links.serve(request).await);
            }
            let Some(method) = method else {
                return Ok(Status::unimplemented("no such method").into_http());
            };
            let codec = ProstCodec::<Envelope, Envelope>::default();
            let mut grpc = tonic::server::Grpc::new(codec)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            Ok(grpc.unary(Handler { service, method }, request).await)
        })
    }
}
