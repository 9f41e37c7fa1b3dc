//! The injector's metrics: upstream's three counters, one alias, and the caBundle writes.
//!
//! Upstream labels its counters with the app id, which anyone who can create pods chooses;
//! past a bound, new ones are counted together. State: one lock around the known ids.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// App ids that get series of their own: far more than one cluster has apps.
const MAX_APP_IDS: usize = 5000;
/// The label of all app ids past the bound.
const OTHER: &str = "_other";

/// Handles on the injector's metrics; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    requests: Counter,
    succeeded: Family<App, Counter>,
    failed: Family<Failed, Counter>,
    ca_bundle_writes: Family<Write, Counter>,
    app_ids: Arc<Mutex<HashSet<String>>>,
}

/// Why an injection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Reason {
    /// Not a pod, or a requester that may not ask.
    #[allow(non_camel_case_types, reason = "label values are contract")]
    pod_patch,
    /// No patch could be made.
    #[allow(non_camel_case_types, reason = "label values are contract")]
    patch,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct App {
    app_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    app_id: String,
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    result: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    #[allow(non_camel_case_types, reason = "label values are lower case")]
    ok,
    #[allow(non_camel_case_types, reason = "label values are lower case")]
    failed,
}

impl Metrics {
    /// Registers all metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "dapr_injector_sidecar_injection_requests",
            "Requests that reached the webhook, valid or not",
            metrics.requests.clone(),
        );
        registry.register(
            "dapr_sidecar_injection_requests",
            "The same as dapr_injector_sidecar_injection_requests_total, by its short name",
            metrics.requests.clone(),
        );
        registry.register(
            "dapr_injector_sidecar_injection_succeeded",
            "Pods that got a sidecar",
            metrics.succeeded.clone(),
        );
        registry.register(
            "dapr_injector_sidecar_injection_failed",
            "Pods that got none although they asked, or were no pods",
            metrics.failed.clone(),
        );
        registry.register(
            "dapr_injector_ca_bundle_writes",
            "Writes of the trust anchors into the webhook configuration",
            metrics.ca_bundle_writes.clone(),
        );
        metrics
    }

    /// A request reached the webhook.
    pub fn requested(&self) {
        self.requests.inc();
    }

    /// A pod got a sidecar.
    pub fn succeeded(&self, app_id: &str) {
        let app_id = self.label(app_id);
        self.succeeded.get_or_create(&App { app_id }).inc();
    }

    /// A pod got none.
    pub fn failed(&self, app_id: &str, reason: Reason) {
        let app_id = self.label(app_id);
        self.failed.get_or_create(&Failed { app_id, reason }).inc();
    }

    /// The caBundle was written, or not.
    pub fn ca_bundle_written(&self, success: bool) {
        let result = if success { Outcome::ok } else { Outcome::failed };
        self.ca_bundle_writes.get_or_create(&Write { result }).inc();
    }

    fn label(&self, app_id: &str) -> String {
        let mut known = self.app_ids.lock();
        if known.contains(app_id) {
            return app_id.to_owned();
        }
        if known.len() >= MAX_APP_IDS {
            return OTHER.to_owned();
        }
        known.insert(app_id.to_owned());
        app_id.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: impl FnOnce(&Metrics)) -> String {
        let mut registry = Registry::default();
        metrics(&Metrics::register(&mut registry));
        runtime::metrics::exposition(&registry).unwrap()
    }

    #[test]
    fn every_event_is_counted_under_its_contract_name() {
        let text = text(|metrics| {
            metrics.requested();
            metrics.succeeded("web");
            metrics.failed("web", Reason::pod_patch);
            metrics.failed("", Reason::patch);
            metrics.ca_bundle_written(true);
        });
        for line in [
            "dapr_injector_sidecar_injection_requests_total 1",
            "dapr_sidecar_injection_requests_total 1",
            "dapr_injector_sidecar_injection_succeeded_total{app_id=\"web\"} 1",
            "dapr_injector_sidecar_injection_failed_total{app_id=\"web\",reason=\"pod_patch\"} 1",
            "dapr_injector_sidecar_injection_failed_total{app_id=\"\",reason=\"patch\"} 1",
            "dapr_injector_ca_bundle_writes_total{result=\"ok\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn metric_names_are_the_golden_list() {
        let text = text(|_| {});
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names = names.collect::<Vec<_>>().join("\n") + "\n";
        testkit::golden(env!("CARGO_MANIFEST_DIR"), "tests/golden/metrics.txt", &names);
    }

    #[test]
    fn app_ids_past_the_bound_are_counted_together() {
        let text = text(|metrics| {
            for n in 0..MAX_APP_IDS + 7 {
                metrics.succeeded(&format!("app-{n}"));
            }
        });
        assert!(text.contains("succeeded_total{app_id=\"_other\"} 7"));
    }
}
