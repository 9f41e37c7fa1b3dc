//! A running cluster, for the quick start's table and for tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::api::Client;
use crate::backends::Credentials;
use crate::command::{output, output_with_input};
use crate::helm;
use crate::images::Image;
use crate::mode::Mode;
use crate::netns;
use crate::node::Runtime;
use crate::state::{Record, State};

/// A handle on the cluster that `e2e up` brought up.
#[derive(Debug, Clone)]
pub struct Cluster {
    state: State,
    record: Record,
}

impl Cluster {
    /// The cluster that runs now.
    pub fn current() -> Result<Self> {
        Self::in_state(State::of_user()?)
    }

    /// The cluster of a state folder.
    pub fn in_state(state: State) -> Result<Self> {
        let record = state.record()?.context("no cluster is up; start one with `e2e up`")?;
        Ok(Self { state, record })
    }

    /// What is remembered of it.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// How it runs.
    pub fn mode(&self) -> Mode {
        self.record.mode
    }

    /// The administrator's kubeconfig; its server address is reachable from this machine.
    pub fn kubeconfig(&self) -> &Path {
        &self.record.kubeconfig
    }

    /// The state folder: logs are under `logs/`.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A Kubernetes client with the administrator's rights.
    pub async fn client(&self) -> Result<kube::Client> {
        let file = kube::config::Kubeconfig::read_from(self.kubeconfig()).context("read the kubeconfig")?;
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await.context("use the kubeconfig")?;
        kube::Client::try_from(config).context("make a Kubernetes client")
    }

    /// `kubectl` and its arguments, to be run by the caller.
    pub fn kubectl_command<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut kubectl = self.api().kubectl();
        kubectl.args(arguments);
        kubectl
    }

    /// Runs `kubectl` and returns what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output(&mut self.kubectl_command(arguments))
    }

    /// Applies manifests given as text.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        output_with_input(&mut self.kubectl_command(arguments), manifests)
    }

    /// Helm, set to this cluster.
    pub fn helm(&self) -> Command {
        helm::command(&self.record.helm, self.kubeconfig())
    }

    /// The API server's client as the bring-up uses it.
    pub fn api(&self) -> Client {
        Client { program: self.record.kubectl.clone(), kubeconfig: self.record.kubeconfig.clone() }
    }

    /// A command that runs where the cluster's addresses of pods, Services and the node are reachable.
    ///
    /// From outside they are reachable too, through the pair of interfaces that joins the two.
    pub fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match self.record.mode {
            Mode::Node => netns::command(program),
            Mode::Kind | Mode::Processes => Command::new(program),
        }
    }

    /// Makes an image known to the nodes, so that pods with `imagePullPolicy: IfNotPresent` can use it.
    pub fn load_image(&self, image: &Image) -> Result<()> {
        let name = image.reference.replace(['/', ':'], "_");
        let archive = self.state.path("images").join(format!("{name}.tar"));
        image.write(&archive)?;
        self.load_archive(&archive)?;
        std::fs::remove_file(&archive).context("remove the image's archive")
    }

    /// Makes the image in an OCI archive known to the nodes.
    pub fn load_archive(&self, archive: &Path) -> Result<()> {
        match self.record.mode {
            Mode::Node => Runtime::of(&self.state, &self.containerd()?).import(archive),
            Mode::Kind => {
                output(Command::new("kind").args(["load", "image-archive", "--name", crate::kind::NAME]).arg(archive))
                    .map(drop)
            }
            Mode::Processes => anyhow::bail!("this cluster runs no pods"),
        }
    }

    /// The container runtime of a node of our own.
    pub fn runtime(&self) -> Result<Runtime> {
        Ok(Runtime::of(&self.state, &self.containerd()?))
    }

    /// The passwords and tokens of the backends.
    pub fn credentials(&self) -> Result<Credentials> {
        Credentials::of(&self.state)
    }

    /// Processes of the container `container` of a pod, by their ids on this machine.
    pub fn container_processes(&self, namespace: &str, pod: &str, container: &str) -> Result<Vec<i32>> {
        let path = format!(
            "jsonpath={{.status.containerStatuses[?(@.name=='{container}')].containerID}}{{.status.initContainerStatuses[?(@.name=='{container}')].containerID}}"
        );
        let id = self.kubectl(&["get", "pod", "--namespace", namespace, pod, "-o", &path])?;
        let id = id.trim().trim_start_matches("containerd://").to_owned();
        anyhow::ensure!(!id.is_empty(), "pod {namespace}/{pod} has no running container {container}");
        let table = output(self.runtime()?.ctr().args(["tasks", "ps", &id]))?;
        Ok(table.lines().skip(1).filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect())
    }

    fn containerd(&self) -> Result<PathBuf> {
        self.record.containerd.clone().context("this cluster has no containerd of its own")
    }
}
