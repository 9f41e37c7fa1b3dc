//! Applications that call each other, one with each supported sidecar. They come in generations,
//! so that a test can have some from before a change and some from each part of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};

use super::{container_statuses, restarts, wait_for};
use crate::modules::package_folder;
use crate::progress::say;
use crate::quickstart::access::{Access, Port};
use crate::quickstart::load::Load;
use crate::quickstart::manifests::{NAMESPACE, apply, is_ready_with_sidecar, objects};
use crate::upstream::{Release, V1_16, V1_17, V1_18};

/// The sidecars that must work with this control plane.
pub const RELEASES: [&Release; 3] = [&V1_16, &V1_17, &V1_18];

const APP_PORT: u16 = 8080;
const SIDECAR_PORT: u16 = 3500;
const READY: Duration = Duration::from_mins(3);
const GONE: Duration = Duration::from_mins(2);

/// One application with one pod.
#[derive(Debug, Clone)]
pub struct Member {
    /// App id, name of its Deployment and value of its label `app`.
    pub app: String,
    /// Its sidecar.
    pub release: &'static Release,
}

/// The members of a generation, one for each release.
pub fn generation(name: &str) -> Vec<Member> {
    let member = |release: &'static Release| {
        let short: String = release.version.split('.').take(2).collect();
        Member { app: format!("ring-{name}-{short}"), release }
    };
    RELEASES.map(member).into()
}

/// Creates the members and waits until each is ready with its sidecar.
pub async fn bring(access: &Access, members: &[Member]) -> Result<()> {
    for member in members {
        apply(access, member.deployment()?).await?;
    }
    for member in members {
        wait_for(&format!("{} is ready", member.app), READY, async || {
            Ok(member.pod(access).await?.filter(is_ready_with_sidecar))
        })
        .await?;
    }
    Ok(())
}

/// Deletes the members and waits until their pods are gone.
pub async fn remove(access: &Access, members: &[Member]) -> Result<()> {
    let deployments = Api::<Deployment>::namespaced(access.client(), NAMESPACE);
    for member in members {
        if deployments.get_opt(&member.app).await?.is_some() {
            deployments.delete(&member.app, &DeleteParams::default()).await?;
        }
    }
    let pods = Api::<Pod>::namespaced(access.client(), NAMESPACE);
    for member in members {
        let labels = ListParams::default().labels(&format!("app={}", member.app));
        wait_for(&format!("{} is gone", member.app), GONE, async || {
            Ok(pods.list(&labels).await?.items.is_empty().then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Lets each caller call each other application once; returns the number of calls.
pub async fn call_each_other(access: &Access, callers: &[Member], called: &[Member]) -> Result<usize> {
    let mut calls = 0;
    for caller in callers {
        let pod = caller.ready_pod(access).await?;
        let port = Port { namespace: NAMESPACE, pod: &pod, number: APP_PORT };
        for other in called.iter().filter(|other| other.app != caller.app) {
            let answer = access.ask(port, "POST", &format!("/call/{}", other.app), None).await?;
            ensure!(answer.status == 200, "{} called {}: {}", caller.app, other.app, answer.body.trim());
            calls += 1;
        }
    }
    Ok(calls)
}

impl Member {
    /// Order-processor's Deployment under another name and with the release's sidecar.
    fn deployment(&self) -> Result<Value> {
        let all = objects(&package_folder().join("samples/manifests/30-applications.yaml"))?;
        let found = all.into_iter().find(|object| object["metadata"]["name"] == "order-processor");
        let mut object = found.context("the samples have no order-processor")?;
        let labels = json!({ "app": self.app });
        object["metadata"]["name"] = self.app.clone().into();
        object["spec"]["replicas"] = 1.into();
        object["spec"]["selector"]["matchLabels"] = labels.clone();
        let template = &mut object["spec"]["template"];
        template["metadata"]["labels"] = labels;
        let annotations = &mut template["metadata"]["annotations"];
        annotations["dapr.io/app-id"] = self.app.clone().into();
        annotations["dapr.io/sidecar-image"] = self.release.sidecar_image_name().into();
        // For the call that ends the sidecar.
        annotations["dapr.io/sidecar-listen-addresses"] = "0.0.0.0".into();
        let env = template.pointer_mut("/spec/containers/0/env").and_then(Value::as_array_mut);
        env.context("order-processor has no environment")?.push(json!({ "name": "HOSTS_ACTORS", "value": "no" }));
        Ok(object)
    }

    /// Its pod, if it has one that is not going away; that must have the release's sidecar.
    pub async fn pod(&self, access: &Access) -> Result<Option<Pod>> {
        let Some(pod) = access.pods(NAMESPACE, &self.app).await?.pop() else { return Ok(None) };
        let image = self.release.sidecar_image_name();
        let used = container_statuses(&pod).find(|status| status.name == "daprd").map(|status| status.image.clone());
        ensure!(used.is_none_or(|used| used == image || used.is_empty()), "{} does not run with {image}", self.app);
        Ok(Some(pod))
    }

    async fn ready_pod(&self, access: &Access) -> Result<String> {
        let pod = self.pod(access).await?.filter(is_ready_with_sidecar);
        pod.and_then(|pod| pod.metadata.name).with_context(|| format!("{} has no ready pod", self.app))
    }

    /// A steady load from its pod.
    pub async fn load(&self, access: &Access) -> Result<Load> {
        Ok(Load::in_pod(access.clone(), self.ready_pod(access).await?))
    }

    /// How often its containers were restarted.
    pub async fn restarts(&self, access: &Access) -> Result<i32> {
        Ok(restarts(&self.pod(access).await?.with_context(|| format!("{} has no pod", self.app))?))
    }

    /// Ends the sidecar's process: it starts again in the same pod, so with the same anchors.
    pub async fn restart_sidecar(&self, access: &Access) -> Result<()> {
        let (pod, before) = (self.ready_pod(access).await?, self.restarts(access).await?);
        let port = Port { namespace: NAMESPACE, pod: &pod, number: SIDECAR_PORT };
        let answer = access.ask(port, "POST", "/v1.0/shutdown", None).await?;
        ensure!(answer.status < 300, "{} does not end its sidecar: {}", self.app, answer.body.trim());
        wait_for(&format!("the sidecar of {} is back", self.app), READY, async || {
            let pod = self.pod(access).await?;
            Ok(pod.filter(|pod| restarts(pod) > before && is_ready_with_sidecar(pod)))
        })
        .await?;
        say(format!("{} is back after a restart of its sidecar", self.app));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_an_order_processor_of_its_own_name_with_the_releases_sidecar() {
        let members = generation("old");
        let apps: Vec<_> = members.iter().map(|member| member.app.as_str()).collect();
        assert_eq!(apps, ["ring-old-116", "ring-old-117", "ring-old-118"]);
        let object = members[0].deployment().unwrap();
        let annotations = &object["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["dapr.io/sidecar-image"], "ghcr.io/dapr/daprd:1.16.5");
        assert_eq!(object["spec"]["selector"]["matchLabels"]["app"], "ring-old-116");
    }
}
