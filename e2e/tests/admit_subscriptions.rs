//! The user's short form of a v2alpha1 Subscription: accepted, served in the normal form, refused
//! where it contradicts itself.

use anyhow::{Context, Result, ensure};
use e2e::quickstart::access::{Access, Answer, Port};
use e2e::quickstart::manifests::NAMESPACE;
use serde_json::{Value, json};

const COLLECTION: &str = "/apis/dapr.io/v2alpha1/namespaces/fuse/subscriptions";
/// Where a sidecar serves its metadata to the pod's network.
const PUBLIC_PORT: u16 = 3501;

async fn create(access: &Access, spec: Value, scopes: Option<Value>) -> Result<Answer> {
    let mut object = json!({
        "apiVersion": "dapr.io/v2alpha1", "kind": "Subscription",
        "metadata": { "name": "tried-in-a-dry-run", "namespace": NAMESPACE }, "spec": spec,
    });
    if let Some(scopes) = scopes {
        object["scopes"] = scopes;
    }
    access.raw("POST", &format!("{COLLECTION}?dryRun=All&fieldValidation=Strict"), &[], Some(&object)).await
}

async fn subscriptions_of(access: &Access, app: &str) -> Result<Value> {
    let pod = access.pod_names(NAMESPACE, app).await?.pop().with_context(|| format!("{app} has no pod"))?;
    let port = Port { namespace: NAMESPACE, pod: &pod, number: PUBLIC_PORT };
    Ok(access.ask_json(port, "GET", "/v1.0/metadata", None).await?["subscriptions"].clone())
}

#[tokio::test]
async fn the_sidecars_of_order_processor_see_the_short_form_as_a_rule() -> Result<()> {
    let access = Access::running().await?;
    let seen = subscriptions_of(&access, "order-processor").await?;
    let orders = seen.as_array().into_iter().flatten().find(|s| s["topic"] == "orders");
    let orders =
        orders.with_context(|| format!("order-processor's sidecar knows no subscription to orders: {seen}"))?;
    assert_eq!(orders["pubsubname"], "pubsub");
    assert_eq!(orders["rules"][0]["path"], "/api/orders/handle");
    Ok(())
}

#[tokio::test]
async fn a_sidecar_outside_the_scopes_has_no_subscription() -> Result<()> {
    let access = Access::running().await?;
    let seen = subscriptions_of(&access, "payment-service").await?;
    ensure!(seen.as_array().is_none_or(Vec::is_empty), "payment-service's sidecar subscribes: {seen}");
    Ok(())
}

#[tokio::test]
async fn both_forms_of_the_route_are_accepted_while_they_agree() -> Result<()> {
    let access = Access::running().await?;
    let spec = json!({ "pubsubname": "pubsub", "topic": "t", "route": "/a", "routes": { "default": "/a" } });
    let answer = create(&access, spec, None).await?;
    ensure!(answer.status == 201, "refused with {}: {}", answer.status, answer.body);
    Ok(())
}

#[tokio::test]
async fn two_routes_that_differ_are_refused_naming_both_fields() -> Result<()> {
    let access = Access::running().await?;
    let spec = json!({ "pubsubname": "pubsub", "topic": "t", "route": "/a", "routes": { "default": "/b" } });
    let answer = create(&access, spec, None).await?;
    assert_eq!(answer.status, 422, "{}", answer.body);
    ensure!(answer.body.contains("route") && answer.body.contains("routes.default"), "unclear: {}", answer.body);
    Ok(())
}

#[tokio::test]
async fn scopes_that_differ_are_refused() -> Result<()> {
    let access = Access::running().await?;
    let spec = json!({ "pubsubname": "pubsub", "topic": "t", "route": "/a", "scopes": ["one"] });
    let answer = create(&access, spec, Some(json!(["two"]))).await?;
    assert_eq!(answer.status, 422, "{}", answer.body);
    ensure!(answer.body.contains("scopes"), "unclear: {}", answer.body);
    Ok(())
}
