//! The bundle in up to five files (standalone mode), with up to three more and a command while
//! its root is changed.
//!
//! A change must appear whole: what is new is first written to a directory beside the files,
//! which is put in place by one rename, and only then copied out file by file. Beside each new
//! file lies the digest of the one it replaces: only that very one is replaced, so that nothing a
//! user wrote meanwhile is lost. A start that finds that directory finishes the copying, so a
//! crash at any point leaves no half bundle. Two processes cannot both put their directory in
//! place.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use tokio::{fs, io::AsyncWriteExt as _};

use super::{ItemNames, NEXT_CHAIN, NEXT_KEY, ROTATION_STATE, Read, Revision, StoreError};
use crate::core::{decide::Snapshot, rotation::Items};

/// A finished change that may not all be copied out yet.
const PENDING: &str = ".sentry-pending";
/// A change being written; each process has its own.
const STAGING: &str = ".sentry-staging-";
/// The file by which a user drives a change of the root.
const COMMAND: &str = "ca-rotation";
/// Ends the name of the digest of what a file replaces; without one it replaces nothing.
const REPLACED: &str = "was";

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
        let snapshot = self.snapshot().await?;
        let revision = Revision::Files(Box::new(snapshot.clone()));
        Ok(Read { snapshot, revision })
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let names = &self.names;
        let command = self.item(COMMAND).await?;
        let command = String::from_utf8_lossy(&command).trim().to_owned();
        Ok(Snapshot {
            anchors: self.item(&names.anchors).await?,
            chain: self.item(&names.chain).await?,
            key: self.item(&names.key).await?,
            jwt_key: self.item(&names.jwt_key).await?,
            jwks: self.item(&names.jwks).await?,
            rotation: Items {
                state: self.item(ROTATION_STATE).await?,
                next_chain: self.item(NEXT_CHAIN).await?,
                next_key: self.item(NEXT_KEY).await?,
                command: (!command.is_empty()).then_some(command),
            },
            ..Snapshot::default()
        })
    }

    /// Writes what differs between `next` and what is stored, which must still be `read`.
    pub(super) async fn write(&self, next: &Snapshot, read: &Snapshot) -> Result<(), StoreError> {
        let stored = self.snapshot().await?;
        if stored != *read {
            return Err(self.conflict());
        }
        let staging = self.directory.join(format!("{STAGING}{}", std::process::id()));
        let staged = async {
            remove_dir(&staging).await?;
            fs::create_dir(&staging).await?;
            let (before, after) = (self.files(&stored), self.files(next));
            for (index, ((_, old), (_, new))) in before.into_iter().zip(after).enumerate() {
                // Of the bundle itself nothing is ever removed.
                if old == new || (new.is_empty() && self.is_bundle(index)) {
                    continue;
                }
                write_private(&staging.join(index.to_string()), new).await?;
                write_private(&staging.join(format!("{index}.{REPLACED}")), digest(old).as_bytes()).await?;
            }
            fs::rename(&staging, self.directory.join(PENDING)).await
        };
        match staged.await {
            Ok(()) => self.finish_pending().await,
            Err(error) => {
                // What is left of it is removed by the next write of this process id.
                remove_dir(&staging).await.ok();
                if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) {
                    return Err(self.conflict());
                }
                Err(failed("write new trust bundle in", &self.directory)(error))
            }
        }
    }

    /// Copies a finished change to its places.
    async fn finish_pending(&self) -> Result<(), StoreError> {
        let pending = self.directory.join(PENDING);
        if !fs::try_exists(&pending).await.unwrap_or(false) {
            return Ok(());
        }
        let stored = self.snapshot().await?;
        for (index, (name, there)) in self.files(&stored).into_iter().enumerate() {
            let source = pending.join(index.to_string());
            let content = match fs::read(&source).await {
                Ok(content) => content,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("read", &source)(error)),
            };
            let digest_file = pending.join(format!("{index}.{REPLACED}"));
            let was = fs::read(&digest_file).await.or_else(nothing_if_absent).map_err(failed("read", &digest_file))?;
            // Else the file there was finished before, or is a user's.
            if digest(there).as_bytes() == was || (was.is_empty() && there.is_empty()) {
                self.put(name, &content).await?;
            }
        }
        remove_dir(&pending).await.map_err(failed("remove", &pending))
    }

    /// Puts a file in place of the one there, whole; an empty one only removes it.
    async fn put(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let target = self.path(name);
        if content.is_empty() {
            return match fs::remove_file(&target).await {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", &target)(error)),
                _ => Ok(()),
            };
        }
        let temporary = target.with_extension("sentry-new");
        write_private(&temporary, content).await.map_err(failed("write", &temporary))?;
        fs::rename(&temporary, &target).await.map_err(failed("write", &target))
    }

    /// Every file with its content in a snapshot; the index names it in a change on its way.
    fn files<'a>(&'a self, snapshot: &'a Snapshot) -> Vec<(&'a str, &'a [u8])> {
        let rotation = &snapshot.rotation;
        let command = rotation.command.as_deref().unwrap_or_default();
        let bundle = self.names.each(snapshot).map(|(name, content)| (name, content.as_slice()));
        let more = [
            (ROTATION_STATE, rotation.state.as_slice()),
            (NEXT_CHAIN, &rotation.next_chain),
            (NEXT_KEY, &rotation.next_key),
            (COMMAND, command.as_bytes()),
        ];
        bundle.into_iter().chain(more).collect()
    }

    fn is_bundle(&self, index: usize) -> bool {
        index < self.names.each(&Snapshot::default()).len()
    }

    fn conflict(&self) -> StoreError {
        StoreError::Conflict { object: self.directory.display().to_string() }
    }

    async fn item(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.path(name);
        fs::read(&path).await.or_else(nothing_if_absent).map_err(failed("read", &path))
    }

    /// Absolute names stand for themselves.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn digest(content: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content))
}

fn nothing_if_absent(error: io::Error) -> io::Result<Vec<u8>> {
    if error.kind() == ErrorKind::NotFound { Ok(Vec::new()) } else { Err(error) }
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
