//! A cluster of kind in Docker, for machines that have both.
//!
//! Images are built by Docker from `e2e/Dockerfile`; the sidecar, the scheduler and the backends are
//! the published images, which Docker fetches.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::api::Client;
use crate::backends::{self, Credentials};
use crate::command::{output, succeeds};
use crate::components::{CONTROL_PLANE, program_of, references};
use crate::modules::package_folder;
use crate::progress::say;
use crate::state::State;

/// Name of the kind cluster.
pub const NAME: &str = "dapr-e2e";

/// Makes the cluster if it is not there, and returns its kubeconfig.
pub fn start(state: &State) -> Result<PathBuf> {
    let kubeconfig = state.path("admin.kubeconfig");
    let known = output(Command::new("kind").args(["get", "clusters"]))?;
    if !known.lines().any(|line| line == NAME) {
        say("creating a kind cluster");
        run(Command::new("kind")
            .args(["create", "cluster", "--name", NAME, "--wait", "120s", "--kubeconfig"])
            .arg(&kubeconfig))?;
    }
    let text = output(Command::new("kind").args(["get", "kubeconfig", "--name", NAME]))?;
    state.write_secret("admin.kubeconfig", text)
}

/// Builds the control plane's images and gives them to the node.
pub fn load_control_plane(rendered: &str) -> Result<()> {
    let workspace = package_folder().parent().unwrap_or(Path::new("."));
    for reference in &references(rendered, &CONTROL_PLANE)? {
        let name = program_of(reference);
        say(format!("building image {reference}"));
        run(Command::new("docker")
            .args(["build", "--file", "e2e/Dockerfile", "--build-arg"])
            .arg(format!("COMPONENT={name}"))
            .args(["--tag", reference, "."])
            .current_dir(workspace))?;
        run(Command::new("kind").args(["load", "docker-image", "--name", NAME, reference]))?;
    }
    Ok(())
}

/// Runs the backends as pods of their published images.
pub fn start_backends(client: &Client, state: &State) -> Result<()> {
    say("starting Valkey, Kafka, OpenBao and MinIO in the cluster");
    let credentials = Credentials::of(state)?;
    client.apply(&backends::application_objects(&credentials))?;
    client.apply(&backends::backend_secrets(&credentials))?;
    let mut kubectl = client.kubectl();
    kubectl.args(["apply", "--server-side", "--force-conflicts", "-f"]);
    kubectl.arg(package_folder().join("kind/backends.yaml"));
    output(&mut kubectl)?;
    for backend in backends::ALL {
        let workload = format!("deployment/{}", backend.name);
        run(client.kubectl().args(["rollout", "status", "--timeout=300s", "-n", backend.namespace, &workload]))?;
    }
    Ok(())
}

/// Deletes the cluster.
pub fn stop() -> Result<()> {
    if succeeds(Command::new("kind").arg("version")) {
        run(Command::new("kind").args(["delete", "cluster", "--name", NAME]))?;
    }
    Ok(())
}

/// Runs a program whose output is for the person who waits.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if !status.success() {
        bail!("{} ended with {status}; its messages are above", command.get_program().display());
    }
    Ok(())
}
