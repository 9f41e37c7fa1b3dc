//! One CA, everywhere the same: in sentry's Secret, in the ConfigMap that the control plane mounts,
//! and in the sidecars.

use anyhow::{Context, Result, ensure};
use e2e::quickstart::access::Access;
use e2e::quickstart::manifests::{APPLICATIONS, NAMESPACE};
use e2e::quickstart::services;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;

const BUNDLE: &str = "dapr-trust-bundle";

fn anchors_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let env = all.find(|c| c.name == "daprd")?.env.as_ref()?;
    env.iter().find(|variable| variable.name == "DAPR_TRUST_ANCHORS")?.value.clone()
}

#[tokio::test]
async fn secret_config_map_and_sidecars_hold_the_same_anchors() -> Result<()> {
    let access = Access::running().await?;
    let secret = Api::<Secret>::namespaced(access.client(), services::NAMESPACE).get(BUNDLE).await?;
    let map = Api::<ConfigMap>::namespaced(access.client(), services::NAMESPACE).get(BUNDLE).await?;
    let of_secret = secret.data.and_then(|mut data| data.remove("ca.crt")).context("the Secret has no ca.crt")?;
    let of_secret = String::from_utf8(of_secret.0)?;
    let of_map = map.data.and_then(|mut data| data.remove("ca.crt")).context("the ConfigMap has no ca.crt")?;
    assert_eq!(of_secret, of_map);
    for (app, _) in APPLICATIONS {
        for pod in access.pods(NAMESPACE, app).await? {
            assert_eq!(anchors_of(&pod).as_deref(), Some(of_secret.as_str()), "in a sidecar of {app}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn sentry_counts_certificates_and_no_failure() -> Result<()> {
    let access = Access::running().await?;
    let metrics = services::scrape(&access, "dapr-sentry").await?;
    let received = metrics.sum("dapr_sentry_cert_sign_request_received_total").unwrap_or(0.0);
    let signed = metrics.sum("dapr_sentry_cert_sign_success_total").unwrap_or(0.0);
    let failed = metrics.sum("dapr_sentry_cert_sign_failure_total").unwrap_or(0.0);
    ensure!(signed > 0.0, "sentry counts no certificate");
    ensure!(failed == 0.0, "sentry counts {failed} failures of {received} requests");
    Ok(())
}
