//! One open stream as the machine sees it.

use super::host::{Generation, Host};

/// A stream, unique across replicas and for the life of the cluster's leaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The replica that carries it.
    pub replica: u64,
    /// Counted up by that replica.
    pub seq: u64,
}

/// Whether a stream takes part in rounds yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waiting for the running round or the coalescing window; nothing was sent to it.
    Queued,
    /// Has a table or is in the round that gives it the first one.
    Admitted,
}

/// Whether a 1.18 sidecar may have actor types blocked since a stream before this one. Its first UNLOCK
/// here releases only those that an UPDATE of this stream changed (placement.md §7.3 G10), so that the
/// table's types are sent without hosts before the first table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftovers {
    /// None: it was unlocked on this stream, or its generation keeps nothing from one to the next.
    None,
    /// Unknown, and the types are still to be sent.
    Possible,
    /// The types were sent in the running round; the acknowledgement to come next is theirs.
    Sent,
    /// The types are acknowledged: the next UNLOCK releases everything.
    Changed,
}

/// State of one stream.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub host: Host,
    pub generation: Generation,
    pub stage: Stage,
    /// Takes part in the running round.
    pub in_round: bool,
    /// Version of the last LOCK it acknowledged.
    pub lock_acked: u64,
    /// Version of the LOCK for which it was not sent an UNLOCK yet.
    pub locked: Option<u64>,
    /// Version of the last table it was told to go on with.
    pub table: Option<u64>,
    /// What its next UNLOCK might not release.
    pub leftovers: Leftovers,
    /// Version pushed to it alone whose acknowledgements are to be swallowed.
    pub one_shot: Option<u64>,
    /// Op-less messages that arrived before the phase they acknowledge.
    pub early_acks: u32,
}

impl Stream {
    pub fn new(host: Host, generation: Generation) -> Self {
        // Whoever says that it is no daprd gets what upstream sends.
        let is_v118 = generation == Generation::V118 && host.api_level > 0;
        Self {
            host,
            generation,
            stage: Stage::Queued,
            in_round: false,
            lock_acked: 0,
            locked: None,
            table: None,
            leftovers: if is_v118 { Leftovers::Possible } else { Leftovers::None },
            one_shot: None,
            early_acks: 0,
        }
    }
}
