//! A new root while applications with every supported sidecar call each other: nobody is restarted
//! for it and no call fails. Long, so `make test-compat` runs it: that builds the older sidecars and
//! upstream's sentry first.
//!
//! The applications come in generations. Those of `old` hold only the old anchor; the others come
//! up in each phase. Every one makes calls of all kinds, and calls every other one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::cache::Cache;
use e2e::compat::bundle::{self, Bundle};
use e2e::compat::ring::{self, Member, RELEASES, bring, call_each_other, generation};
use e2e::compat::{container_statuses, control_plane_is_rolled_out, restarts, wait_for};
use e2e::images::Image;
use e2e::progress::say;
use e2e::quickstart::access::Access;
use e2e::quickstart::load::{Load, Tally};
use e2e::quickstart::manifests::{NAMESPACE, bring_applications, is_ready_with_sidecar, probe_pod, wait_until_ready};
use e2e::quickstart::services::{self, SERVICES};
use e2e::upstream::{Part, V1_18};
use e2e::{Cluster, quickstart::metrics::Scrape};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until};

/// A minute for what the test does while the new root is only announced.
const SETTLE: Duration = Duration::from_mins(1);
/// Sidecars and control plane renew after half of it, so several times in each phase.
const TTL: Duration = Duration::from_mins(2);
/// Within this time everybody has renewed once.
const RENEWED: Duration = Duration::from_secs(80);
const STEP_LIMIT: Duration = Duration::from_mins(4);
const PODS_LIMIT: Duration = Duration::from_mins(2);
const RATE: u32 = 1;
const UPSTREAMS_SENTRY: &str = "localhost/upstream/sentry:1.18.3";
const FIRED_MORE: u64 = 3;
const SCHEDULER: &str = "dapr-scheduler-server";

/// What all calls of one kind came to.
#[derive(Default)]
struct Sum {
    calls: u64,
    failures: Vec<String>,
    slowest_ns: u64,
}

/// Uid and restarts of each pod of the control plane but sentry's. The scheduler's pods have no uid
/// here: they are restarted on purpose.
type Pods = BTreeMap<String, (String, i32)>;

struct Rotation {
    access: Access,
    cluster: Cluster,
    began: Instant,
    sums: Mutex<BTreeMap<String, Sum>>,
}

impl Rotation {
    async fn start() -> Result<Self> {
        let (access, cluster) = (Access::running().await?, Cluster::current()?);
        let cache = Cache::of_user()?;
        for release in RELEASES {
            cluster.load_image(&release.sidecar_image(&cache)?)?;
        }
        let upstreams = V1_18.build(&cache, Part::ControlPlane)?.join("sentry");
        cluster.load_image(&Image::of_program(UPSTREAMS_SENTRY, "sentry", &upstreams)?)?;
        Ok(Self { access, cluster, began: Instant::now(), sums: Mutex::default() })
    }

    fn tell(&self, text: impl std::fmt::Display) {
        say(format!("[{:>3} s] {text}", self.began.elapsed().as_secs()));
    }

    fn kubectl(&self, line: &str) -> Result<String> {
        self.cluster.kubectl(&line.split(' ').collect::<Vec<_>>())
    }

    /// Sets the lifetimes in sentry's Configuration; sentry reads it at its start.
    fn set_lifetimes(&self, ttl: &str, skew: &str) -> Result<()> {
        let patch = format!(r#"{{"spec":{{"mtls":{{"workloadCertTTL":"{ttl}","allowedClockSkew":"{skew}"}}}}}}"#);
        let target = ["patch", "configuration", "daprsystem", "-n", services::NAMESPACE, "--type=merge", "-p"];
        self.cluster.kubectl(&[&target[..], &[&patch]].concat()).map(drop)
    }

    /// Short lives for all certificates, and none of a longer one left in use.
    async fn prepare(&self) -> Result<()> {
        self.set_lifetimes(&format!("{}s", TTL.as_secs()), "10s")?;
        let settle = format!("DAPRCP_SENTRY_ROOT_ROTATION_SETTLE={}s", SETTLE.as_secs());
        self.kubectl(&format!("set env -n {} deploy/dapr-sentry {settle}", services::NAMESPACE))?;
        self.kubectl(&format!("rollout status --timeout=240s -n {} deploy/dapr-sentry", services::NAMESPACE))?;
        for kind in ["deploy", "statefulset"] {
            self.kubectl(&format!("rollout restart -n {} {kind}", services::NAMESPACE))?;
        }
        control_plane_is_rolled_out(&self.cluster)?;
        bring_applications(&self.access, None).await?;
        self.roll_applications().await
    }

    async fn roll_applications(&self) -> Result<()> {
        let names = "deploy/order-processor deploy/payment-service deploy/order-service";
        self.kubectl(&format!("rollout restart -n {NAMESPACE} {names}"))?;
        for name in names.split(' ') {
            self.kubectl(&format!("rollout status --timeout=240s -n {NAMESPACE} {name}"))?;
        }
        wait_until_ready(&self.access).await
    }

    /// Every member makes calls and calls every member.
    async fn load(&self, members: &[&[Member]]) -> Result<Vec<Load>> {
        let all = members.concat();
        let mut loads = Vec::new();
        for member in &all {
            let peers = all.iter().filter(|peer| peer.app != member.app).map(|peer| peer.app.clone());
            let load = member.load(&self.access).await?;
            load.start_with_peers(RATE, &peers.collect::<Vec<_>>()).await?;
            loads.push(load);
        }
        Ok(loads)
    }

    /// Ends the loads and adds what they came to, once no call is under way any more.
    async fn collect(&self, loads: Vec<Load>) -> Result<()> {
        for load in &loads {
            load.stop().await?;
        }
        for load in loads {
            let mut last = None;
            let tallies = wait_for("the last calls end", PODS_LIMIT, async || {
                let tallies = load.tallies().await?;
                let calls: u64 = tallies.values().map(|tally| tally.calls).sum();
                Ok((last.replace(calls) == Some(calls)).then_some(tallies))
            })
            .await?;
            self.add(tallies);
        }
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let calls: u64 = sums.values().map(|sum| sum.calls).sum();
        let failed: Vec<_> = sums.values().flat_map(|sum| &sum.failures).collect();
        self.tell(format!("{calls} calls so far, {} failed {:?}", failed.len(), failed.last()));
        Ok(())
    }

    fn add(&self, tallies: BTreeMap<String, Tally>) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, tally) in tallies {
            let kind = if kind.starts_with("peer ") { "invoke in the ring".to_owned() } else { kind };
            let sum = sums.entry(kind).or_default();
            sum.calls += tally.calls;
            sum.slowest_ns = sum.slowest_ns.max(tally.slowest_ns);
            sum.failures.extend(tally.failures.into_iter().map(|failure| format!("{}: {}", failure.at, failure.error)));
        }
    }

    /// No call failed, and there were calls of every kind.
    fn judge(&self) -> Result<()> {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, sum) in sums.iter() {
            let slowest = sum.slowest_ns / 1_000_000;
            say(format!("{kind}: {} calls, {} failed, slowest {slowest} ms", sum.calls, sum.failures.len()));
        }
        for kind in ["state", "publish", "invoke", "actor", "invoke in the ring"] {
            let sum = sums.get(kind).with_context(|| format!("no call of kind {kind} was made"))?;
            ensure!(sum.calls > 500, "only {} calls of kind {kind} were made", sum.calls);
            ensure!(sum.failures.is_empty(), "{} {kind} calls failed: {:#?}", sum.failures.len(), sum.failures);
        }
        Ok(())
    }

    /// Deletes one pod of sentry after the other; the next when the former is replaced.
    async fn delete_sentries(&self) -> Result<()> {
        let app = "dapr-sentry";
        let pods = Api::<Pod>::namespaced(self.access.client(), services::NAMESPACE);
        let names = self.access.pod_names(services::NAMESPACE, app).await?;
        for name in &names {
            pods.delete(name, &DeleteParams::default()).await?;
            wait_for(&format!("{name} is replaced"), PODS_LIMIT, async || {
                let now = self.access.pods(services::NAMESPACE, app).await?;
                let ready = now.iter().filter(|pod| container_statuses(pod).all(|c| c.ready)).count();
                let gone = now.iter().all(|pod| pod.metadata.name.as_ref() != Some(name));
                Ok((gone && ready == names.len()).then_some(()))
            })
            .await?;
        }
        self.tell(format!("deleted sentry's {} pods, one after the other", names.len()));
        Ok(())
    }

    /// Waits until the bundle is as wanted.
    async fn bundle(&self, what: &str, wanted: impl Fn(&Bundle) -> bool) -> Result<Bundle> {
        let found = wait_for(what, STEP_LIMIT, async || Ok(Some(Bundle::read(&self.access).await?).filter(&wanted)));
        let found = found.await?;
        self.tell(what);
        Ok(found)
    }

    /// A pod that is created now gets these anchors.
    async fn injected(&self, anchors: &[String]) -> Result<()> {
        let pods = Api::<Pod>::namespaced(self.access.client(), NAMESPACE);
        let probe: Pod = serde_json::from_value(probe_pod("anchors-probe"))?;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        wait_for("the injector hands out the anchors of the Secret", PODS_LIMIT, async || {
            let pod = pods.create(&dry, &probe).await?;
            Ok((bundle::anchors_of(&pod).as_deref() == Some(anchors)).then_some(()))
        })
        .await?;
        self.tell(format!("the injector hands out {} anchors", anchors.len()));
        Ok(())
    }

    /// Sentry's replicas and this test count the same pods that hold only the old anchor.
    async fn counted(&self, new_root: &str) -> Result<usize> {
        let found = wait_for("sentry counts the pods that hold only the old anchor", PODS_LIMIT, async || {
            let (here, there) =
                (bundle::pods_without(&self.access, new_root).await?, bundle::pods_counted(&self.access).await?);
            ensure!(here == there, "there are {here}, sentry counts {there}");
            Ok(Some(here))
        });
        let found = found.await?;
        self.tell(format!("{found} pods hold only the old anchor, as sentry counts"));
        Ok(found)
    }

    /// Runs upstream's sentry, or ours again.
    fn use_sentry(&self, image: &str) -> Result<()> {
        self.kubectl(&format!("set image -n {} deploy/dapr-sentry dapr-sentry={image}", services::NAMESPACE))?;
        self.kubectl(&format!("rollout status --timeout=240s -n {} deploy/dapr-sentry", services::NAMESPACE))?;
        self.tell(format!("sentry is {image}"));
        Ok(())
    }

    fn image_of_sentry(&self) -> Result<String> {
        let path = "jsonpath={.spec.template.spec.containers[0].image}";
        self.kubectl(&format!("get deploy dapr-sentry -n {} -o {path}", services::NAMESPACE))
    }

    /// The reminder of the keeper, which the scheduler fires, goes on.
    async fn reminders_fire(&self) -> Result<()> {
        let load = Load::of(self.access.clone()).await?;
        let fired = |state: &Value| state["reminders"].as_u64().unwrap_or(0);
        let before = fired(&load.keeper("status").await?);
        let now = wait_for("the reminder fires", Duration::from_secs(40), async || {
            Ok(Some(fired(&load.keeper("status").await?)).filter(|now| *now >= before + FIRED_MORE))
        })
        .await?;
        self.tell(format!("the reminder fired {before} times, then {now}"));
        Ok(())
    }

    async fn control_plane(&self) -> Result<Pods> {
        let mut all = Pods::new();
        for (_, app, _) in SERVICES.into_iter().filter(|(_, app, _)| *app != "dapr-sentry") {
            for pod in self.access.pods(services::NAMESPACE, app).await? {
                let replaced = app == SCHEDULER;
                let uid = pod.metadata.uid.clone().filter(|_| !replaced).unwrap_or_default();
                all.insert(pod.metadata.name.clone().unwrap_or_default(), (uid, restarts(&pod)));
            }
        }
        Ok(all)
    }

    async fn certificates_signed(&self) -> Result<f64> {
        let sentry: Scrape = services::scrape(&self.access, "dapr-sentry").await?;
        Ok(sentry.sum("dapr_sentry_cert_sign_success_total").unwrap_or(0.0))
    }

    /// Upstream's sentry takes over what is stored and signs for sidecars that must start anew.
    async fn roll_back_and_forth(&self, old: &[Member], others: &[Member]) -> Result<()> {
        let ours = self.image_of_sentry()?;
        self.use_sentry(UPSTREAMS_SENTRY)?;
        for member in old {
            member.restart_sidecar(&self.access).await?;
        }
        let signed = self.certificates_signed().await?;
        ensure!(signed >= 3.0, "upstream's sentry signed {signed} certificates");
        let all = [old, others].concat();
        let calls = call_each_other(&self.access, &all, &all).await?;
        self.tell(format!("upstream's sentry signed {signed} certificates; {calls} calls after it, none failed"));
        self.use_sentry(&ours)
    }

    /// Puts everything back, whatever happened.
    async fn restore(&self, image: &str) -> Result<()> {
        for name in ["old", "announce", "sign", "done"] {
            ring::remove(&self.access, &generation(name)).await?;
        }
        self.set_lifetimes("24h", "15m")?;
        if self.image_of_sentry()? != image {
            self.use_sentry(image)?;
        }
        let unset =
            format!("set env -n {} deploy/dapr-sentry DAPRCP_SENTRY_ROOT_ROTATION_SETTLE-", services::NAMESPACE);
        self.kubectl(&unset)?;
        control_plane_is_rolled_out(&self.cluster)?;
        self.roll_applications().await
    }

    /// Both anchors are published; the old issuer signs.
    async fn announce(&self, old: &[Member]) -> Result<(Bundle, Vec<Member>, Vec<Load>)> {
        let before = Bundle::read(&self.access).await?;
        let loads = self.load(&[old]).await?;
        bundle::command(&self.access, "start").await?;
        let bundle = self.bundle("a new root is announced", |b| b.phase() == Some("announce")).await?;
        ensure!(bundle.anchors.len() == 2 && bundle.anchors[1..] == before.anchors[..], "the old anchor is gone");
        ensure!(bundle.chain == before.chain, "the issuer changed with the announcement");
        self.injected(&bundle.anchors).await?;
        self.delete_sentries().await?;
        let newcomers = generation("announce");
        bring(&self.access, &newcomers).await?;
        ensure!(Bundle::read(&self.access).await?.phase() == Some("announce"), "the phase was too short for the test");
        let all = [old, &newcomers].concat();
        let calls = call_each_other(&self.access, &all, &all).await?;
        self.tell(format!("announce: newcomers of every version are up; {calls} calls between all, none failed"));
        self.reminders_fire().await?;
        Ok((bundle, newcomers, loads))
    }

    /// The new issuer signs; those that hold only the old anchor stay.
    async fn sign(&self, old: &[Member], announced: &[Member], bundle: &Bundle) -> Result<Vec<Member>> {
        let since = Instant::now();
        let loads = self.load(&[old, announced]).await?;
        ensure!(bundle.chain.len() == 3, "the chain has {} certificates, not 3", bundle.chain.len());
        let newcomers = generation("sign");
        bring(&self.access, &newcomers).await?;
        self.delete_sentries().await?;
        let others = [announced, &newcomers].concat();
        let all = [old, &others].concat();
        let calls = call_each_other(&self.access, &all, &all).await?;
        self.tell(format!("sign: newcomers of every version are up; {calls} calls between all, none failed"));
        sleep_until(since + RENEWED).await;
        self.collect(loads).await?;
        // Those that start again do so alone: what is called while it starts cannot answer.
        let loads = self.load(&[&others]).await?;
        self.roll_back_and_forth(old, &others).await?;
        self.collect(loads).await?;
        let loads = self.load(&[old, &others]).await?;
        let holders = self.counted(&bundle.anchors[0]).await?;
        ensure!(holders >= old.len(), "{holders} pods hold only the old anchor");
        self.reminders_fire().await?;
        self.stays_until_nobody_needs_it(bundle).await?;
        self.delete_sentries().await?;
        self.collect(loads).await?;
        Ok(newcomers)
    }

    /// The time of the old leaves is over, yet the old root stays for the pods that need it.
    async fn stays_until_nobody_needs_it(&self, bundle: &Bundle) -> Result<()> {
        // Sentry looks at least every 12 s.
        let over = bundle.leaves_until()? + 25;
        while OffsetDateTime::now_utc().unix_timestamp() < over {
            sleep(Duration::from_secs(1)).await;
        }
        let now = Bundle::read(&self.access).await?;
        ensure!(now.phase() == Some("sign") && now.anchors.len() == 2, "the old root went while pods needed it");
        self.tell("the old leaves' time is over; the old root stays, because pods hold only it");
        Ok(())
    }

    /// As documented: the store within upstream's scheduler reads its anchors once, at its start.
    fn restart_schedulers(&self) -> Result<()> {
        for verb in ["restart", "status --timeout=240s"] {
            self.kubectl(&format!("rollout {verb} -n {} statefulset/{SCHEDULER}", services::NAMESPACE))?;
        }
        self.tell("the scheduler's pods were restarted, one after the other");
        Ok(())
    }

    /// The last pods that hold only the old anchor go while the others work.
    async fn retire(&self, old: &[Member], others: &[Member], new_root: &str) -> Result<()> {
        self.roll_applications().await?;
        let loads = self.load(&[others]).await?;
        self.restart_schedulers()?;
        // Pods that were replaced may still be ending.
        wait_for("nobody but the old members holds only the old anchor", PODS_LIMIT, async || {
            Ok((self.counted(new_root).await? == old.len()).then_some(()))
        })
        .await?;
        ring::remove(&self.access, old).await?;
        let bundle = self.bundle("the old root is retired", |b| b.rotation.is_none()).await?;
        ensure!(bundle.anchors == [new_root.to_owned()], "the Secret holds {} anchors", bundle.anchors.len());
        ensure!(bundle.chain.len() == 1, "the chain still leads to the old anchor");
        for left in ["next-issuer.crt", "next-issuer.key"] {
            ensure!(!bundle.data.contains_key(left), "{left} is left in the Secret");
        }
        wait_for("the ConfigMap follows", PODS_LIMIT, async || {
            Ok((bundle::published(&self.access).await? == bundle.anchors).then_some(()))
        })
        .await?;
        self.injected(&bundle.anchors).await?;
        let newcomers = generation("done");
        bring(&self.access, &newcomers).await?;
        self.collect(loads).await?;
        let loads = self.load(&[others, &newcomers]).await?;
        let all = [others, &newcomers].concat();
        let calls = call_each_other(&self.access, &all, &all).await?;
        self.tell(format!("done: newcomers of every version are up; {calls} calls between all, none failed"));
        sleep_until(Instant::now() + RENEWED).await;
        self.reminders_fire().await?;
        self.collect(loads).await?;
        for member in &all {
            let count = member.restarts(&self.access).await?;
            ensure!(count == 0, "{} was restarted {count} times", member.app);
        }
        Ok(())
    }

    async fn run(&self) -> Result<()> {
        self.prepare().await?;
        let old = generation("old");
        bring(&self.access, &old).await?;
        let before = self.control_plane().await?;
        ensure!(before.values().all(|(_, restarts)| *restarts == 0), "something was restarted before: {before:?}");
        Load::of(self.access.clone()).await?.keeper("start").await?;
        let (announcement, announced, loads) = self.announce(&old).await?;
        let new_root = &announcement.anchors[0];
        let bundle = self.bundle("the new issuer signs", |b| b.phase() == Some("sign")).await?;
        self.collect(loads).await?;
        let mut others = announced.clone();
        others.extend(self.sign(&old, &announced, &bundle).await?);
        for member in &old {
            let count = member.restarts(&self.access).await?;
            // Each was restarted once, on purpose.
            ensure!(count == 1, "{} was restarted {count} times", member.app);
        }
        self.retire(&old, &others, new_root).await?;
        Load::of(self.access.clone()).await?.keeper("stop").await?;
        let after = self.control_plane().await?;
        ensure!(before == after, "the control plane was restarted: {before:?} became {after:?}");
        for pod in self.access.pods(NAMESPACE, "order-processor").await? {
            ensure!(is_ready_with_sidecar(&pod) && restarts(&pod) == 0, "a pod of order-processor was restarted");
        }
        self.judge()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs daprd 1.17 and 1.16 and upstream's sentry, minutes to build: run `make test-compat`"]
async fn no_call_fails_and_nobody_is_restarted_while_the_root_is_changed() -> Result<()> {
    let rotation = Rotation::start().await?;
    let image = rotation.image_of_sentry()?;
    let result = rotation.run().await;
    if let Err(error) = &result {
        rotation.tell(format!("failed: {error:#}"));
    }
    let restored = rotation.restore(&image).await;
    result.and(restored)
}
