//! The names, types and labels of all metrics are API.

use std::time::Duration;

use placement::{
    core::RoundSummary,
    metrics::{HostNamespace, Metrics, OfReason},
};
use prometheus_client::registry::Registry;

#[test]
fn metric_names_and_labels_are_as_recorded() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let label = HostNamespace { host_namespace: "default".into() };
    metrics.runtimes.get_or_create(&label).inc();
    metrics.actor_runtimes.get_or_create(&label).inc();
    metrics.ended.get_or_create(&OfReason { reason: "timeout" }).inc();
    metrics.finished(&RoundSummary {
        version: 1,
        streams: 2,
        lock: Duration::from_millis(200),
        commit: Duration::ZERO,
        update: Duration::from_millis(3),
        unlock: Duration::from_millis(1),
        slowest: None,
    });
    let text = runtime::metrics::exposition(&registry).expect("writing to a string cannot fail");
    // Series of one family come in any order; values are not API.
    let mut lines: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("# HELP"))
        .map(|line| if line.starts_with('#') { line } else { line.rsplit_once(' ').map_or(line, |(series, _)| series) })
        .collect();
    lines.sort_unstable();
    testkit::golden(env!("CARGO_MANIFEST_DIR"), "tests/golden/metrics.txt", &(lines.join("\n") + "\n"));
}
