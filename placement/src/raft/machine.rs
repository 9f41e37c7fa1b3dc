//! Raft's state machine: the ledgers of all namespaces, in memory, with snapshots in the store.
//!
//! One lock, held for the time of one batch; leaders read a copy when they take over.

use std::io::Cursor;
use std::sync::Arc;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageIOError, StoredMembership,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::store::Store;
use super::types::{Ledgers, NodeId, StorageError, Types};

type Node = openraft::BasicNode;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    last_applied: Option<LogId<NodeId>>,
    membership: StoredMembership<NodeId, Node>,
    ledgers: Ledgers,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    meta: SnapshotMeta<NodeId, Node>,
    data: String,
}

/// The ledgers, shared between Raft (the only writer) and whoever leads.
#[derive(Clone, Debug)]
pub struct LedgerMachine {
    state: Arc<Mutex<State>>,
    store: Store,
}

impl LedgerMachine {
    /// Starts from the snapshot in the store, if there is one.
    pub fn open(store: Store) -> Result<Self, StorageError> {
        let state = match store.snapshot::<Stored>()? {
            Some(stored) => parse(stored.data.as_bytes())?,
            None => State::default(),
        };
        Ok(Self { state: Arc::new(Mutex::new(state)), store })
    }

    /// What is known of every namespace.
    pub fn ledgers(&self) -> Ledgers {
        self.state.lock().ledgers.clone()
    }
}

fn parse(bytes: &[u8]) -> Result<State, StorageError> {
    serde_json::from_slice(bytes).map_err(|e| StorageIOError::read_snapshot(None, &e).into())
}

impl RaftSnapshotBuilder<Types> for LedgerMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let state = self.state.lock().clone();
        let data = serde_json::to_string(&state).map_err(|e| StorageIOError::read_state_machine(&e))?;
        let index = state.last_applied.map_or(0, |id| id.index);
        let term = state.last_applied.map_or(0, |id| id.leader_id.term);
        let meta = SnapshotMeta {
            last_log_id: state.last_applied,
            last_membership: state.membership,
            snapshot_id: format!("{term}-{index}"),
        };
        self.store.save_snapshot(&Stored { meta: meta.clone(), data: data.clone() })?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data.into_bytes())) })
    }
}

impl RaftStateMachine<Types> for LedgerMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<NodeId>>, StoredMembership<NodeId, Node>), StorageError> {
        let state = self.state.lock();
        Ok((state.last_applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.state.lock();
        let mut replies = Vec::new();
        for entry in entries {
            state.last_applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(members) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), members);
                }
                EntryPayload::Normal(fact) => {
                    state.ledgers.entry(fact.namespace).or_default().apply(&fact.record);
                }
            }
            replies.push(());
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<NodeId, Node>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let mut state = parse(&bytes)?;
        state.last_applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        let data = serde_json::to_string(&state).map_err(|e| StorageIOError::write_state_machine(&e))?;
        self.store.save_snapshot(&Stored { meta: meta.clone(), data })?;
        *self.state.lock() = state;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        Ok(self
            .store
            .snapshot::<Stored>()?
            .map(|stored| Snapshot { meta: stored.meta, snapshot: Box::new(Cursor::new(stored.data.into_bytes())) }))
    }
}
