//! The programs to compare.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cache::Cache;
use crate::command::output;
use crate::modules::package_folder;
use crate::progress::say;
use crate::upstream::{Part, V1_18};

/// Folders with the binaries of both sides.
#[derive(Debug, Clone)]
pub struct Programs {
    ours: PathBuf,
    upstream: PathBuf,
}

/// Whose program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This repository's.
    Ours,
    /// Upstream's, unmodified.
    Upstream,
}

impl Side {
    /// For progress lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Upstream => "upstream",
        }
    }
}

impl Programs {
    /// Builds what is missing.
    pub fn build(ours: Option<&Path>) -> Result<Self> {
        let upstream = V1_18.build(&Cache::of_user()?, Part::ControlPlane)?;
        let ours = match ours {
            Some(folder) => folder.to_path_buf(),
            None => build_ours()?,
        };
        Ok(Self { ours, upstream })
    }

    /// The program of a service.
    pub fn path(&self, side: Side, service: &str) -> PathBuf {
        match side {
            Side::Ours => self.ours.join(service),
            Side::Upstream => self.upstream.join(service),
        }
    }
}

/// What `cargo metadata` says, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

fn build_ours() -> Result<PathBuf> {
    say("building placement and sentry in release mode");
    let workspace = package_folder().parent().unwrap_or(Path::new("."));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(&cargo);
    build.args(["build", "--release", "--locked", "-p", "placement", "-p", "sentry", "--bins"]).current_dir(workspace);
    let status = build.status().context("start cargo")?;
    ensure!(status.success(), "cargo could not build placement and sentry ({status}); its messages are above");
    let mut metadata = Command::new(&cargo);
    metadata.args(["metadata", "--no-deps", "--format-version=1", "--locked"]).current_dir(workspace);
    let metadata: Metadata = serde_json::from_str(&output(&mut metadata)?).context("read cargo's metadata")?;
    Ok(metadata.target_directory.join("release"))
}
