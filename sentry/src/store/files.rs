//! The bundle in up to five files (standalone mode).
//!
//! New material must appear whole: it is first written to a directory beside the files, which
//! is put in place by one rename, and only then copied out file by file. A start that finds
//! that directory finishes the copying, so a crash at any point leaves no half bundle. Two
//! processes that start at once cannot both put their directory in place.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use tokio::{fs, io::AsyncWriteExt as _};

use super::{ItemNames, Read, Revision, StoreError};
use crate::core::decide::Snapshot;

/// Finished new material that may not all be copied out yet.
const PENDING: &str = ".sentry-pending";
/// New material being written; each process has its own.
const STAGING: &str = ".sentry-staging-";

/// Reads and writes the files.
#[derive(Debug, Clone)]
pub struct FileStore {
    directory: PathBuf,
    names: ItemNames,
}

impl FileStore {
    /// Keeps the files in `directory`, except those with absolute names.
    pub fn new(directory: impl Into<PathBuf>, names: ItemNames) -> Self {
        Self { directory: directory.into(), names }
    }

    pub(super) async fn read(&self) -> Result<Read, StoreError> {
        if !fs::try_exists(&self.directory).await.unwrap_or(false) {
            return Err(StoreError::Missing { object: format!("directory {}", self.directory.display()) });
        }
        self.finish_pending().await?;
        let names = &self.names;
        let snapshot = Snapshot {
            anchors: self.item(&names.anchors).await?,
            chain: self.item(&names.chain).await?,
            key: self.item(&names.key).await?,
            jwt_key: self.item(&names.jwt_key).await?,
            jwks: self.item(&names.jwks).await?,
            ..Snapshot::default()
        };
        Ok(Read { snapshot, revision: Revision::Files })
    }

    pub(super) async fn write(&self, next: &Snapshot) -> Result<(), StoreError> {
        let staging = self.directory.join(format!("{STAGING}{}", std::process::id()));
        let staged = async {
            remove_dir(&staging).await?;
            fs::create_dir(&staging).await?;
            for (index, (_, value)) in self.names.each(next).into_iter().enumerate() {
                if !value.is_empty() {
                    write_private(&staging.join(index.to_string()), value).await?;
                }
            }
            fs::rename(&staging, self.directory.join(PENDING)).await
        };
        match staged.await {
            Ok(()) => self.finish_pending().await,
            Err(error) => {
                // What is left of it is removed by the next write of this process id.
                remove_dir(&staging).await.ok();
                if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) {
                    let object = self.directory.display().to_string();
                    return Err(StoreError::Conflict { object });
                }
                Err(failed("write new trust bundle in", &self.directory)(error))
            }
        }
    }

    /// Copies finished new material to its places.
    async fn finish_pending(&self) -> Result<(), StoreError> {
        let pending = self.directory.join(PENDING);
        for (index, (name, _)) in self.names.each(&Snapshot::default()).into_iter().enumerate() {
            let source = pending.join(index.to_string());
            let content = match fs::read(&source).await {
                Ok(content) => content,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("read", &source)(error)),
            };
            let target = self.path(name);
            // Nothing that exists is overwritten: a file there was finished before, or is a
            // user's.
            if self.item(name).await?.is_empty() {
                let temporary = target.with_extension("sentry-new");
                write_private(&temporary, &content).await.map_err(failed("write", &temporary))?;
                fs::rename(&temporary, &target).await.map_err(failed("write", &target))?;
            }
        }
        remove_dir(&pending).await.map_err(failed("remove", &pending))
    }

    async fn item(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.path(name);
        match fs::read(&path).await {
            Ok(content) => Ok(content),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Absolute names stand for themselves.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::File { verb, path, source }
}

async fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file that only its owner can read, and waits until it is on disk.
async fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).await?;
    file.write_all(content).await?;
    file.sync_all().await
}
