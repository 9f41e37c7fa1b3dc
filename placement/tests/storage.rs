//! The log store against openraft's own suite, on disk and in memory, and what must survive a restart.

use openraft::Vote;
use openraft::storage::RaftLogStorage;
use openraft::testing::{StoreBuilder, Suite};
use placement::raft::{LedgerMachine, NodeId, Store, Types};

type StorageError = openraft::StorageError<NodeId>;

struct OnDisk;
struct InMemory;

impl StoreBuilder<Types, Store, LedgerMachine, tempfile::TempDir> for OnDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, Store, LedgerMachine), StorageError> {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(Some(folder.path())).expect("it opens");
        let machine = LedgerMachine::open(store.clone())?;
        Ok((folder, store, machine))
    }
}

impl StoreBuilder<Types, Store, LedgerMachine> for InMemory {
    async fn build(&self) -> Result<((), Store, LedgerMachine), StorageError> {
        let store = Store::open(None).expect("it opens");
        let machine = LedgerMachine::open(store.clone())?;
        Ok(((), store, machine))
    }
}

#[test]
fn the_store_on_disk_passes_openrafts_suite() {
    Suite::test_all(OnDisk).expect("the suite passes");
}

#[test]
fn the_store_in_memory_passes_openrafts_suite() {
    Suite::test_all(InMemory).expect("the suite passes");
}

#[tokio::test]
async fn a_vote_survives_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let vote = Vote::new(7, 3);
    let mut store = Store::open(Some(folder.path())).expect("it opens");
    assert!(store.is_blank().expect("readable"));
    store.save_vote(&vote).await.expect("written");
    drop(store);
    let mut again = Store::open(Some(folder.path())).expect("it opens again");
    assert_eq!(again.read_vote().await.expect("readable"), Some(vote));
    assert!(!again.is_blank().expect("readable"));
}

#[test]
fn a_folder_with_leftovers_of_upstreams_raft_is_usable() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("raft.db"), b"something else").expect("a file");
    std::fs::create_dir(folder.path().join("snapshots")).expect("a folder");
    assert!(Store::open(Some(folder.path())).expect("it opens").is_blank().expect("readable"));
}

#[test]
fn a_damaged_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("placement.redb"), vec![7; 8192]).expect("a file");
    let error = Store::open(Some(folder.path())).expect_err("damaged");
    assert!(error.to_string().contains("placement.redb"), "{error}");
}
