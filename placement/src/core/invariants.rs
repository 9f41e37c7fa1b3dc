//! What must be true of a namespace after every step; checked in tests, simulation and debug builds.

use super::dissemination::Dissemination;
use super::host::Generation;
use super::ledger::Settled;
use super::round::Phase;
use super::stream::{Leftovers, Stage, StreamId};

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The table is newer than the round.
    #[error("table {table} is newer than round {version}")]
    TableAhead {
        /// Version of the table.
        table: u64,
        /// Version of the round.
        version: u64,
    },
    /// A table was fixed although a stream of the round did not acknowledge its LOCK.
    #[error("{stream:?} did not acknowledge lock {version}, but its table is fixed")]
    FixedBeforeLock {
        /// The stream.
        stream: StreamId,
        /// Version of the round.
        version: u64,
    },
    /// A stream is locked although no round runs.
    #[error("{stream:?} is left locked by round {version}")]
    LeftLocked {
        /// The stream.
        stream: StreamId,
        /// Version of its LOCK.
        version: u64,
    },
    /// Two streams without a round hold different tables.
    #[error("{stream:?} holds table {held:?} instead of {version}")]
    OtherTable {
        /// The stream.
        stream: StreamId,
        /// What it holds.
        held: Option<u64>,
        /// What it should hold.
        version: u64,
    },
    /// A stream that waits for its first table takes part in a round.
    #[error("{stream:?} is queued and in a round")]
    QueuedInRound {
        /// The stream.
        stream: StreamId,
    },
    /// A host is in the table without a stream, a hold, or a pending departure.
    #[error("host {name} is in the table for no reason")]
    Ghost {
        /// The host.
        name: String,
    },
    /// A hosting stream's first table does not name it.
    #[error("{stream:?} was told a table that lacks it")]
    Missing {
        /// The stream.
        stream: StreamId,
    },
    /// A 1.18 stream was given a table, or unlocked, without the UPDATE that frees what an earlier stream
    /// left blocked, or the acknowledgement of that UPDATE was taken for the table's.
    #[error("{stream:?} may be left with blocked types")]
    LeftBlocked {
        /// The stream.
        stream: StreamId,
    },
    /// An index disagrees with the streams.
    #[error("index {index} disagrees with the streams")]
    Index {
        /// Which one.
        index: &'static str,
    },
}

impl Dissemination {
    /// Checks everything that must hold between two steps.
    pub fn check(&self) -> Result<(), Violation> {
        if self.fixed.version > self.version {
            return Err(Violation::TableAhead { table: self.fixed.version, version: self.version });
        }
        self.check_indexes()?;
        for id in self.streams.keys() {
            self.check_stream(*id)?;
        }
        for name in self.fixed.hosts.keys() {
            let wanted = self.by_name.contains_key(name) || self.holds.contains_key(name);
            if !wanted && !self.changes.contains_key(name) {
                return Err(Violation::Ghost { name: name.to_string() });
            }
        }
        Ok(())
    }

    fn check_indexes(&self) -> Result<(), Violation> {
        let named: usize = self.by_name.values().map(Vec::len).sum();
        if named != self.streams.len() {
            return Err(Violation::Index { index: "by_name" });
        }
        if self.takers.keys().any(|id| !self.streams.contains_key(id)) {
            return Err(Violation::Index { index: "takers" });
        }
        let queued = self.streams.iter().filter(|(_, s)| s.stage == Stage::Queued).map(|(id, _)| id);
        if !queued.eq(self.queued.iter()) {
            return Err(Violation::Index { index: "queued" });
        }
        Ok(())
    }

    fn check_stream(&self, id: StreamId) -> Result<(), Violation> {
        self.check_leftovers(id)?;
        let (stream, version) = (&self.streams[&id], self.version);
        if stream.stage == Stage::Queued {
            let quiet = !stream.in_round && stream.locked.is_none() && stream.table.is_none();
            return if quiet { Ok(()) } else { Err(Violation::QueuedInRound { stream: id }) };
        }
        match self.round.phase {
            // It is unlocked later, see `takers`.
            Phase::Idle if stream.locked.is_some() && self.takers.contains_key(&id) => {}
            Phase::Idle => {
                if let Some(version) = stream.locked {
                    return Err(Violation::LeftLocked { stream: id, version });
                }
                if self.settled == Settled::Yes && stream.table != Some(self.fixed.version) {
                    return Err(Violation::OtherTable { stream: id, held: stream.table, version });
                }
            }
            Phase::Commit | Phase::Update | Phase::Unlock if stream.in_round => {
                if stream.lock_acked != version {
                    return Err(Violation::FixedBeforeLock { stream: id, version });
                }
            }
            Phase::Lock | Phase::Commit | Phase::Update | Phase::Unlock => {}
        }
        let early_v116 = stream.generation == Generation::V116 && stream.table == Some(version);
        if self.round.phase == Phase::Update && stream.locked.is_none() && stream.in_round && !early_v116 {
            return Err(Violation::OtherTable { stream: id, held: stream.table, version });
        }
        self.check_own_host(id)
    }

    /// G10: nobody goes on with a table whose UNLOCK did not release every type that the table names.
    fn check_leftovers(&self, id: StreamId) -> Result<(), Violation> {
        let stream = &self.streams[&id];
        let given = self.round.phase == Phase::Update && stream.in_round;
        let well = match stream.leftovers {
            Leftovers::None => true,
            Leftovers::Possible => !given && stream.table.is_none(),
            Leftovers::Sent => given && self.round.owes(id, stream.generation),
            Leftovers::Changed => stream.locked.is_some() && stream.table.is_none(),
        };
        if well { Ok(()) } else { Err(Violation::LeftBlocked { stream: id }) }
    }

    /// G8: a host finds itself in the table it goes on with, unless its types changed since.
    fn check_own_host(&self, id: StreamId) -> Result<(), Violation> {
        let stream = &self.streams[&id];
        let name = &stream.host.name;
        let fixed = stream.table == Some(self.fixed.version) && self.round.phase == Phase::Idle;
        let hosts = !stream.host.entities.is_empty();
        if fixed && hosts && !self.fixed.hosts.contains_key(name) && !self.changes.contains_key(name) {
            return Err(Violation::Missing { stream: id });
        }
        Ok(())
    }
}
