//! What the injector does to pods that are created in the cluster. Most are created in dry runs: the
//! API server asks the webhook and stores nothing.

use anyhow::{Context, Result, ensure};
use e2e::quickstart::access::{Access, Answer};
use e2e::quickstart::manifests::{NAMESPACE, apply, containers, probe_pod};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

const DRY_RUN: &str = "/api/v1/namespaces/fuse/pods?dryRun=All";

async fn create(access: &Access, user: Option<&str>, pod: &Value) -> Result<(Answer, Pod)> {
    let headers: Vec<(&str, &str)> = user.iter().map(|user| ("Impersonate-User", *user)).collect();
    let answer = access.raw("POST", DRY_RUN, &headers, Some(pod)).await?;
    ensure!(answer.status == 201, "the pod was refused with {}: {}", answer.status, answer.body);
    let created = serde_json::from_str(&answer.body).context("the created pod cannot be read")?;
    Ok((answer, created))
}

fn has_sidecar(pod: &Pod) -> bool {
    containers(pod).any(|name| name == "daprd")
}

#[tokio::test]
async fn a_pod_without_the_annotation_is_untouched() -> Result<()> {
    let access = Access::running().await?;
    let mut plain = probe_pod("plain");
    plain["metadata"]["annotations"] = json!({ "dapr.io/app-id": "plain" });
    let (_, created) = create(&access, None, &plain).await?;
    assert_eq!(containers(&created).collect::<Vec<_>>(), ["app"]);
    assert_eq!(created.metadata.labels, None);
    let spec = created.spec.context("the pod has no spec")?;
    ensure!(spec.containers[0].env.is_none(), "environment was added: {:?}", spec.containers[0].env);
    let volumes: Vec<_> = spec.volumes.iter().flatten().map(|v| v.name.as_str()).collect();
    ensure!(volumes.iter().all(|name| !name.starts_with("dapr")), "volumes were added: {volumes:?}");
    Ok(())
}

#[tokio::test]
async fn an_annotated_pod_of_a_listed_requester_gets_its_sidecar() -> Result<()> {
    let access = Access::running().await?;
    let listed = Some("system:serviceaccount:kube-system:replicaset-controller");
    let (_, created) = create(&access, listed, &probe_pod("listed")).await?;
    ensure!(has_sidecar(&created), "no sidecar in {:?}", containers(&created).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_pod_of_an_unlisted_requester_is_admitted_bare_and_the_caller_is_told_why() -> Result<()> {
    let access = Access::running().await?;
    let name = "unlisted-creator";
    let meta = json!({ "name": name, "namespace": NAMESPACE });
    let rbac = "rbac.authorization.k8s.io";
    apply(&access, json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta })).await?;
    let rules = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["create"] }]);
    apply(&access, json!({ "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": meta, "rules": rules }))
        .await?;
    let binding = json!({
        "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": meta,
        "roleRef": { "apiGroup": rbac, "kind": "Role", "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": NAMESPACE }],
    });
    apply(&access, binding).await?;

    let user = format!("system:serviceaccount:{NAMESPACE}:{name}");
    let (answer, created) = create(&access, Some(&user), &probe_pod("unlisted")).await?;
    ensure!(!has_sidecar(&created), "an unlisted requester got a sidecar");
    let told = answer.warnings.iter().any(|warning| warning.contains(name) || warning.contains("sidecar"));
    ensure!(told, "the caller saw no warning that says why: {:?}", answer.warnings);
    Ok(())
}

#[tokio::test]
async fn the_users_annotations_take_effect_on_the_sidecar_of_order_service() -> Result<()> {
    let access = Access::running().await?;
    let pods = access.pods(NAMESPACE, "order-service").await?;
    let pod = pods.first().context("order-service has no pod")?;
    let spec = pod.spec.as_ref().context("the pod has no spec")?;
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let sidecar = all.into_iter().find(|c| c.name == "daprd").context("order-service has no sidecar")?;
    let args = sidecar.args.clone().unwrap_or_default();
    for pair in [
        ["--app-id", "order-service"],
        ["--app-port", "8080"],
        ["--app-protocol", "grpc"],
        ["--log-level", "info"],
        ["--mode", "kubernetes"],
    ] {
        ensure!(args.windows(2).any(|window| window == pair), "{pair:?} is missing in {args:?}");
    }
    let resources = serde_json::to_value(&sidecar.resources)?;
    assert_eq!(resources["requests"], json!({ "cpu": "100m", "memory": "64Mi" }));
    assert_eq!(resources["limits"], json!({ "cpu": "500m", "memory": "256Mi" }));
    Ok(())
}
