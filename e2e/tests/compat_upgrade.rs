//! To upstream's chart and back while applications work: what a user does who moves to this control
//! plane, and who moves away again. Long, so `make test-compat` runs it: it builds upstream first.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::args::Up;
use e2e::cache::Cache;
use e2e::compat::{self, bundle::Bundle};
use e2e::components::ControlPlane;
use e2e::modules::package_folder;
use e2e::progress::say;
use e2e::quickstart::access::Access;
use e2e::quickstart::load::{Excuse, Load};
use e2e::quickstart::manifests::{APPLICATIONS, NAMESPACE};
use e2e::quickstart::{services, try_blocks, try_sidecar};
use e2e::upstream::{Part, V1_18};
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tokio::time::{Instant, sleep};

const RATE: u32 = 20;
/// The replicas of the two placements do not speak with each other, so actors wait until a majority
/// is of one kind, and for sidecars to find it.
const ACTORS_RECOVER: Duration = Duration::minutes(1);
/// How long the last calls are watched after a change is complete.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(30);

/// The user's values as upstream's chart takes them: not under a parent chart, with the tag that
/// its releases carry.
fn values_for_upstream() -> Result<tempfile::NamedTempFile> {
    let text = std::fs::read_to_string(package_folder().join("acceptance/values.yaml"))?;
    let mut values: Value = serde_yaml::from_str(&text)?;
    let mut own = values.get_mut("dapr").map(Value::take).context("the acceptance values have no key dapr")?;
    own["global"]["tag"] = json!(V1_18.version);
    own["global"]["registry"] = json!("ghcr.io/dapr");
    // Upstream ignores `dapr_sentry.trustDomain`; its own key has the same meaning here. Another trust
    // domain would be a change of its own, which no sidecar survives.
    own["global"]["mtls"]["controlPlaneTrustDomain"] = own["dapr_sentry"]["trustDomain"].clone();
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(file.path(), serde_yaml::to_string(&own)?)?;
    Ok(file)
}

fn upstreams(chart: PathBuf, values: PathBuf) -> Up {
    Up { control_plane: ControlPlane::Upstream, chart: Some(chart), values: vec![values], ..compat::ours() }
}

/// What docs/operator.md tells a user to do before: upstream's operator does not know the short form.
async fn rewrite_short_subscriptions(access: &Access) -> Result<()> {
    let kind = GroupVersionKind::gvk("dapr.io", "v2alpha1", "Subscription");
    let api = Api::<DynamicObject>::namespaced_with(access.client(), NAMESPACE, &ApiResource::from_gvk(&kind));
    for mut object in api.list(&ListParams::default()).await? {
        let spec = object.data["spec"].as_object_mut().context("a Subscription has no spec")?;
        if let Some(route) = spec.remove("route") {
            spec.insert("routes".into(), json!({ "default": route }));
        }
        if let Some(scopes) = spec.remove("scopes") {
            object.data["scopes"] = scopes;
        }
        api.replace(&object.name_any(), &PostParams::default(), &object).await?;
    }
    Ok(())
}

async fn restarts_of_sidecars(access: &Access) -> Result<i32> {
    let mut restarts = 0;
    for (app, _) in APPLICATIONS {
        restarts += access.pods(NAMESPACE, app).await?.iter().map(compat::restarts).sum::<i32>();
    }
    Ok(restarts)
}

/// Changes the control plane under load: only actor calls may fail, and only until placement is whole.
async fn changes_under_load(access: &Access, to: Up) -> Result<()> {
    let load = Load::of(access.clone()).await?;
    let (bundle, restarts) = (Bundle::read(access).await?, restarts_of_sidecars(access).await?);
    load.keeper("start").await?;
    load.start_well(RATE).await?;
    let (began, clock) = (OffsetDateTime::now_utc(), Instant::now());
    compat::change_control_plane(to).await?;
    let excuse: Excuse = began..=OffsetDateTime::now_utc() + ACTORS_RECOVER;
    say("changed; watching what follows");
    sleep(ACTORS_RECOVER.unsigned_abs() + SETTLED).await;
    load.tell().await?;
    let expected = u64::from(RATE) * clock.elapsed().as_secs() * 8 / 10;
    load.stop().await?;
    for (kind, tally) in load.tallies().await? {
        let actor = kind == "actor";
        let excuses = if actor { std::slice::from_ref(&excuse) } else { &[] };
        tally.judge(&kind, if actor { 1 } else { expected }, excuses)?;
    }
    ensure!(Bundle::read(access).await?.ca() == bundle.ca(), "the CA changed");
    ensure!(restarts_of_sidecars(access).await? == restarts, "sidecars were restarted");
    load.keeper("stop").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds upstream's control plane and changes to it and back: run `make test-compat`"]
async fn applications_work_on_while_the_chart_is_changed_to_upstreams_and_back() -> Result<()> {
    let access = Access::running().await?;
    let chart = V1_18.build(&Cache::of_user()?, Part::ControlPlane)?.join("chart");
    let values = values_for_upstream()?;
    rewrite_short_subscriptions(&access).await?;
    say("from ours to upstream's");
    changes_under_load(&access, upstreams(chart, values.path().to_owned())).await?;
    ensure!(try_blocks(&access).await?, "a building block failed under upstream's control plane");
    say("from upstream's to ours");
    changes_under_load(&access, compat::ours()).await?;
    ensure!(try_sidecar(&access, None).await?, "a building block failed after the upgrade from upstream");
    for service in services::look(&access).await? {
        ensure!(service.ready, "{} is not ready", service.pod);
    }
    Ok(())
}
