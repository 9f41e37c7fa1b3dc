//! Programs built from pinned Go modules: Kubernetes, etcd, Helm, containerd, CoreDNS, MinIO.
//!
//! Each module lies under `e2e/modules/<name>/` with its `go.mod` and `go.sum`; the sums are what
//! makes a build the same everywhere. Programs are static (no cgo) but for what is said otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, Entry};
use crate::command;

/// Kubernetes version of the local cluster.
pub const KUBERNETES_VERSION: &str = "1.36.3";
/// Version of the pause program; part of its image's name.
pub const PAUSE_VERSION: &str = "1";

/// One Go module of ours and the programs built from it.
#[derive(Debug)]
pub struct GoModule {
    /// Folder under `e2e/modules`.
    pub name: &'static str,
    /// Version of the software it pins.
    pub version: &'static str,
    /// Name of each program and the package it is built from.
    pub programs: &'static [(&'static str, &'static str)],
    /// Link-time variables beside `-s -w`.
    pub variables: &'static [(&'static str, &'static str)],
}

/// etcd, the API server's store.
pub const ETCD: GoModule =
    GoModule { name: "etcd", version: "3.6.16", programs: &[("etcd", "go.etcd.io/etcd/server/v3")], variables: &[] };

/// Helm, which installs the chart.
pub const HELM: GoModule = GoModule {
    name: "helm",
    version: "3.21.4",
    programs: &[("helm", "helm.sh/helm/v3/cmd/helm")],
    variables: &[("helm.sh/helm/v3/internal/version.version", "v3.21.4")],
};

/// The API server, its controllers and the client.
pub const KUBERNETES: GoModule = GoModule {
    name: "kubernetes",
    version: KUBERNETES_VERSION,
    programs: &[
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
        ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    ],
    // Without these the server calls itself v0.0.0 and clients refuse its features.
    variables: &[
        ("k8s.io/component-base/version.gitVersion", "v1.36.3"),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "36"),
        ("k8s.io/component-base/version.gitTreeState", "clean"),
        ("k8s.io/client-go/pkg/version.gitVersion", "v1.36.3"),
        ("k8s.io/client-go/pkg/version.gitMajor", "1"),
        ("k8s.io/client-go/pkg/version.gitMinor", "36"),
    ],
};

/// containerd with its client and shim.
pub const CONTAINERD: GoModule = GoModule {
    name: "containerd",
    version: "2.4.2",
    programs: &[
        ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
        ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    ],
    variables: &[("github.com/containerd/containerd/v2/version.Version", "v2.4.2")],
};

/// CoreDNS, for names inside the cluster.
pub const COREDNS: GoModule = GoModule {
    name: "coredns",
    version: "1.12.4",
    programs: &[("coredns", "github.com/coredns/coredns")],
    variables: &[],
};

/// MinIO, the object store.
pub const MINIO: GoModule = GoModule {
    name: "minio",
    version: "20260212201848",
    programs: &[("minio", "github.com/minio/minio")],
    variables: &[],
};

/// The folder of this package's sources, where the module files are.
pub fn package_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl GoModule {
    /// The folder with this module's programs, built if the cache lacks them.
    pub fn build(&self, cache: &Cache) -> Result<PathBuf> {
        let sources = package_folder().join("modules").join(self.name);
        let mut recipe = Vec::new();
        for file in ["go.mod", "go.sum"] {
            let path = sources.join(file);
            recipe.extend(std::fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
        recipe.extend(format!("{:?}{:?}", self.programs, self.variables).into_bytes());
        let entry = Entry { name: self.name, version: self.version, recipe: &recipe };
        cache.get(&entry, |to, log| {
            for (program, package) in self.programs {
                let mut go = go_build(&self.link_flags(), &to.join(program));
                go.arg(package).current_dir(&sources);
                command::logged(&mut go, log)?;
            }
            Ok(())
        })
    }

    fn link_flags(&self) -> String {
        let mut flags = String::from("-s -w");
        for (name, value) in self.variables {
            flags.extend([" -X ", name, "=", value]);
        }
        flags
    }
}

/// `go build` with the settings that all our builds share; the package is for the caller to add.
pub fn go_build(link_flags: &str, to: &Path) -> Command {
    let mut go = Command::new("go");
    go.env("CGO_ENABLED", "0")
        // Settings of the machine's owner must not change what is built.
        .env("GOFLAGS", "-buildvcs=false")
        .args(["build", "-trimpath", "-ldflags", link_flags, "-o"])
        .arg(to);
    go
}

/// The static pause program that holds each pod's namespaces.
pub fn build_pause(cache: &Cache) -> Result<PathBuf> {
    let source = package_folder().join("modules/pause/pause.c");
    let recipe = std::fs::read(&source).with_context(|| format!("read {}", source.display()))?;
    let entry = Entry { name: "pause", version: PAUSE_VERSION, recipe: &recipe };
    cache.get(&entry, |to, log| {
        let mut cc = Command::new("cc");
        cc.args(["-Os", "-static", "-s", "-o"]).arg(to.join("pause")).arg(&source);
        command::logged(&mut cc, log)
    })
}
