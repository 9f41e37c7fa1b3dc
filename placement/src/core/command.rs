//! What the machine asks its shell to do.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::host::Entry;
use super::stream::StreamId;
use super::table::Table;

/// One message to a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stop moving actors; a table follows.
    Lock(u64),
    /// Install the actor types of this table without any host; the table itself follows at once. To a
    /// sidecar this is an UPDATE like the next one, in which every type changes (placement.md §7.3 G10).
    Types(Arc<Table>),
    /// Install this table. Shared, so that it is encoded once for all streams.
    Update(Arc<Table>),
    /// Go on with the table installed.
    Unlock(u64),
}

/// What an order asks for, without its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderKind {
    /// LOCK.
    Lock,
    /// UPDATE.
    Update,
    /// UNLOCK.
    Unlock,
}

impl Order {
    /// What it asks for.
    pub fn kind(&self) -> OrderKind {
        match self {
            Self::Lock(_) => OrderKind::Lock,
            Self::Types(_) | Self::Update(_) => OrderKind::Update,
            Self::Unlock(_) => OrderKind::Unlock,
        }
    }

    /// The round version the order carries.
    pub fn version(&self) -> u64 {
        match self {
            Self::Lock(v) | Self::Unlock(v) => *v,
            Self::Types(table) | Self::Update(table) => table.version,
        }
    }
}

/// Why the machine ends a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// A phase was not acknowledged within its limit.
    DisseminationTimeout {
        /// The limit that ran out.
        limit: Duration,
        /// The round it ran out in.
        version: u64,
    },
    /// The same host opened a newer stream.
    Superseded,
    /// A 1.16 sidecar cannot be unlocked any more without losing count (placement.md §7.3 G2).
    UnlockOverdue {
        /// The round it was locked by.
        version: u64,
    },
}

/// A fact that must be replicated before the machine goes on (or, for `Settled`, eventually).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The table of this version is fixed: answered by `Event::Committed`.
    Fixed {
        /// Round version.
        version: u64,
        /// Every host in the table, by name. `None` where the previous table's entry is dropped.
        changes: Vec<(Arc<str>, Option<Entry>)>,
    },
    /// Every live host of the round installed the table of this version.
    Settled {
        /// Round version.
        version: u64,
    },
}

/// How a finished round went; for metrics and the slow-round log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundSummary {
    /// Round version.
    pub version: u64,
    /// Streams that took part when it started.
    pub streams: usize,
    /// LOCK sent until the last LOCK acknowledgement.
    pub lock: Duration,
    /// Table fixed until it was replicated.
    pub commit: Duration,
    /// UPDATE sent until the last acknowledgement.
    pub update: Duration,
    /// UNLOCK sent until the last acknowledgement.
    pub unlock: Duration,
    /// The host whose acknowledgement took longest in any phase, and how long it took.
    pub slowest: Option<(Arc<str>, Duration)>,
}

impl RoundSummary {
    /// From the LOCK to the last acknowledgement.
    pub fn total(&self) -> Duration {
        self.lock + self.commit + self.update + self.unlock
    }
}

/// An output of the machine, to be carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Queue an order on each of these streams.
    Send {
        /// Receivers.
        streams: Vec<StreamId>,
        /// What to send.
        order: Order,
    },
    /// End a stream. The machine has forgotten it already.
    End {
        /// The stream.
        stream: StreamId,
        /// Why.
        reason: EndReason,
    },
    /// Replicate a record.
    Propose(Record),
    /// A round is over.
    Finished(RoundSummary),
}
