//! The names, types and labels of all metrics are API.

use injector::metrics::{Metrics, Reason};
use prometheus_client::registry::Registry;

#[test]
fn metric_names_and_labels_are_as_recorded() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    metrics.requested();
    metrics.succeeded("orders");
    metrics.failed("orders", Reason::patch);
    metrics.ca_bundle_written(true);
    let text = runtime::metrics::exposition(&registry).expect("writing to a string cannot fail");
    testkit::golden(env!("CARGO_MANIFEST_DIR"), "tests/golden/metrics.txt", &text);
}
