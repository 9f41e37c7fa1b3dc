//! Placement with three replicas, then five, then three again, by nothing but Helm and while applications
//! work. Long, so `make test-compat` runs it.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::args::Up;
use e2e::compat::{self, wait_for};
use e2e::modules::package_folder;
use e2e::progress::say;
use e2e::quickstart::access::{Access, Port};
use e2e::quickstart::load::Load;
use e2e::quickstart::services::NAMESPACE;
use serde_json::json;
use tokio::time::{Instant, sleep};

const PLACEMENT: &str = "dapr-placement-server";
const HEALTH_PORT: u16 = 8080;
const RATE: u32 = 20;
/// New members catch up and get their votes one after the other.
const VOTE_LIMIT: Duration = Duration::from_mins(1);
/// How long the last calls are watched after a change is complete.
const SETTLED: Duration = Duration::from_secs(30);

/// Brings placement to so many replicas, and waits until just these have votes and a leader.
async fn scale(access: &Access, replicas: usize) -> Result<()> {
    let values = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    let own = json!({ "dapr": { "dapr_placement": { "replicas": replicas } } });
    std::fs::write(values.path(), serde_yaml::to_string(&own)?)?;
    let both = vec![package_folder().join("acceptance/values.yaml"), values.path().to_owned()];
    compat::change_control_plane(Up { values: both, ..compat::ours() }).await?;
    wait_for(&format!("{replicas} replicas with votes"), VOTE_LIMIT, async || {
        let pods = access.pod_names(NAMESPACE, PLACEMENT).await?;
        ensure!(pods.len() == replicas, "there are {} pods", pods.len());
        for pod in &pods {
            let port = Port { namespace: NAMESPACE, pod, number: HEALTH_PORT };
            let ready = access.ask_json(port, "GET", "/readyz", None).await?;
            ensure!(ready["voters"] == replicas, "{pod}: {ready}");
        }
        Ok(Some(()))
    })
    .await?;
    say(format!("placement has {replicas} replicas with votes"));
    sleep(SETTLED).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "rolls placement out twice under load: run `make test-compat`"]
async fn placement_grows_from_three_replicas_to_five_and_shrinks_again_under_load_and_no_call_fails() -> Result<()> {
    let access = Access::running().await?;
    let load = Load::of(access.clone()).await?;
    load.keeper("start").await?;
    load.start_well(RATE).await?;
    let began = Instant::now();
    for replicas in [5, 3] {
        scale(&access, replicas).await?;
        load.tell().await?;
    }
    let expected = u64::from(RATE) * began.elapsed().as_secs() * 8 / 10;
    load.stop().await?;
    load.keeper("stop").await?;
    for (kind, tally) in load.tallies().await? {
        tally.judge(&kind, expected, &[])?;
    }
    Ok(())
}
