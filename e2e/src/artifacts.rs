//! Everything that a local cluster is made of and that is built or downloaded once per version.

use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::downloads;
use crate::modules::{CONTAINERD, COREDNS, ETCD, HELM, KUBERNETES, MINIO, build_pause};
use crate::upstream::{Part, V1_18};

/// Where each thing is; every path is a folder with programs or a program.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// Folder with `etcd`.
    pub etcd: PathBuf,
    /// Folder with `helm`.
    pub helm: PathBuf,
    /// Folder with the programs of Kubernetes.
    pub kubernetes: PathBuf,
    /// Folder with `daprd`.
    pub daprd: PathBuf,
    /// Folder with `scheduler`.
    pub scheduler: PathBuf,
}

/// What only a node of our own needs.
#[derive(Debug, Clone)]
pub struct NodeArtifacts {
    /// Folder with `containerd`, `ctr` and the shim.
    pub containerd: PathBuf,
    /// Folder with `coredns`.
    pub coredns: PathBuf,
    /// Folder with `pause`.
    pub pause: PathBuf,
}

/// The backends' programs.
#[derive(Debug, Clone)]
pub struct BackendArtifacts {
    /// Folder with `minio`.
    pub minio: PathBuf,
    /// The OpenBao server.
    pub openbao: PathBuf,
    /// The Valkey server.
    pub valkey: PathBuf,
    /// Folder with Kafka's jars.
    pub kafka: PathBuf,
}

impl Artifacts {
    /// Builds what the cache lacks; the short builds come first.
    pub fn build(cache: &Cache) -> Result<Self> {
        Ok(Self {
            etcd: ETCD.build(cache)?,
            helm: HELM.build(cache)?,
            daprd: V1_18.build(cache, Part::Daprd)?,
            scheduler: V1_18.build(cache, Part::Scheduler)?,
            kubernetes: KUBERNETES.build(cache)?,
        })
    }

    /// The `kubectl` program.
    pub fn kubectl(&self) -> PathBuf {
        self.kubernetes.join("kubectl")
    }

    /// The `helm` program.
    pub fn helm(&self) -> PathBuf {
        self.helm.join("helm")
    }
}

impl NodeArtifacts {
    /// Builds what the cache lacks.
    pub fn build(cache: &Cache) -> Result<Self> {
        Ok(Self { pause: build_pause(cache)?, containerd: CONTAINERD.build(cache)?, coredns: COREDNS.build(cache)? })
    }
}

impl BackendArtifacts {
    /// Downloads or builds what the cache lacks.
    pub fn build(cache: &Cache) -> Result<Self> {
        Ok(Self {
            openbao: downloads::openbao(cache)?,
            valkey: downloads::valkey(cache)?,
            kafka: downloads::kafka(cache)?,
            minio: MINIO.build(cache)?,
        })
    }
}
