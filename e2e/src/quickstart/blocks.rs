//! The user's nine building blocks and four backends, each tried for real by the samples.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::access::{Access, Port};
use super::manifests::{NAMESPACE, wait_until_ready};
use super::table::Row;
use crate::progress::say;

/// The port that the samples serve on.
const APP_PORT: u16 = 8080;
const DELIVERY_LIMIT: Duration = Duration::from_mins(1);
const TICK_LIMIT: Duration = Duration::from_secs(30);
const WORKFLOW_LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(500);

/// The pods that the checks talk to.
pub struct Samples {
    access: Access,
    processors: Vec<String>,
    /// No two runs use the same ids.
    run: u64,
}

impl Samples {
    /// Finds the pods of the samples.
    pub async fn find(access: &Access) -> Result<Self> {
        let processors = access.pod_names(NAMESPACE, "order-processor").await?;
        ensure!(processors.len() >= 2, "order-processor has {} pods, the checks need two", processors.len());
        Ok(Self { access: access.clone(), processors, run: rand::random() })
    }

    /// Tries every building block and backend.
    pub async fn try_all(&self) -> Result<Vec<Row>> {
        say("trying the building blocks; the circuit breaker takes some seconds to open");
        let (state, pubsub, invocation, bindings, actors, secrets, configuration, lock) = tokio::join!(
            told("state management", self.check("/check/state")),
            told("publish/subscribe", self.pubsub()),
            told("service invocation", self.invocation()),
            told("bindings", self.bindings()),
            told("actors", self.check("/check/actors")),
            told("secrets", self.secrets()),
            told("configuration", self.check("/check/configuration")),
            told("distributed lock", self.lock()),
        );
        say("restarting payment-service in the middle of a workflow");
        let workflow = told("workflow", self.workflow()).await;
        let processor = "kubectl -n fuse logs -l app=order-processor -c daprd";
        let mut rows = vec![
            Row::new("state management", state, &format!("Component statestore; {processor}")),
            Row::new(
                "publish/subscribe",
                pubsub,
                &format!("Component pubsub, Subscription order-subscription; {processor}"),
            ),
            Row::new("service invocation", invocation, &format!("Resiliency fuse-resiliency; {processor}")),
            Row::new("bindings", bindings, &format!("Components every-two-seconds, s3-output; {processor}")),
            Row::new("actors", actors, "kubectl -n dapr-system logs -l app=dapr-placement-server"),
            Row::new("secrets", secrets, &format!("Component openbao-secrets, Role samples; {processor}")),
            Row::new("configuration", configuration, &format!("Component settings; {processor}")),
            Row::new("distributed lock", lock, &format!("Component locks; {processor}")),
            Row::new("workflow", workflow, "kubectl -n fuse logs -l app=payment-service -c daprd"),
        ];
        for (name, path, look) in [
            ("Valkey", "/check/backend/valkey", "kubectl -n cache get svc,endpointslices"),
            ("Kafka", "/check/backend/kafka", "kubectl -n messaging get svc,endpointslices"),
            ("OpenBao", "/check/backend/openbao", "kubectl -n security get svc,endpointslices"),
            ("MinIO", "/check/backend/minio", "kubectl -n storage get svc,endpointslices"),
        ] {
            rows.push(Row::new(name, self.check(path).await, look));
        }
        Ok(rows)
    }

    fn first(&self) -> Port<'_> {
        application(&self.processors[0])
    }

    /// A check that one pod can do alone.
    async fn check(&self, path: &str) -> Result<String> {
        let verdict = self.access.verdict(self.first(), path).await?;
        ensure!(verdict.ok, "{}", verdict.seen);
        Ok(verdict.seen)
    }

    async fn invocation(&self) -> Result<String> {
        let (retry, breaker, grpc) = tokio::join!(
            self.check("/check/invocation/retry"),
            self.check("/check/invocation/breaker"),
            self.check("/check/invocation/grpc"),
        );
        Ok(format!("{}; {}; {}", retry?, breaker?, grpc?))
    }

    async fn secrets(&self) -> Result<String> {
        let (openbao, kubernetes) =
            tokio::join!(self.check("/check/secrets/openbao"), self.check("/check/secrets/kubernetes"));
        Ok(format!("{}; {}", openbao?, kubernetes?))
    }

    async fn bindings(&self) -> Result<String> {
        let output = self.check("/check/binding/output").await?;
        let before = self.ticks().await?;
        let deadline = Instant::now() + TICK_LIMIT;
        loop {
            let now = self.ticks().await?;
            if now >= before + 2 {
                return Ok(format!("{} cron ticks arrived while watching; {output}", now - before));
            }
            ensure!(Instant::now() < deadline, "{} cron ticks arrived in {TICK_LIMIT:?}, expected 2", now - before);
            tokio::time::sleep(POLL).await;
        }
    }

    async fn ticks(&self) -> Result<u64> {
        let mut sum = 0;
        for pod in &self.processors {
            let seen = self.access.ask_json(application(pod), "GET", "/seen/ticks", None).await?;
            sum += seen["count"].as_u64().context("a tick count is missing")?;
        }
        Ok(sum)
    }

    /// Twenty orders, and one that its handler refuses once: all must reach order-processor, the
    /// refused one again, and none payment-service.
    async fn pubsub(&self) -> Result<String> {
        self.wait_for_consumers().await?;
        let mut orders: Vec<Value> = (0..20).map(|n| json!({ "id": format!("{}-{n}", self.run) })).collect();
        let refused = format!("{}-refused", self.run);
        orders.push(json!({ "id": refused, "refuse_first": true }));
        let ids: Vec<String> = orders.iter().filter_map(|o| o["id"].as_str().map(str::to_owned)).collect();
        self.access.ask_json(self.first(), "POST", "/publish", Some(&orders.into())).await?;

        let deadline = Instant::now() + DELIVERY_LIMIT;
        loop {
            let seen = self.deliveries().await?;
            let arrived = ids.iter().filter(|id| seen.contains_key(*id)).count();
            let again = seen.get(&refused).copied().unwrap_or(0) >= 2;
            if arrived == ids.len() && again {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "{arrived} of {} orders arrived in {DELIVERY_LIMIT:?}; the refused one came {}",
                ids.len(),
                if again { "again" } else { "not again" }
            );
            tokio::time::sleep(POLL).await;
        }
        let payment = self.access.pod_names(NAMESPACE, "payment-service").await?;
        for pod in &payment {
            let seen = self.access.ask_json(application(pod), "GET", "/seen/orders", None).await?;
            ensure!(seen["count"] == 0, "payment-service got {} orders, though it is not in the scopes", seen["count"]);
        }
        Ok(format!("{} orders delivered to order-processor, a refused one again, none to payment-service", ids.len()))
    }

    /// Publishes an order again and again until one arrives: a new consumer group of Kafka starts at
    /// the newest message, so what is published before it has joined is nobody's.
    async fn wait_for_consumers(&self) -> Result<()> {
        let id = format!("{}-first", self.run);
        let deadline = Instant::now() + DELIVERY_LIMIT;
        while !self.deliveries().await?.contains_key(&id) {
            ensure!(Instant::now() < deadline, "no order arrived in {DELIVERY_LIMIT:?}");
            self.access.ask_json(self.first(), "POST", "/publish", Some(&json!([{ "id": id }]))).await?;
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn deliveries(&self) -> Result<BTreeMap<String, u64>> {
        let mut all = BTreeMap::new();
        for pod in &self.processors {
            let seen = self.access.ask_json(application(pod), "GET", "/seen/orders", None).await?;
            for (id, count) in seen["deliveries"].as_object().context("a pod lists no deliveries")? {
                *all.entry(id.clone()).or_insert(0) += count.as_u64().unwrap_or(0);
            }
        }
        Ok(all)
    }

    /// Two pods contend for one lock.
    async fn lock(&self) -> Result<String> {
        let (one, two) = (application(&self.processors[0]), application(&self.processors[1]));
        let path = |step: &str| format!("/lock/till-{}/{step}", self.run);
        let acquire = async |port| -> Result<bool> {
            let answer = self.access.ask_json(port, "POST", &path("acquire"), None).await?;
            Ok(answer["success"] == true)
        };
        let release = async |port| -> Result<bool> {
            let answer = self.access.ask_json(port, "POST", &path("release"), None).await?;
            Ok(answer["status"].as_u64().unwrap_or(0) == 0)
        };
        ensure!(acquire(one).await?, "the first pod did not get a free lock");
        ensure!(!acquire(two).await?, "the second pod got the lock that the first holds");
        ensure!(!release(two).await?, "the second pod released the lock of the first");
        ensure!(release(one).await?, "the first pod could not release its lock");
        ensure!(acquire(two).await?, "the second pod did not get the released lock");
        ensure!(release(two).await?, "the second pod could not release its lock");
        Ok("held by one pod, refused to the other, then passed on".into())
    }

    /// Deletes payment-service's only pod between two activities of a workflow.
    async fn workflow(&self) -> Result<String> {
        let id = format!("settle-{}", self.run);
        let before = self.payment_pod().await?;
        self.access.ask_json(application(&before), "POST", &format!("/workflow/{id}/start"), None).await?;
        self.workflow_reaches(&before, &id, |status| status["reserved"] == true).await?;

        let pods = Api::<Pod>::namespaced(self.access.client(), NAMESPACE);
        pods.delete(&before, &DeleteParams::default()).await.with_context(|| format!("delete pod {before}"))?;
        wait_until_ready(&self.access).await?;
        let after = self.payment_pod().await?;
        ensure!(after != before, "pod {before} was not replaced");

        let deadline = Instant::now() + WORKFLOW_LIMIT;
        // The new sidecar needs the placement table before it can pass the event on.
        while let Err(error) =
            self.access.ask_json(application(&after), "POST", &format!("/workflow/{id}/approve"), None).await
        {
            ensure!(Instant::now() < deadline, "approve the workflow after the restart: {error:#}");
            tokio::time::sleep(POLL).await;
        }
        let done = self.workflow_reaches(&after, &id, |status| status["status"] == "COMPLETED").await?;
        let output: Value = serde_json::from_str(done["output"].as_str().unwrap_or_default())
            .with_context(|| format!("the workflow's result is {done}"))?;
        ensure!(
            output["reserved_by"] == before.as_str() && output["charged_by"] == after.as_str(),
            "the workflow's result is {output}, expected reserved by {before} and charged by {after}"
        );
        Ok(format!("reserved by {before}, pod deleted, charged by {after}"))
    }

    async fn payment_pod(&self) -> Result<String> {
        let mut pods = self.access.pod_names(NAMESPACE, "payment-service").await?;
        pods.pop().context("payment-service has no pod")
    }

    async fn workflow_reaches(&self, pod: &str, id: &str, reached: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + WORKFLOW_LIMIT;
        loop {
            let answer = self.access.ask_json(application(pod), "GET", &format!("/workflow/{id}"), None).await;
            match &answer {
                Ok(status) if reached(status) => return answer,
                Ok(status) => ensure!(status["status"] != "FAILED", "the workflow failed: {}", status["failure"]),
                Err(_) => {}
            }
            ensure!(Instant::now() < deadline, "the workflow stands at {answer:?} after {WORKFLOW_LIMIT:?}");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Says how a check came out as soon as it has.
async fn told(name: &str, check: impl Future<Output = Result<String>>) -> Result<String> {
    let result = check.await;
    say(format!("{name}: {}", if result.is_ok() { "ok" } else { "FAILED" }));
    result
}

/// The port of an application's pod.
fn application(pod: &str) -> Port<'_> {
    Port { namespace: NAMESPACE, pod, number: APP_PORT }
}
