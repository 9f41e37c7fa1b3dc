//! Where actors are measured: a namespace with hosts and callers, all with the sidecar of one release.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::calls::Call;
use super::turns::{self, Turn};
use crate::cluster::Cluster;
use crate::modules::package_folder;
use crate::processes::Identity;
use crate::quickstart::access::{Access, Port};
use crate::quickstart::manifests::{apply, is_ready_with_sidecar, objects};
use crate::upstream::Release;

const HOSTS: &str = "actor-host";
const CALLERS: &str = "actor-caller";
const CALLER_PODS: usize = 3;
const APP_PORT: u16 = 8080;
/// Ten sidecars start on the cores that everything else runs on.
const READY_LIMIT: Duration = Duration::from_mins(3);
const GONE_LIMIT: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(500);

/// Calls of short turns that each caller makes a second, and the actors they go to.
pub const RATE: u32 = 15;
/// Actors with short turns.
pub const SHORT_ACTORS: usize = 30;
/// Length of a short turn in milliseconds: calls that waited for each other must fit into the drain too.
pub const SHORT_TURN_MS: u32 = 100;
/// Actors with long turns, each with one caller that calls it again and again.
pub const LONG_ACTORS: usize = 10;
/// Length of a long turn in milliseconds: just shorter than the drain of 2 s.
pub const LONG_TURN_MS: u32 = 1_500;

/// The namespace with its pods.
pub struct Stage {
    cluster: Cluster,
    access: Access,
    namespace: String,
    callers: Vec<String>,
}

/// What a caller tells when it is stopped.
#[derive(Deserialize)]
struct Stopped {
    calls: Vec<Call>,
}

impl Stage {
    /// Makes the namespace with one host and the callers, and waits until all are ready.
    pub async fn set(cluster: &Cluster, access: &Access, release: &Release) -> Result<Self> {
        let namespace = format!("actors-{}", release.version.replace('.', "-"));
        let mut stage = Self { cluster: cluster.clone(), access: access.clone(), namespace, callers: Vec::new() };
        stage.remove().await?;
        stage.wait_until_removed().await?;
        let password = &cluster.credentials()?.valkey_password;
        apply(access, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": stage.namespace } }))
            .await?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "valkey-credentials", "namespace": stage.namespace },
            "stringData": { "password": password },
        });
        apply(access, secret).await?;
        let journal = format!("turns-{}-{}", release.version, rand::random::<u32>());
        for object in objects(&package_folder().join("samples/actor-host/actors.yaml"))? {
            apply(access, placed(object, &stage.namespace, &release.sidecar_image_name(), &journal)?).await?;
        }
        stage.wait_for(CALLERS, CALLER_PODS).await?;
        stage.wait_for(HOSTS, 1).await?;
        stage.callers = access.pod_names(&stage.namespace, CALLERS).await?;
        stage.ensure_sidecars(&release.sidecar_image_name()).await?;
        Ok(stage)
    }

    /// The cluster.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Deletes the namespace; its pods end by themselves.
    pub async fn remove(&self) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.access.client());
        if namespaces.get_opt(&self.namespace).await?.is_some() {
            namespaces.delete(&self.namespace, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    async fn wait_until_removed(&self) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.access.client());
        let deadline = Instant::now() + GONE_LIMIT;
        while namespaces.get_opt(&self.namespace).await?.is_some() {
            ensure!(Instant::now() < deadline, "namespace {} of an earlier run does not go away", self.namespace);
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Another sidecar than the wanted one would make every figure a lie.
    async fn ensure_sidecars(&self, image: &str) -> Result<()> {
        for app in [HOSTS, CALLERS] {
            for pod in self.access.pods(&self.namespace, app).await? {
                let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
                let used: Vec<_> = statuses.iter().filter(|s| s.name == "daprd").map(|s| s.image.as_str()).collect();
                ensure!(used == [image], "{app} runs with {used:?}, not with {image}");
            }
        }
        Ok(())
    }

    /// Asks for another number of hosts.
    pub async fn scale(&self, hosts: usize) -> Result<()> {
        let api = Api::<Deployment>::namespaced(self.access.client(), &self.namespace);
        let patch = json!({ "spec": { "replicas": hosts } });
        api.patch(HOSTS, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Waits until there are so many hosts, all ready, and no pod is still going away.
    pub async fn wait_for_hosts(&self, hosts: usize) -> Result<()> {
        self.wait_for(HOSTS, hosts).await
    }

    async fn wait_for(&self, app: &str, wanted: usize) -> Result<()> {
        let api = Api::<Pod>::namespaced(self.access.client(), &self.namespace);
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let pods = api.list(&ListParams::default().labels(&format!("app={app}"))).await?.items;
            let ready = pods.iter().filter(|pod| is_ready_with_sidecar(pod)).count();
            if pods.len() == wanted && ready == wanted {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{app}: {} pods, {ready} ready, wanted {wanted}", pods.len());
            sleep(POLL).await;
        }
    }

    /// The sidecar's process of one of the hosts, with the name of its pod.
    pub async fn sidecar_of_a_host(&self) -> Result<(String, Identity)> {
        let pod = self.access.pods(&self.namespace, HOSTS).await?.pop().context("there is no host")?;
        let name = pod.metadata.name.unwrap_or_default();
        let process = self.process(&self.namespace, &name, "daprd")?;
        Ok((name, process))
    }

    /// The process that a container of a pod runs.
    pub fn process(&self, namespace: &str, pod: &str, container: &str) -> Result<Identity> {
        let ids = self.cluster.container_processes(namespace, pod, container)?;
        let process = ids.first().and_then(|id| Identity::of(*id));
        process.with_context(|| format!("container {container} of {namespace}/{pod} has no process on this machine"))
    }

    /// All callers begin to call.
    pub async fn start_calls(&self) -> Result<()> {
        for (index, caller) in self.callers.iter().enumerate() {
            let long = (index..LONG_ACTORS).step_by(self.callers.len()).map(|n| format!("long-{n}"));
            let plan = json!({
                "type": "Turns", "rate": RATE, "actors": SHORT_ACTORS, "turn_ms": SHORT_TURN_MS,
                "first": index * SHORT_ACTORS / self.callers.len(),
                "long": long.collect::<Vec<_>>(), "long_turn_ms": LONG_TURN_MS,
            });
            self.access.ask_json(self.port(caller), "POST", "/calls/start", Some(&plan)).await?;
        }
        Ok(())
    }

    /// All callers stop once their last calls have ended; gives every call.
    pub async fn stop_calls(&self) -> Result<Vec<Call>> {
        let mut calls = Vec::new();
        for caller in &self.callers {
            let stopped = self.access.ask_json(self.port(caller), "POST", "/calls/stop", None).await?;
            calls.extend(serde_json::from_value::<Stopped>(stopped).context("read the calls of a caller")?.calls);
        }
        Ok(calls)
    }

    /// Every turn that any host ever ran here.
    pub async fn turns(&self) -> Result<Vec<Turn>> {
        let caller = self.callers.first().context("there are no callers")?;
        let answer = self.access.ask(self.port(caller), "GET", "/journal", None).await?;
        ensure!(answer.status == 200, "the journal cannot be read: {}", answer.body);
        turns::parse(&answer.body)
    }

    fn port<'a>(&'a self, pod: &'a str) -> Port<'a> {
        Port { namespace: &self.namespace, pod, number: APP_PORT }
    }
}

/// An object of the manifest, put into the namespace; its pods with the sidecar and the journal.
fn placed(mut object: Value, namespace: &str, sidecar: &str, journal: &str) -> Result<Value> {
    object["metadata"]["namespace"] = namespace.into();
    if object["kind"] == "Deployment" {
        let template = &mut object["spec"]["template"];
        template["metadata"]["annotations"]["dapr.io/sidecar-image"] = sidecar.into();
        let env = template.pointer_mut("/spec/containers/0/env").and_then(Value::as_array_mut);
        env.context("the Deployment has no environment")?.push(json!({ "name": "JOURNAL", "value": journal }));
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_placed_with_sidecar_and_journal() {
        let all = objects(&package_folder().join("samples/actor-host/actors.yaml")).unwrap();
        let placed: Vec<Value> = all.into_iter().map(|o| placed(o, "ns", "image:1", "key").unwrap()).collect();
        assert!(placed.iter().all(|object| object["metadata"]["namespace"] == "ns"));
        let deployments: Vec<_> = placed.iter().filter(|object| object["kind"] == "Deployment").collect();
        assert_eq!(deployments.len(), 2);
        for deployment in deployments {
            let template = &deployment["spec"]["template"];
            assert_eq!(template["metadata"]["annotations"]["dapr.io/sidecar-image"], "image:1");
            let env = template["spec"]["containers"][0]["env"].as_array().unwrap();
            assert!(env.contains(&json!({ "name": "JOURNAL", "value": "key" })));
        }
    }

    #[test]
    fn long_turns_are_shorter_than_the_drain_that_the_hosts_ask_for() {
        let source = std::fs::read_to_string(package_folder().join("samples/actor-host/turns.go")).unwrap();
        let (_, drain) = source.split_once(r#""drainOngoingCallTimeout": ""#).unwrap();
        let seconds: u32 = drain.split_once('s').unwrap().0.parse().unwrap();
        assert!(LONG_TURN_MS < seconds * 1_000);
    }
}
