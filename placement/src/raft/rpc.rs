//! What replicas say to each other, and how: unary gRPC on the raft port, JSON inside one bytes field.
//!
//! Both sides require placement's own SPIFFE identity when TLS is on. Foreign bytes on the port end
//! their own connection and nothing else.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::types::NodeId;

/// The service's name on the wire.
pub const SERVICE: &str = "daprcp.placement.raft.v1.Raft";
/// Snapshots travel in chunks below this; appends carry at most 64 entries.
pub const MAX_MESSAGE: usize = 64 << 20;

/// The one message shape: the method gives the payload its type.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Envelope {
    /// JSON.
    #[prost(bytes = "bytes", tag = "1")]
    pub payload: Bytes,
}

/// The methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Raft's own.
    Append,
    /// Raft's own.
    Vote,
    /// Raft's own.
    Snapshot,
    /// Who are you, and is there a cluster?
    Hello,
    /// I am a member without memory: forget me.
    Leave,
    /// You forgot me: take me in again.
    Join,
    /// I am stopping: go on without my vote, if enough others have one.
    Resign,
    /// I am leaving: become the leader.
    TakeOver,
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 8] =
        [Self::Append, Self::Vote, Self::Snapshot, Self::Hello, Self::Leave, Self::Join, Self::Resign, Self::TakeOver];

    /// The HTTP path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Append => "/daprcp.placement.raft.v1.Raft/Append",
            Self::Vote => "/daprcp.placement.raft.v1.Raft/Vote",
            Self::Snapshot => "/daprcp.placement.raft.v1.Raft/Snapshot",
            Self::Hello => "/daprcp.placement.raft.v1.Raft/Hello",
            Self::Leave => "/daprcp.placement.raft.v1.Raft/Leave",
            Self::Join => "/daprcp.placement.raft.v1.Raft/Join",
            Self::Resign => "/daprcp.placement.raft.v1.Raft/Resign",
            Self::TakeOver => "/daprcp.placement.raft.v1.Raft/TakeOver",
        }
    }
}

/// Answer to [`Method::Hello`].
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Greeting {
    /// Whether the node remembers a cluster.
    pub has_state: bool,
    /// The leader it follows, or itself while a majority answers it.
    pub leader: Option<NodeId>,
    /// Who has a vote, as far as the node knows.
    pub voters: BTreeSet<NodeId>,
}

/// Payload of [`Method::Leave`], [`Method::Join`] and [`Method::Resign`].
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct JoinRequest {
    /// The node that asks.
    pub node: NodeId,
    /// Its raft address.
    pub address: String,
}

/// Every call names the node it is meant for: addresses are given to other nodes in time, and Raft
/// itself trusts whatever arrives.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Letter<T> {
    /// The node it is meant for.
    pub to: NodeId,
    /// What it says.
    pub body: T,
}

/// How envelopes travel: gRPC channels, or the network of the simulation.
pub trait Wire: Send + Sync {
    /// Carries one call to the peer at `address` and brings its answer. It may take forever: callers
    /// have limits.
    fn carry(&self, address: &str, method: Method, envelope: Envelope) -> BoxFuture<'_, Result<Envelope, Status>>;
}

/// Encodes a payload.
pub fn pack<T: Serialize>(value: &T) -> Result<Envelope, Status> {
    let json = serde_json::to_vec(value).map_err(|e| Status::internal(e.to_string()))?;
    Ok(Envelope { payload: json.into() })
}

/// Decodes a payload.
pub fn unpack<T: DeserializeOwned>(envelope: &Envelope) -> Result<T, Status> {
    serde_json::from_slice(&envelope.payload).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// Carries one envelope over a gRPC channel.
pub async fn exchange(channel: Channel, method: Method, envelope: Envelope) -> Result<Envelope, Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let codec = ProstCodec::<Envelope, Envelope>::default();
    let path = http::uri::PathAndQuery::from_static(method.path());
    Ok(grpc.unary(Request::new(envelope), path, codec).await?.into_inner())
}
