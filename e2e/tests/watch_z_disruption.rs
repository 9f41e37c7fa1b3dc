//! Each control-plane pod is deleted in turn while applications work. One test, because nothing else
//! may disturb the cluster meanwhile; its file sorts last.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::compat::{bundle::Bundle, is_ready};
use e2e::progress::say;
use e2e::quickstart::access::{Access, Port};
use e2e::quickstart::load::Load;
use e2e::quickstart::manifests::{APPLICATIONS, NAMESPACE};
use e2e::quickstart::services;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until};

const PUBLIC_PORT: u16 = 3501;
const RATE: u32 = 20;
/// The 60 s around a deletion: half before, half after, so that neighbours share a half.
const HALF_WINDOW: Duration = Duration::from_secs(30);
/// How long a replaced pod may take to be ready.
const REPLACE_LIMIT: Duration = Duration::from_secs(90);
const RECONNECT_LIMIT: Duration = Duration::from_mins(1);
const ACTORS_MAY_FAIL: time::Duration = time::Duration::seconds(10);
const POLL: Duration = Duration::from_millis(500);

struct Disruption {
    access: Access,
    load: Load,
}

/// One deletion: which service, when, and whether actor calls may suffer.
struct Deletion {
    pod: String,
    at: OffsetDateTime,
    of_placement: bool,
}

impl Disruption {
    /// Deletes a pod and waits until its service is whole again and the window is over.
    async fn delete(&self, app: &str, pod: &str) -> Result<Deletion> {
        let wanted = self.access.pods(services::NAMESPACE, app).await?.len();
        let uid = self.uid_of(pod).await?;
        let (window, limit) = (Instant::now() + HALF_WINDOW, Instant::now() + REPLACE_LIMIT);
        let at = OffsetDateTime::now_utc();
        say(format!("deleting {pod}"));
        let pods = Api::<Pod>::namespaced(self.access.client(), services::NAMESPACE);
        pods.delete(pod, &DeleteParams::default()).await?;
        loop {
            let now = self.access.pods(services::NAMESPACE, app).await?;
            let replaced = now.iter().all(|pod| pod.metadata.uid != uid);
            let ready = now.iter().filter(|pod| is_ready(pod)).count();
            if replaced && ready == wanted {
                break;
            }
            ensure!(
                Instant::now() < limit,
                "{app}: {ready} of {wanted} pods ready {REPLACE_LIMIT:?} after {pod} was deleted"
            );
            sleep(POLL).await;
        }
        sleep_until(window).await;
        Ok(Deletion { pod: pod.to_owned(), at, of_placement: app == "dapr-placement-server" })
    }

    async fn uid_of(&self, pod: &str) -> Result<Option<String>> {
        let pods = Api::<Pod>::namespaced(self.access.client(), services::NAMESPACE);
        Ok(pods.get(pod).await?.metadata.uid)
    }

    /// How many update streams of sidecars the operator's replicas have together.
    async fn operator_streams(&self) -> Result<f64> {
        let metrics = services::scrape(&self.access, "dapr-operator").await?;
        Ok(metrics.sum("dapr_operator_streams").unwrap_or(0.0))
    }

    /// The operator has as many update streams as before.
    async fn operator_has_its_streams(&self, before: f64) -> Result<()> {
        let deadline = Instant::now() + RECONNECT_LIMIT;
        loop {
            let now = self.operator_streams().await?;
            if now >= before {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the operator has {now} streams of sidecars, {before} before");
            sleep(POLL).await;
        }
    }

    /// Every sidecar has its placement stream again.
    async fn sidecars_are_connected(&self) -> Result<()> {
        for (app, _) in APPLICATIONS.into_iter().filter(|(app, _)| *app != "order-service") {
            for pod in self.access.pod_names(NAMESPACE, app).await? {
                let port = Port { namespace: NAMESPACE, pod: &pod, number: PUBLIC_PORT };
                let metadata = self.access.ask_json(port, "GET", "/v1.0/metadata", None).await?;
                let placement = metadata.pointer("/actorRuntime/placement").and_then(Value::as_str).unwrap_or_default();
                ensure!(placement.contains("placement: connected"), "the sidecar of {pod} reports: {placement}");
            }
        }
        Ok(())
    }
}

fn told(deletions: &[Deletion]) -> String {
    let each: Vec<_> = deletions.iter().map(|deletion| format!("{} at {}", deletion.pod, deletion.at)).collect();
    format!("deleted were {}", each.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_each_control_plane_pod_is_deleted_in_turn() -> Result<()> {
    let access = Access::running().await?;
    let cluster = Disruption { load: Load::of(access.clone()).await?, access };
    let bundle = Bundle::read(&cluster.access).await?;
    let streams = cluster.operator_streams().await?;
    ensure!(streams > 0.0, "the operator has no update stream of any sidecar");
    cluster.load.keeper("start").await?;
    cluster.load.start_well(RATE).await?;
    sleep_until(Instant::now() + HALF_WINDOW).await;

    let mut deletions = Vec::new();
    for (_, app, _) in services::SERVICES {
        for pod in cluster.access.pod_names(services::NAMESPACE, app).await? {
            deletions.push(cluster.delete(app, &pod).await?);
            cluster.load.tell().await?;
        }
    }
    cluster.load.stop().await?;
    let tallies = cluster.load.tallies().await?;
    let expected = u64::from(RATE) * HALF_WINDOW.as_secs() * deletions.len() as u64 * 9 / 10;
    for (kind, tally) in &tallies {
        say(format!(
            "{kind}: {} calls, {} failed, slowest {} ms",
            tally.calls,
            tally.failed,
            tally.slowest_ns / 1_000_000
        ));
        let excused = |d: &&Deletion| kind == "actor" && d.of_placement;
        let excuses: Vec<_> = deletions.iter().filter(excused).map(|d| d.at..=d.at + ACTORS_MAY_FAIL).collect();
        tally.judge(kind, expected, &excuses).with_context(|| told(&deletions))?;
    }

    assert_eq!(Bundle::read(&cluster.access).await?.ca(), bundle.ca(), "the CA changed");
    cluster.sidecars_are_connected().await?;
    cluster.operator_has_its_streams(streams).await?;
    reminders_still_fire(&cluster).await
}

/// The keeper's reminder was registered before everything was restarted.
async fn reminders_still_fire(cluster: &Disruption) -> Result<()> {
    let fired = |state: &Value| state["reminders"].as_u64().unwrap_or(0);
    let before = fired(&cluster.load.keeper("status").await?);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let now = fired(&cluster.load.keeper("status").await?);
        if now >= before + 3 {
            break;
        }
        ensure!(Instant::now() < deadline, "the reminder fired {before} times before and {now} times now");
        sleep(POLL).await;
    }
    cluster.load.keeper("stop").await.map(drop)
}
