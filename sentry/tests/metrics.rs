//! The names of all metrics, with every family given one series.
#![allow(clippy::unwrap_used, reason = "assertions of a test")]

use prometheus_client::registry::Registry;
use sentry::metrics::{Metrics, Outcome, PhaseLabel, Reason};

#[test]
fn metric_names_are_as_listed() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let reason = Reason { reason: "sign" };
    metrics.failure.get_or_create(&reason).inc();
    metrics.serving_failed.get_or_create(&reason).inc();
    metrics.bundle_problem.get_or_create(&reason).set(1);
    metrics.rotation_phase.get_or_create(&PhaseLabel { phase: "sign" }).set(1);
    metrics.rotation_blocked.get_or_create(&reason).set(1);
    metrics.retries.get_or_create(&reason).inc();
    let outcome = Outcome { validator: "kubernetes", reason: "issued" };
    metrics.outcomes.get_or_create(&outcome).inc();
    metrics.latency.get_or_create(&outcome).observe(0.2);
    metrics.bundle_expiry(i64::MAX, 7);
    metrics.serving_expiry(i64::MAX);
    let text = runtime::metrics::exposition(&registry).unwrap();
    let mut lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    lines.sort_unstable();
    testkit::golden(env!("CARGO_MANIFEST_DIR"), "tests/golden/metrics.txt", &format!("{}\n", lines.join("\n")));
    assert!(text.contains("\ndapr_sentry_issuercert_expiry_timestamp 7\n"), "no labels");
    assert!(text.contains("\ndapr_sentry_cert_sign_failure_total{reason=\"sign\"} 1\n"));
}
