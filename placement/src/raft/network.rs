//! Raft's calls to its peers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use identity::{Security, SpiffeId, client};
use openraft::BasicNode;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;
use tonic::transport::Channel;

use super::rpc::{Envelope, Letter, Method, Wire, exchange, pack, unpack};
use super::types::{NodeId, Types};

/// The way to every peer; clones share it.
#[derive(Clone)]
pub struct Peers {
    wire: Arc<dyn Wire>,
}

impl Peers {
    /// gRPC over TCP. Peers must be `identity`, unless in plaintext.
    pub fn new(security: Security, identity: SpiffeId) -> Self {
        Self::over(Arc::new(Channels { security, identity, open: Mutex::default() }))
    }

    /// Another wire.
    pub fn over(wire: Arc<dyn Wire>) -> Self {
        Self { wire }
    }

    /// Calls the node `to`, which should be at `address`; gives up after `limit`.
    pub async fn call<T: Serialize, R: DeserializeOwned>(
        &self,
        (to, address): (NodeId, &str),
        method: Method,
        body: &T,
        limit: Duration,
    ) -> Result<R, Status> {
        let envelope = pack(&Letter { to, body })?;
        let answer = tokio::time::timeout(limit, self.wire.carry(address, method, envelope)).await;
        unpack(&answer.map_err(|_elapsed| Status::deadline_exceeded("no answer from the peer"))??)
    }
}

/// Opens and keeps one channel for each peer address. One lock, held for a map look-up.
struct Channels {
    security: Security,
    identity: SpiffeId,
    open: Mutex<HashMap<String, Channel>>,
}

impl Channels {
    /// The channel to `address`; it connects when used, and again when it was lost.
    fn channel(&self, address: &str) -> Result<Channel, client::AddressError> {
        let mut channels = self.open.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = client::channel(address, self.security.client(self.identity.clone()))?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

impl Wire for Channels {
    fn carry(&self, address: &str, method: Method, envelope: Envelope) -> BoxFuture<'_, Result<Envelope, Status>> {
        let channel = self.channel(address);
        Box::pin(
            async move { exchange(channel.map_err(|e| Status::unavailable(e.to_string()))?, method, envelope).await },
        )
    }
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Peer {
        Peer { target, address: node.addr.clone(), peers: self.clone() }
    }
}

/// One peer.
pub struct Peer {
    target: NodeId,
    address: String,
    peers: Peers,
}

type Failure<E> = RPCError<NodeId, BasicNode, RaftError<NodeId, E>>;

impl Peer {
    async fn ask<Q, A, E>(&self, method: Method, request: &Q, option: &RPCOption) -> Result<A, Failure<E>>
    where
        Q: Serialize,
        A: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let answer: Result<Result<A, RaftError<NodeId, E>>, Status> =
            self.peers.call((self.target, &self.address), method, request, option.hard_ttl()).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(RPCError::RemoteError(RemoteError::new(self.target, error))),
            Err(status) if status.code() == tonic::Code::Unavailable => Err(Unreachable::new(&status).into()),
            Err(status) => Err(NetworkError::new(&status).into()),
        }
    }
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, Failure<openraft::error::Infallible>> {
        self.ask(Method::Append, &rpc, &option).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, Failure<InstallSnapshotError>> {
        self.ask(Method::Snapshot, &rpc, &option).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, Failure<openraft::error::Infallible>> {
        self.ask(Method::Vote, &rpc, &option).await
    }
}
