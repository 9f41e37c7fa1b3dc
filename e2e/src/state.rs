//! The folder that a running cluster lives in, and what is remembered in it between commands.
//!
//! It is outside the repository. Everything in it belongs to the cluster: `e2e down` removes it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::mode::Mode;

/// Names the state folder instead of the default.
pub const STATE_VARIABLE: &str = "DAPRCP_STATE";

/// The state folder.
#[derive(Debug, Clone)]
pub struct State {
    root: PathBuf,
}

/// What a command needs to know of the cluster that an earlier one brought up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// How the cluster runs.
    pub mode: Mode,
    /// The kubeconfig of the cluster's administrator.
    pub kubeconfig: PathBuf,
    /// The `kubectl` that fits the cluster.
    pub kubectl: PathBuf,
    /// The Helm that installed the chart.
    pub helm: PathBuf,
    /// Folder of containerd's programs, where the node is our own.
    pub containerd: Option<PathBuf>,
}

impl State {
    /// The state folder of this user, or the one that the environment names.
    pub fn of_user() -> Result<Self> {
        if let Some(named) = std::env::var_os(STATE_VARIABLE) {
            return Ok(Self::at(PathBuf::from(named)));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(Self::at(PathBuf::from("/var/lib/dapr-control-plane")));
        }
        if let Some(xdg) = std::env::var_os("XDG_STATE_HOME").filter(|v| !v.is_empty()) {
            return Ok(Self::at(PathBuf::from(xdg).join("dapr-control-plane")));
        }
        let home = std::env::var_os("HOME").context("neither XDG_STATE_HOME nor HOME is set")?;
        Ok(Self::at(PathBuf::from(home).join(".local/state/dapr-control-plane")))
    }

    /// A state folder at the given place.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// A subfolder, made if it is not there.
    pub fn folder(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// Makes the folder itself, closed to other users: it holds keys.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.root).with_context(|| format!("create {}", self.root.display()))?;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o711))?;
        Ok(())
    }

    /// Writes a file that others may read.
    pub fn write(&self, name: impl AsRef<Path>, text: impl AsRef<[u8]>) -> Result<PathBuf> {
        self.write_mode(name, text, 0o644)
    }

    /// Writes a file that only the owner may read.
    pub fn write_secret(&self, name: impl AsRef<Path>, text: impl AsRef<[u8]>) -> Result<PathBuf> {
        self.write_mode(name, text, 0o600)
    }

    fn write_mode(&self, name: impl AsRef<Path>, text: impl AsRef<[u8]>, mode: u32) -> Result<PathBuf> {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        let partial = path.with_extension("partial");
        fs::write(&partial, text).with_context(|| format!("write {}", partial.display()))?;
        fs::set_permissions(&partial, fs::Permissions::from_mode(mode))?;
        fs::rename(&partial, &path).with_context(|| format!("move {} into place", path.display()))?;
        Ok(path)
    }

    /// Reads what [`State::save`] wrote, if it is there.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let value = serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))?;
        Ok(Some(value))
    }

    /// Keeps a value for later commands.
    pub fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let text = serde_json::to_vec_pretty(value).with_context(|| format!("print {name}"))?;
        self.write_secret(name, text).map(drop)
    }

    /// The record of the running cluster.
    pub fn record(&self) -> Result<Option<Record>> {
        self.load("cluster.json")
    }
}
