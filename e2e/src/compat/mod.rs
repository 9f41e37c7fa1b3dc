//! What the long tests need beside the quick start: applications with each supported sidecar, and
//! sentry's bundle as it is stored.

pub mod bundle;
pub mod ring;

use std::time::Duration;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::time::{Instant, sleep};

use crate::args::Up;
use crate::cluster::Cluster;
use crate::components::ControlPlane;
use crate::quickstart::services;
use crate::up;

const POLL: Duration = Duration::from_millis(500);

/// Asks again and again until there is an answer. An error counts as no answer yet: it is told when
/// the time is over.
pub async fn wait_for<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let seen = match probe().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}{seen}");
        }
        sleep(POLL).await;
    }
}

/// The states of all containers of a pod, native sidecars included.
pub fn container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses)).flatten()
}

/// How often the pod's containers were restarted.
pub fn restarts(pod: &Pod) -> i32 {
    container_statuses(pod).map(|status| status.restart_count).sum()
}

/// Whether the pod runs and all its containers are ready.
pub fn is_ready(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.is_some_and(|all| !all.is_empty() && all.iter().all(|container| container.ready))
}

/// This control plane with the acceptance values, as `up` brings it.
pub fn ours() -> Up {
    Up {
        mode: None,
        control_plane: ControlPlane::Ours,
        binaries: None,
        chart: None,
        values: Vec::new(),
        no_chart: false,
    }
}

/// Brings the cluster's control plane to another one, and waits until it is ready.
pub async fn change_control_plane(to: Up) -> Result<()> {
    tokio::task::spawn_blocking(move || up::up(&to)).await?.map(drop)
}

/// Waits until every workload of the control plane is rolled out.
pub fn control_plane_is_rolled_out(cluster: &Cluster) -> Result<()> {
    let names = ["get", "deploy,statefulset", "-n", services::NAMESPACE, "-o", "name"];
    for workload in cluster.kubectl(&names)?.lines() {
        cluster.kubectl(&["rollout", "status", "--timeout=240s", "-n", services::NAMESPACE, workload])?;
    }
    Ok(())
}
