//! The API server is away for 10 s while 50 unmodified sidecars start: none of them exits.
//!
//! The sidecars' containers are started beforehand and wait at a gate (a file on the node), because
//! a container runtime would need longer for 50 of them than the API server is away. Then the API
//! server's process is stopped, the gate is opened, and all 50 ask sentry at once.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::Cluster;
use e2e::cache::Cache;
use e2e::compat::{container_statuses, restarts, wait_for};
use e2e::http;
use e2e::images::Image;
use e2e::mode::Mode;
use e2e::processes::{Identity, Processes};
use e2e::progress::say;
use e2e::quickstart::access::Access;
use e2e::quickstart::manifests::{apply, is_ready_with_sidecar};
use e2e::quickstart::metrics::Scrape;
use e2e::quickstart::services;
use e2e::upstream::{Part, V1_18};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

const NAMESPACE: &str = "outage";
const APP: &str = "waiting";
const SIDECARS: usize = 50;
const OUTAGE: Duration = Duration::from_secs(10);
const START_LIMIT: Duration = Duration::from_mins(8);
const IMAGE: &str = "localhost/compat/gated-daprd:1.18.3";
const METRICS_PORT: u16 = 9090;
/// The unmodified program behind the gate.
const GATE: &str = "#!/sh\nwhile [ ! -e /gate/open ]; do /sleep 0.5; done\nexec /daprd.real \"$@\"\n";

/// A stopped process, which goes on when this is dropped.
struct Stopped(Identity);

impl Stopped {
    fn stop(process: Identity) -> Self {
        process.signal(Signal::STOP);
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

/// What all replicas of sentry count, asked without the API server.
#[derive(Debug, Clone, Copy)]
struct Counted {
    asked: f64,
    signed: f64,
    troubled: f64,
}

struct Outage {
    access: Access,
    cluster: Cluster,
    gate: PathBuf,
}

impl Outage {
    async fn prepare() -> Result<Self> {
        let (access, cluster) = (Access::running().await?, Cluster::current()?);
        ensure!(cluster.mode() == Mode::Node, "this test stops the API server's process: it needs a node of our own");
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("daprd");
        std::fs::write(&script, GATE)?;
        let daprd = V1_18.build(&Cache::of_user()?, Part::Daprd)?.join("daprd");
        let mut image = Image::of_program(IMAGE, "sh", std::path::Path::new("/bin/sh"))?;
        image = image.file("/sleep", "/bin/sleep").file("/daprd", &script).file("/daprd.real", daprd);
        image.entrypoint = "/daprd".into();
        cluster.load_image(&image)?;
        let gate = cluster.state().folder("gate")?;
        std::fs::set_permissions(&gate, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { access, cluster, gate })
    }

    fn deployment(&self) -> Value {
        let labels = json!({ "app": APP });
        let annotations = json!({
            "dapr.io/enabled": "true", "dapr.io/app-id": APP, "dapr.io/sidecar-image": IMAGE,
            "dapr.io/volume-mounts": "gate:/gate",
            "dapr.io/sidecar-cpu-request": "1m", "dapr.io/sidecar-memory-request": "16Mi",
            // Nobody answers before the gate is open.
            "dapr.io/sidecar-liveness-probe-delay-seconds": "900",
        });
        let container = json!({
            "name": "app", "image": "localhost/fuse/order-service:latest", "imagePullPolicy": "IfNotPresent",
            "resources": { "requests": { "cpu": "1m", "memory": "8Mi" } },
        });
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": APP, "namespace": NAMESPACE },
            "spec": {
                "replicas": SIDECARS, "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels, "annotations": annotations },
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "containers": [container],
                        "volumes": [{ "name": "gate", "hostPath": { "path": self.gate, "type": "Directory" } }],
                    },
                },
            },
        })
    }

    /// All sidecars' containers run and wait at the gate.
    async fn gather(&self) -> Result<()> {
        apply(&self.access, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }))
            .await?;
        apply(&self.access, self.deployment()).await?;
        wait_for(&format!("{SIDECARS} sidecars wait at the gate"), START_LIMIT, async || {
            let pods = self.access.pods(NAMESPACE, APP).await?;
            let waiting = pods.iter().filter(|pod| sidecar_runs(pod)).count();
            ensure!(waiting == SIDECARS, "{waiting} of {} run", pods.len());
            Ok(Some(()))
        })
        .await
    }

    async fn addresses_of_sentry(&self) -> Result<Vec<String>> {
        let pods = self.access.pods(services::NAMESPACE, "dapr-sentry").await?;
        let address = |pod: Pod| pod.status?.pod_ip;
        let found: Vec<String> = pods.into_iter().filter_map(address).collect();
        ensure!(!found.is_empty(), "sentry has no pod with an address");
        Ok(found)
    }

    /// Without the API server for ten seconds, in which the gate is opened.
    async fn strike(&self, sentry: &[String]) -> Result<(Counted, Counted)> {
        let api_server = Processes::of(self.cluster.state())?.identity("kube-apiserver");
        let began = Instant::now();
        let stopped = Stopped::stop(api_server.context("the API server has no process")?);
        let before = counted(sentry).await?;
        std::fs::write(self.gate.join("open"), "")?;
        sleep_until(began + OUTAGE).await;
        let after = counted(sentry).await?;
        drop(stopped);
        say(format!("the API server was away for {:.1} s", began.elapsed().as_secs_f64()));
        Ok((before, after))
    }

    async fn all_are_ready(&self) -> Result<Vec<Pod>> {
        wait_for(&format!("{SIDECARS} sidecars are ready"), START_LIMIT, async || {
            let pods = self.access.pods(NAMESPACE, APP).await?;
            let (ready, exits) =
                (pods.iter().filter(|pod| is_ready_with_sidecar(pod)).count(), pods.iter().map(restarts).sum::<i32>());
            ensure!(ready == SIDECARS, "{ready} of {} are ready, {exits} containers ended", pods.len());
            Ok(Some(pods))
        })
        .await
    }

    async fn control_plane_restarts(&self) -> Result<i32> {
        Ok(services::look(&self.access).await?.iter().map(|service| service.restarts).sum())
    }

    async fn run(&self) -> Result<()> {
        self.gather().await?;
        let sentry = self.addresses_of_sentry().await?;
        let restarts_before = self.control_plane_restarts().await?;
        let (before, after) = self.strike(&sentry).await?;
        let began = Instant::now();
        let asked = after.asked - before.asked;
        say(format!("while it was away sentry was asked {asked} times, troubled {}", after.troubled - before.troubled));
        // Otherwise the test shows nothing: every sidecar must have met the outage.
        #[expect(clippy::cast_precision_loss, reason = "50")]
        let sidecars = SIDECARS as f64;
        ensure!(asked >= sidecars, "only {asked} requests came while the API server was away");
        ensure!((after.signed - before.signed).abs() < 0.5, "sentry signed without the API server");
        let pods = self.all_are_ready().await?;
        say(format!("all {SIDECARS} were ready {:.1} s later", began.elapsed().as_secs_f64()));
        let ended: Vec<_> =
            pods.iter().filter(|pod| restarts(pod) > 0).filter_map(|pod| pod.metadata.name.as_ref()).collect();
        ensure!(ended.is_empty(), "sidecars exited: {ended:?}");
        let signed = counted(&sentry).await?.signed - before.signed;
        ensure!(signed >= sidecars, "sentry signed {signed} certificates");
        ensure!(self.control_plane_restarts().await? == restarts_before, "the control plane was restarted");
        Ok(())
    }

    /// Removes the sidecars; sentry starts anew, for its count of failures is another test's.
    async fn clean_up(&self) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.access.client());
        namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
        wait_for("the namespace is gone", START_LIMIT, async || {
            Ok(namespaces.get_opt(NAMESPACE).await?.is_none().then_some(()))
        })
        .await?;
        std::fs::remove_dir_all(&self.gate)?;
        for verb in ["restart", "status"] {
            self.cluster.kubectl(&["rollout", verb, "-n", services::NAMESPACE, "deploy/dapr-sentry"])?;
        }
        Ok(())
    }
}

fn sidecar_runs(pod: &Pod) -> bool {
    container_statuses(pod).any(|c| c.name == "daprd" && c.state.as_ref().is_some_and(|state| state.running.is_some()))
}

async fn counted(sentry: &[String]) -> Result<Counted> {
    let sentry = sentry.to_owned();
    let scrape = move || -> Result<Scrape> {
        let mut all = Scrape::default();
        for address in sentry {
            all = all.with(Scrape::of(&http::get(&address, METRICS_PORT, "/metrics")?.body));
        }
        Ok(all)
    };
    let scrape = tokio::task::spawn_blocking(scrape).await??;
    let sum = |name: &str| scrape.sum(name).unwrap_or(0.0);
    Ok(Counted {
        asked: sum("dapr_sentry_cert_sign_request_received_total"),
        signed: sum("dapr_sentry_cert_sign_success_total"),
        troubled: sum("dapr_sentry_transient_failures_total"),
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "starts 50 sidecars and stops the API server: run `make test-compat`"]
async fn no_sidecar_exits_while_the_api_server_is_away_for_ten_seconds() -> Result<()> {
    let outage = Outage::prepare().await?;
    let result = outage.run().await;
    if let Err(error) = &result {
        say(format!("failed: {error:#}"));
    }
    let cleaned = outage.clean_up().await;
    result.and(cleaned)
}
