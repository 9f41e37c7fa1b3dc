//! The names, types and labels of all metrics are API.
#![allow(clippy::unwrap_used, reason = "test helpers; a failure is the test's")]

use operator::{
    core::api_kind::ApiKind,
    hub::Hub,
    metrics::{Metrics, Sizes},
};
use prometheus_client::registry::Registry;

#[test]
fn metric_names_and_labels_are_as_recorded() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let hub = Hub::new(metrics.clone());
    registry.register_collector(Box::new(Sizes::of(&hub)));
    let before = runtime::metrics::exposition(&registry).unwrap();
    assert!(!before.contains("dapr_operator_service_created_total{"), "no series before its first increment");
    metrics.service_created("app");
    metrics.service_updated("app");
    metrics.object_refused(ApiKind::Component);
    metrics.events_merged(ApiKind::Component, 3);
    metrics.watch_failed("Pod");
    let text = runtime::metrics::exposition(&registry).unwrap();
    testkit::golden(env!("CARGO_MANIFEST_DIR"), "tests/golden/metrics.txt", &text);
}
