//! Log, vote and snapshot in one embedded database (redb): a file, or memory when no path is set.
//!
//! Every write is one transaction and durable when it returns. The database holds Raft's hard state
//! only; the ledgers live in memory and are rebuilt from the snapshot and the committed log.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{Entry, LogId, LogState, OptionalSend, RaftLogReader, StorageIOError, Vote};
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::types::{NodeId, StorageError, Types};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Pages kept in memory; the whole state is smaller.
const CACHE_BYTES: usize = 1 << 20;
/// The file inside `--raft-logstore-path`. Not a name that upstream ever used there.
const FILE: &str = "placement.redb";

const VOTE: &str = "vote";
const PURGED: &str = "purged";
const COMMITTED: &str = "committed";
const SNAPSHOT: &str = "snapshot";

/// The database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made.
    #[error("cannot create raft log folder {path}")]
    Folder {
        /// `--raft-logstore-path`.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be opened or is no database.
    #[error("cannot open raft log {path}")]
    Database {
        /// The file, or `memory`.
        path: String,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
}

/// A handle on the database; clones share it.
#[derive(Clone)]
pub struct Store {
    db: Arc<Database>,
    on_disk: bool,
}

impl Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

type Io<T> = Result<T, redb::Error>;

impl Store {
    /// Opens the database below `folder`, or a new one in memory.
    pub fn open(folder: Option<&Path>) -> Result<Self, OpenError> {
        let Some(folder) = folder else {
            let memory = redb::backends::InMemoryBackend::new();
            return Self::prepare("memory", builder().create_with_backend(memory), false);
        };
        std::fs::create_dir_all(folder)
            .map_err(|source| OpenError::Folder { path: folder.display().to_string(), source })?;
        let file = folder.join(FILE);
        Self::prepare(&file.display().to_string(), builder().create(&file), true)
    }

    fn prepare(path: &str, opened: Result<Database, redb::DatabaseError>, on_disk: bool) -> Result<Self, OpenError> {
        let fail = |source: redb::Error| OpenError::Database { path: path.to_owned(), source: Box::new(source) };
        let db = opened.map_err(|e| fail(e.into()))?;
        let tables = || -> Io<()> {
            let write = db.begin_write()?;
            write.open_table(LOG)?;
            write.open_table(META)?;
            Ok(write.commit()?)
        };
        tables().map_err(fail)?;
        Ok(Self { db: Arc::new(db), on_disk })
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> Io<Option<T>> {
        let read = self.db.begin_read()?;
        let table = read.open_table(META)?;
        let value = table.get(key)?;
        value.map(|bytes| decode(bytes.value())).transpose()
    }

    fn put<T: Serialize>(&self, key: &'static str, value: &T) -> Io<()> {
        let bytes = encode(value)?;
        let write = self.db.begin_write()?;
        write.open_table(META)?.insert(key, bytes.as_slice())?;
        Ok(write.commit()?)
    }

    /// The snapshot saved last, encoded by the state machine.
    pub(super) fn snapshot<T: DeserializeOwned>(&self) -> Result<Option<T>, StorageError> {
        self.get(SNAPSHOT).map_err(|e| StorageIOError::read_snapshot(None, &e).into())
    }

    /// Replaces the snapshot.
    pub(super) fn save_snapshot<T: Serialize>(&self, snapshot: &T) -> Result<(), StorageError> {
        self.put(SNAPSHOT, snapshot).map_err(|e| StorageIOError::write_snapshot(None, &e).into())
    }

    /// Whether this node never voted nor logged anything: a new node, or one that lost its disk.
    pub fn is_blank(&self) -> Result<bool, StorageError> {
        let vote: Option<Vote<NodeId>> = self.get(VOTE).map_err(|e| StorageIOError::read_vote(&e))?;
        let last = self.last().map_err(|e| StorageIOError::read_logs(&e))?;
        Ok(vote.is_none() && last.is_none())
    }

    fn last(&self) -> Io<Option<Entry<Types>>> {
        let read = self.db.begin_read()?;
        let table = read.open_table(LOG)?;
        let last = table.last()?;
        last.map(|(_, bytes)| decode(bytes.value())).transpose()
    }

    fn entries<R: RangeBounds<u64>>(&self, range: R) -> Io<Vec<Entry<Types>>> {
        let read = self.db.begin_read()?;
        let table = read.open_table(LOG)?;
        let mut entries = Vec::new();
        for row in table.range(range)? {
            entries.push(decode(row?.1.value())?);
        }
        Ok(entries)
    }

    fn append_all(&self, entries: Vec<Entry<Types>>) -> Io<()> {
        let write = self.db.begin_write()?;
        {
            let mut table = write.open_table(LOG)?;
            for entry in entries {
                table.insert(entry.log_id.index, encode(&entry)?.as_slice())?;
            }
        }
        Ok(write.commit()?)
    }

    fn drop_range<R: RangeBounds<u64>>(&self, range: R, purged: Option<LogId<NodeId>>) -> Io<()> {
        let write = self.db.begin_write()?;
        write.open_table(LOG)?.retain_in(range, |_, _| false)?;
        if let Some(purged) = purged {
            write.open_table(META)?.insert(PURGED, encode(&purged)?.as_slice())?;
        }
        Ok(write.commit()?)
    }

    /// Runs a transaction, off the async workers if its commit waits for the disk.
    async fn run<T: Send + 'static>(&self, run: impl FnOnce(&Self) -> Io<T> + Send + 'static) -> Io<T> {
        if !self.on_disk {
            return run(self);
        }
        let store = self.clone();
        match tokio::task::spawn_blocking(move || run(&store)).await {
            Ok(result) => result,
            Err(error) => Err(redb::Error::Io(io::Error::other(error))),
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn encode<T: Serialize>(value: &T) -> Io<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| redb::Error::Io(e.into()))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Io<T> {
    serde_json::from_slice(bytes).map_err(|e| redb::Error::Corrupted(e.to_string()))
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, StorageError> {
        self.entries(range).map_err(|e| StorageIOError::read_logs(&e).into())
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let read = || -> Io<_> { Ok((self.get(PURGED)?, self.last()?)) };
        let (purged, last) = read().map_err(|e| StorageIOError::read_logs(&e))?;
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.map(|entry| entry.log_id).or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<NodeId>) -> Result<(), StorageError> {
        let vote = *vote;
        self.run(move |store| store.put(VOTE, &vote)).await.map_err(|e| StorageIOError::write_vote(&e).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<NodeId>>, StorageError> {
        self.get(VOTE).map_err(|e| StorageIOError::read_vote(&e).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId<NodeId>>) -> Result<(), StorageError> {
        self.run(move |store| store.put(COMMITTED, &committed)).await.map_err(|e| StorageIOError::write(&e).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<NodeId>>, StorageError> {
        self.get::<Option<LogId<NodeId>>>(COMMITTED).map(Option::flatten).map_err(|e| StorageIOError::read(&e).into())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().collect();
        self.run(move |store| store.append_all(entries)).await.map_err(|e| StorageIOError::write_logs(&e))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<NodeId>) -> Result<(), StorageError> {
        self.run(move |store| store.drop_range(log_id.index.., None))
            .await
            .map_err(|e| StorageIOError::write_logs(&e).into())
    }

    async fn purge(&mut self, log_id: LogId<NodeId>) -> Result<(), StorageError> {
        self.run(move |store| store.drop_range(..=log_id.index, Some(log_id)))
            .await
            .map_err(|e| StorageIOError::write_logs(&e).into())
    }
}
