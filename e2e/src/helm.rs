//! Installing the chart.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::api::{CACHE_VARIABLE, cache_beside};
use crate::command::output;

/// Where the control plane runs.
pub const NAMESPACE: &str = "dapr-system";
/// Name of the release.
pub const RELEASE: &str = "dapr";

/// Helm, set to the cluster of this kubeconfig.
pub fn command(program: &Path, kubeconfig: &Path) -> Command {
    let mut helm = Command::new(program);
    helm.env("KUBECONFIG", kubeconfig).env(CACHE_VARIABLE, cache_beside(kubeconfig));
    helm
}

/// A chart with its values, and the Helm to install it with.
#[derive(Debug, Clone)]
pub struct Chart {
    /// The `helm` program.
    pub helm: PathBuf,
    /// Kubeconfig of the cluster.
    pub kubeconfig: PathBuf,
    /// Folder of the chart.
    pub folder: PathBuf,
    /// Values files, later ones win.
    pub values: Vec<PathBuf>,
}

impl Chart {
    /// What the chart renders to in this cluster.
    pub fn render(&self) -> Result<String> {
        let mut helm = self.helm();
        helm.arg("template").arg(RELEASE).arg(&self.folder).args(["--namespace", NAMESPACE]);
        self.add_values(&mut helm);
        output(&mut helm)
    }

    /// Installs the chart or brings the installed one up to date, and waits until it is ready.
    pub fn install(&self) -> Result<String> {
        self.upgrade(&["--wait", "--timeout", "5m"])
    }

    /// Puts the chart's objects in place without waiting for pods.
    pub fn install_objects(&self) -> Result<String> {
        self.upgrade(&[])
    }

    fn upgrade(&self, waiting: &[&str]) -> Result<String> {
        let mut helm = self.helm();
        helm.args(["upgrade", RELEASE]).arg(&self.folder);
        helm.args(["--install", "--create-namespace", "--namespace", NAMESPACE]).args(waiting);
        self.add_values(&mut helm);
        output(&mut helm)
    }

    fn helm(&self) -> Command {
        command(&self.helm, &self.kubeconfig)
    }

    fn add_values(&self, helm: &mut Command) {
        for file in &self.values {
            helm.arg("--values").arg::<&Path>(file);
        }
    }
}
