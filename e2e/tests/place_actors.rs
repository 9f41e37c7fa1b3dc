//! Actors over two hosts, and what happens to them when one host goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::quickstart::access::{Access, Port};
use e2e::quickstart::manifests::{NAMESPACE, wait_until_ready};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams};
use tokio::time::Instant;

const APP_PORT: u16 = 8080;
/// Sidecars drain up to 5 s, and the host's stream must end before its actors move.
const MOVE_LIMIT: Duration = Duration::from_secs(30);

async fn touch(access: &Access, pod: &str, actor: &str) -> Result<(u64, String)> {
    let port = Port { namespace: NAMESPACE, pod, number: APP_PORT };
    let state = access.ask_json(port, "POST", &format!("/actor/{actor}/touch"), None).await?;
    let host = state["host"].as_str().context("the actor names no host")?;
    Ok((state["calls"].as_u64().context("the actor counts no calls")?, host.to_owned()))
}

#[tokio::test]
async fn actors_of_a_deleted_host_answer_elsewhere_with_their_state() -> Result<()> {
    let access = Access::running().await?;
    let pods = access.pod_names(NAMESPACE, "order-processor").await?;
    ensure!(pods.len() == 2, "order-processor has {} pods", pods.len());
    let run: u32 = rand::random();
    let actors: Vec<String> = (0..20).map(|n| format!("move-{run}-{n}")).collect();
    let mut hosts = BTreeMap::new();
    for actor in &actors {
        let (calls, host) = touch(&access, &pods[0], actor).await?;
        assert_eq!(calls, 1, "{actor}");
        hosts.insert(actor.clone(), host);
    }
    let used: BTreeSet<_> = hosts.values().collect();
    assert_eq!(used, pods.iter().collect(), "20 actors should use both hosts");

    Api::<Pod>::namespaced(access.client(), NAMESPACE).delete(&pods[1], &DeleteParams::default()).await?;
    for actor in &actors {
        let deadline = Instant::now() + MOVE_LIMIT;
        loop {
            match touch(&access, &pods[0], actor).await {
                // A call may have been counted though its answer was lost with the host.
                Ok((calls, host)) if host != pods[1] => {
                    ensure!(calls >= 2, "{actor} lost its state: {calls} calls counted on {host}");
                    break;
                }
                Ok(_) => {}
                Err(error) => ensure!(Instant::now() < deadline, "{actor} is not found: {error:#}"),
            }
            ensure!(Instant::now() < deadline, "{actor} still lives on the deleted host");
        }
    }
    wait_until_ready(&access).await
}
