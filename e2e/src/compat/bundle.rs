//! Sentry's bundle as it is stored, and the commands that a user gives by annotation.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::quickstart::access::Access;
use crate::quickstart::services;

const NAME: &str = "dapr-trust-bundle";
const END: &str = "-----END CERTIFICATE-----\n";

/// What the Secret holds.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Each anchor's PEM.
    pub anchors: Vec<String>,
    /// Each certificate of the issuer's chain.
    pub chain: Vec<String>,
    /// `root-rotation.json`, while a rotation is in progress.
    pub rotation: Option<Value>,
    /// All values.
    pub data: std::collections::BTreeMap<String, Vec<u8>>,
}

impl Bundle {
    /// Reads the Secret.
    pub async fn read(access: &Access) -> Result<Self> {
        let secret = Api::<Secret>::namespaced(access.client(), services::NAMESPACE).get(NAME).await?;
        let data: std::collections::BTreeMap<_, _> =
            secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        let certificates = |key: &str| -> Result<Vec<String>> {
            let pem = data.get(key).with_context(|| format!("the Secret has no {key}"))?;
            Ok(split(std::str::from_utf8(pem)?))
        };
        let rotation = data.get("root-rotation.json").map(|text| serde_json::from_slice(text)).transpose()?;
        Ok(Self { anchors: certificates("ca.crt")?, chain: certificates("issuer.crt")?, rotation, data })
    }

    /// `ca.crt`, byte for byte.
    pub fn ca(&self) -> Option<&[u8]> {
        self.data.get("ca.crt").map(Vec::as_slice)
    }

    /// The phase of the rotation in progress.
    pub fn phase(&self) -> Option<&str> {
        self.rotation.as_ref()?.get("phase")?.as_str()
    }

    /// Since when, in Unix seconds, the new issuer signs.
    pub fn signs_since(&self) -> Option<i64> {
        self.phase().filter(|phase| *phase == "sign").and(self.rotation.as_ref()?["since"].as_i64())
    }

    /// Until when, in Unix seconds, leaves of the old issuer may be in use.
    pub fn leaves_until(&self) -> Result<i64> {
        let state = self.rotation.as_ref().context("no rotation is in progress")?;
        state["leaves_until"].as_i64().context("the rotation's state has no leaves_until")
    }
}

/// Each certificate of a PEM text.
fn split(pem: &str) -> Vec<String> {
    pem.split_inclusive(END).filter(|part| part.ends_with(END)).map(str::to_owned).collect()
}

/// The ConfigMap's anchors.
pub async fn published(access: &Access) -> Result<Vec<String>> {
    let map = Api::<ConfigMap>::namespaced(access.client(), services::NAMESPACE).get(NAME).await?;
    let pem = map.data.and_then(|mut data| data.remove("ca.crt")).context("the ConfigMap has no ca.crt")?;
    Ok(split(&pem))
}

/// Gives sentry a command, as the documentation says.
pub async fn command(access: &Access, word: &str) -> Result<()> {
    let patch = json!({ "metadata": { "annotations": { "dapr.io/ca-rotation": word } } });
    let secrets = Api::<Secret>::namespaced(access.client(), services::NAMESPACE);
    secrets.patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// The anchors that the injector gave to a pod's sidecar, if it has one.
pub fn anchors_of(pod: &Pod) -> Option<Vec<String>> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let env = all.find(|container| container.name == "daprd")?.env.as_ref()?;
    let variable = env.iter().find(|variable| variable.name == "DAPR_TRUST_ANCHORS")?;
    // The injector leaves out the last line's end or not: it says nothing.
    Some(split(&format!("{}\n", variable.value.as_deref()?.trim_end())))
}

/// How many pods of the whole cluster hold anchors without `root`: sidecars that were not given it, and
/// schedulers that did not begin after the new issuer did.
pub async fn pods_without(access: &Access, root: &str) -> Result<usize> {
    let signs_since = Bundle::read(access).await?.signs_since();
    let pods = Api::<Pod>::all(access.client()).list(&ListParams::default()).await?;
    let lacks = |pod: &&Pod| match anchors_of(pod) {
        Some(anchors) => !anchors.iter().any(|anchor| anchor == root),
        None => scheduler_since(pod).is_some_and(|began| signs_since.is_none_or(|signs| began < signs)),
    };
    Ok(pods.iter().filter(lacks).count())
}

/// When the containers of a scheduler's pod began, the first of them.
fn scheduler_since(pod: &Pod) -> Option<i64> {
    let service = pod.metadata.annotations.as_ref()?.get("dapr.io/control-plane")?;
    let statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
    let began =
        statuses.filter_map(|status| Some(status.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0.as_second()));
    began.min().filter(|_| service == "scheduler")
}

/// The number of those pods as every replica of sentry counts it.
pub async fn pods_counted(access: &Access) -> Result<usize> {
    let replicas = services::scrape_each(access, "dapr-sentry").await?;
    let counts: Vec<f64> =
        replicas.iter().filter_map(|replica| replica.sum("dapr_sentry_root_rotation_old_anchor_pods")).collect();
    ensure!(!counts.is_empty() && counts.len() == replicas.len(), "a replica does not count: {counts:?}");
    ensure!(counts.iter().all(|count| (count - counts[0]).abs() < 0.5), "replicas count differently: {counts:?}");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
    Ok(counts[0].max(0.0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_of_a_pem_text_are_told_apart() {
        let one = format!("-----BEGIN CERTIFICATE-----\nQQ==\n{END}");
        assert_eq!(split(&format!("{one}{one}")), [one.clone(), one]);
        assert!(split("garbage").is_empty());
    }
}
