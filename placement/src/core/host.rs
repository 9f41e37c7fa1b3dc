//! What a sidecar said about itself, and which generation of sidecar said it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::event::Operation;

/// The generation of a stream's client, told from its first message (placement.md §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// Op-less messages without an api level: not a daprd but a test client of upstream's.
    OpLess,
    /// daprd 1.16: op-less heartbeats every second, never an acknowledgement.
    V116,
    /// daprd 1.17, or a 1.17 or 1.18 that cannot be told apart without mTLS.
    V117,
    /// daprd 1.18, known by its Ed25519 leaf.
    V118,
}

impl Generation {
    /// All generations, in the order of their limits' strictness being irrelevant.
    pub const ALL: [Self; 4] = [Self::OpLess, Self::V116, Self::V117, Self::V118];

    /// Tells the generation from the first message and from whether the peer's leaf key is Ed25519.
    pub const fn detect(operation: Operation, api_level: u32, ed25519_leaf: bool) -> Self {
        match (operation, api_level) {
            (Operation::Unknown, 0) => Self::OpLess,
            (Operation::Unknown, _) => Self::V116,
            _ if ed25519_leaf => Self::V118,
            _ => Self::V117,
        }
    }

    /// Whether a running actor application stands behind the stream.
    pub const fn is_sidecar(self) -> bool {
        !matches!(self, Self::OpLess)
    }
}

/// A host as it reported itself. Name, id and port are pinned by the first message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `ip:port` of the sidecar's internal server: the key in the table and the input of the ring.
    pub name: Arc<str>,
    /// The app id.
    pub id: Arc<str>,
    /// The port field, echoed unchanged (daprd leaves it 0).
    pub port: i64,
    /// The api level of the first message; shown by the state endpoint only.
    pub api_level: u32,
    /// Hosted actor types: sorted, each once.
    pub entities: Vec<Arc<str>>,
}

impl Host {
    /// Sorts the entities and drops duplicates.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        self.entities.sort_unstable();
        self.entities.dedup();
        self
    }

    /// What of this host belongs into a table; nothing when it hosts no actor types.
    pub fn entry(&self) -> Option<Entry> {
        (!self.entities.is_empty()).then(|| Entry {
            id: self.id.clone(),
            port: self.port,
            api_level: self.api_level,
            entities: self.entities.clone(),
        })
    }
}

/// A host in a table, under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The app id that callers expect in the host's certificate.
    pub id: Arc<str>,
    /// Echoed port; must stay the same between tables (1.18 takes a difference for a new host).
    pub port: i64,
    /// Shown by the state endpoint only.
    pub api_level: u32,
    /// Hosted actor types: sorted, each once, never empty.
    pub entities: Vec<Arc<str>>,
}

impl Entry {
    /// Whether a table with this entry gives its host actors that `before` did not.
    pub fn gains_over(&self, before: Option<&Self>) -> bool {
        before.is_none_or(|b| {
            b.id != self.id || b.port != self.port || self.entities.iter().any(|e| b.entities.binary_search(e).is_err())
        })
    }

    /// This entry with only the actor types that `before` had too; nothing if none is left.
    pub fn without_gains(&self, before: Option<&Self>) -> Option<Self> {
        let before = before?;
        let entities: Vec<_> =
            self.entities.iter().filter(|e| before.entities.binary_search(e).is_ok()).cloned().collect();
        (!entities.is_empty()).then(|| Self { entities, ..before.clone() })
    }
}
