//! What a replica finds again after a restart, and faults of it.

use std::fmt::Debug;
use std::ops::RangeBounds;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{Entry, EntryPayload, LogId, LogState, OptionalSend, RaftLogReader, Vote};
use placement::core::Record;
use placement::raft::{NodeId, Store, Types};

use super::Fault;

type StorageError = openraft::StorageError<NodeId>;

/// Raft's way to the store; made anew at each start of a replica.
pub struct Log {
    store: Store,
    /// The vote as this process remembers it, where it is not written.
    remembered: Option<Vote<NodeId>>,
    forgetful: bool,
    /// Facts are written without their content.
    hollow: bool,
}

impl Log {
    pub fn new(store: Store, replica: usize, fault: Fault) -> Self {
        Self {
            store,
            remembered: None,
            forgetful: fault == Fault::UnpersistedVote,
            hollow: fault == Fault::HollowLog && replica == 0,
        }
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, StorageError> {
        self.store.try_get_log_entries(range).await
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        self.store.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Store {
        self.store.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<NodeId>) -> Result<(), StorageError> {
        if self.forgetful {
            self.remembered = Some(*vote);
            return Ok(());
        }
        self.store.save_vote(vote).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<NodeId>>, StorageError> {
        if self.forgetful { Ok(self.remembered) } else { self.store.read_vote().await }
    }

    async fn save_committed(&mut self, committed: Option<LogId<NodeId>>) -> Result<(), StorageError> {
        self.store.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<NodeId>>, StorageError> {
        self.store.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries: Vec<_> = entries.into_iter().collect();
        for entry in entries.iter_mut().filter(|_| self.hollow) {
            if let EntryPayload::Normal(fact) = &mut entry.payload
                && let Record::Fixed { changes, .. } = &mut fact.record
            {
                changes.clear();
            }
        }
        self.store.append(entries, callback).await
    }

    async fn truncate(&mut self, log_id: LogId<NodeId>) -> Result<(), StorageError> {
        self.store.truncate(log_id).await
    }

    async fn purge(&mut self, log_id: LogId<NodeId>) -> Result<(), StorageError> {
        self.store.purge(log_id).await
    }
}
