//! The types Raft is made of here.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::chance::Runtime;
use crate::core::{Ledger, Record};

/// A replicated fact of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The namespace.
    pub namespace: Arc<str>,
    /// What is true of it from now on.
    pub record: Record,
}

/// Every namespace's ledger.
pub type Ledgers = BTreeMap<Arc<str>, Ledger>;

openraft::declare_raft_types!(
    /// Raft over [`Fact`]s; nodes are named by a hash of `--id`.
    pub Types:
        D = Fact,
        R = (),
        AsyncRuntime = Runtime,
);

/// A node's number in Raft.
pub type NodeId = u64;
/// A storage failure: fatal for the node.
pub type StorageError = openraft::StorageError<NodeId>;
/// The Raft handle.
pub type Raft = openraft::Raft<Types>;

/// The number of the node called `id`: FNV-1a, so that every replica agrees without a table.
pub fn node_id(id: &str) -> NodeId {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
