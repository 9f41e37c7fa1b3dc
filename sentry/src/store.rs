//! Where the bundle is kept: the Secret and ConfigMap of the control plane's namespace, or
//! files. Reads give one snapshot with the revision it was read at; writes are conditional on
//! that revision and fail with `Conflict` when somebody else was faster.

mod files;
mod kubernetes;

pub use files::FileStore;
pub use kubernetes::{KubeStore, TRUST_BUNDLE};

use crate::core::decide::{PublicCopy, Snapshot};

/// Where a change of the root is kept, beside the bundle; upstream ignores these.
const ROTATION_STATE: &str = "root-rotation.json";
const NEXT_CHAIN: &str = "next-issuer.crt";
const NEXT_KEY: &str = "next-issuer.key";

/// The names of the five items: keys of the Secret, and files where bundles are files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemNames {
    /// Trust anchors.
    pub anchors: String,
    /// Issuer chain.
    pub chain: String,
    /// Issuer key.
    pub key: String,
    /// JWT signing key.
    pub jwt_key: String,
    /// JWKS.
    pub jwks: String,
}

impl ItemNames {
    fn each<'a>(&'a self, snapshot: &'a Snapshot) -> [(&'a str, &'a Vec<u8>); 5] {
        [
            (&self.anchors, &snapshot.anchors),
            (&self.chain, &snapshot.chain),
            (&self.key, &snapshot.key),
            (&self.jwt_key, &snapshot.jwt_key),
            (&self.jwks, &snapshot.jwks),
        ]
    }
}

/// A read or write did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An object or directory that must exist does not.
    #[error("failed to get trust bundle {object}: not found")]
    Missing {
        /// Which.
        object: String,
    },
    /// Somebody else wrote since the snapshot was read.
    #[error("{object} was changed by another writer")]
    Conflict {
        /// Which.
        object: String,
    },
    /// The API server refused or could not be reached.
    #[error("failed to {verb} trust bundle {object}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On what.
        object: String,
        /// The API client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// The file system refused.
    #[error("failed to {verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// A store of one of the two kinds.
#[derive(Debug)]
pub enum Store {
    /// Secret and ConfigMap.
    Kubernetes(Box<KubeStore>),
    /// Files.
    Files(FileStore),
}

/// What was read, and at which revision.
#[derive(Debug)]
pub struct Read {
    /// The material.
    pub snapshot: Snapshot,
    /// What a write refers to.
    pub revision: Revision,
}

/// The state a write is conditional on.
#[derive(Debug)]
pub enum Revision {
    /// The objects as read.
    Kubernetes(Box<kubernetes::Objects>),
    /// What was in the files: they have no revision.
    Files(Box<Snapshot>),
}

impl Revision {
    /// The version of the Secret alone; files have none.
    pub fn of_secret(&self) -> Option<&str> {
        match self {
            Self::Kubernetes(objects) => objects.secret_version(),
            Self::Files(_) => None,
        }
    }
}

impl Store {
    /// Reads all items.
    pub async fn read(&self) -> Result<Read, StoreError> {
        match self {
            Self::Kubernetes(store) => store.read().await,
            Self::Files(store) => store.read().await,
        }
    }

    /// Whether another replica is ready, so holds a bundle.
    pub async fn another_replica_runs(&self) -> bool {
        match self {
            Self::Kubernetes(store) => store.another_replica_runs().await,
            Self::Files(_) => false,
        }
    }

    /// Stores the items of `next` if nothing changed since `revision`. The public copy follows
    /// by [`Store::write_copy`].
    pub async fn write(&self, next: &Snapshot, revision: Revision) -> Result<(), StoreError> {
        match (self, revision) {
            (Self::Kubernetes(store), Revision::Kubernetes(objects)) => store.write(next, *objects).await,
            (Self::Files(store), Revision::Files(read)) => store.write(next, &read).await,
            _ => unreachable!("a store gets the revisions it gave"),
        }
    }

    /// Brings the public copy in line.
    pub async fn write_copy(&self, copy: &PublicCopy, revision: Revision) -> Result<(), StoreError> {
        match (self, revision) {
            (Self::Kubernetes(store), Revision::Kubernetes(objects)) => store.write_copy(copy, *objects).await,
            _ => Ok(()),
        }
    }
}
