//! Everything that can happen to a namespace.

use std::sync::Arc;

use super::carrier::Carried;
use super::host::{Generation, Host};
use super::stream::StreamId;

/// The operation a client's message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Not set: every 1.16 sidecar and most test clients.
    Unknown,
    /// A host report.
    Report,
    /// The LOCK was obeyed.
    Lock,
    /// The UPDATE was installed.
    Update,
    /// The UNLOCK was obeyed.
    Unlock,
    /// A number this version does not know; ignored.
    Other,
}

/// A message on an open stream, after the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What the client says it is.
    pub operation: Operation,
    /// Round version; only acknowledgements carry one.
    pub version: Option<u64>,
    /// Hosted actor types in any order; meaningless on acknowledgements.
    pub entities: Vec<Arc<str>>,
}

/// An input of the machine.
#[derive(Clone, Debug)]
pub enum Event {
    /// A stream's first message was read and authorized.
    Opened {
        /// The new stream; never seen before.
        stream: StreamId,
        /// Who it is.
        host: Host,
        /// What it runs.
        generation: Generation,
    },
    /// A later message was read and authorized.
    Received {
        /// The stream it came on.
        stream: StreamId,
        /// What it says.
        message: Message,
    },
    /// The host's own end was seen: half-close, cancel, reset, refused message, or a full queue.
    Closed {
        /// The stream that is gone.
        stream: StreamId,
    },
    /// A replica was lost with all the streams it carried; the hosts may be well (RULINGS 17).
    Lost {
        /// The replica.
        replica: u64,
    },
    /// A replica tells of the streams it carried on while the leader changed, or while it could not
    /// reach it.
    Resumed {
        /// Its streams in this namespace.
        streams: Vec<Carried>,
    },
    /// The proposed table of this version is replicated.
    Committed {
        /// Version of the table.
        version: u64,
    },
    /// Nothing but time passed.
    Tick,
}
