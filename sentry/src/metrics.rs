//! Sentry's metrics: upstream's six, by upstream's names, and those of our own.
//!
//! No label holds an app id, pod or address; validators and reasons are fixed sets.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

use crate::clock::unix_now;

/// Upper bounds of the latency histogram, in seconds: a signature takes under a millisecond, a
/// token review some milliseconds, a held call up to 2.5 s.
const LATENCY_BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0];

/// Label of upstream's failure counters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// Why.
    pub reason: &'static str,
}

/// Label of the rotation's phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PhaseLabel {
    /// `announce` or `sign`.
    pub phase: &'static str,
}

/// Labels of a finished request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// Which validator: `kubernetes`, `jwks`, `insecure` or `none`.
    pub validator: &'static str,
    /// `issued`, or the reason code of the audit log.
    pub reason: &'static str,
}

/// All metrics; cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Requests.
    pub received: Counter,
    /// Requests answered with a certificate.
    pub success: Counter,
    /// Requests refused or failed.
    pub failure: Family<Reason, Counter>,
    /// Failures to issue the own serving certificate.
    pub serving_failed: Family<Reason, Counter>,
    /// Bundles adopted or stored.
    pub changed: Counter,
    /// NotAfter of the issuer.
    pub issuer_expiry: Gauge,
    /// Finished requests by validator and reason.
    pub outcomes: Family<Outcome, Counter>,
    /// Latency by validator and reason.
    pub latency: Family<Outcome, Histogram>,
    /// 1 while the stored bundle has this problem and the last good one is used.
    pub bundle_problem: Family<Reason, Gauge>,
    /// Attempts inside a call that ended in transient trouble.
    pub retries: Family<Reason, Counter>,
    /// Calls that wait for a place among the token reviews.
    pub waiting: Gauge,
    /// 1 for the phase the change of the root is in.
    pub rotation_phase: Family<PhaseLabel, Gauge>,
    /// Pods that hold only the old anchor; -1 if they cannot be counted.
    pub old_anchor_pods: Gauge,
    /// 1 while the root should be changed and cannot be, for this reason.
    pub rotation_blocked: Family<Reason, Gauge>,
    expiry: Arc<Expiry>,
}

/// NotAfter of the certificates whose remaining time is reported.
#[derive(Debug, Default)]
struct Expiry {
    root: AtomicI64,
    issuer: AtomicI64,
    serving: AtomicI64,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let expiry = Arc::new(Expiry::default());
        let metrics = Self {
            received: Counter::default(),
            success: Counter::default(),
            failure: Family::default(),
            serving_failed: Family::default(),
            changed: Counter::default(),
            issuer_expiry: Gauge::default(),
            outcomes: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BOUNDS)),
            bundle_problem: Family::default(),
            retries: Family::default(),
            waiting: Gauge::default(),
            rotation_phase: Family::default(),
            old_anchor_pods: Gauge::default(),
            rotation_blocked: Family::default(),
            expiry: Arc::clone(&expiry),
        };
        metrics.register_upstream(registry);
        metrics.register_own(registry);
        metrics.register_rotation(registry);
        registry.register_collector(Box::new(SecondsToExpiry(expiry)));
        metrics
    }

    fn register_upstream(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        add("dapr_sentry_cert_sign_request_received", "The number of CSRs received", &self.received);
        add("dapr_sentry_cert_sign_success", "The number of certificates issued", &self.success);
        add("dapr_sentry_issuercert_changed", "The number of issuer cert updates", &self.changed);
        registry.register(
            "dapr_sentry_cert_sign_failure",
            "The number of errors occurred when signing the CSR",
            self.failure.clone(),
        );
        registry.register(
            "dapr_sentry_servercert_issue_failed",
            "The number of server TLS certificate issuance failures",
            self.serving_failed.clone(),
        );
        registry.register(
            "dapr_sentry_issuercert_expiry_timestamp",
            "The unix timestamp, in seconds, when issuer/root cert will expire",
            self.issuer_expiry.clone(),
        );
    }

    fn register_own(&self, registry: &mut Registry) {
        registry.register(
            "dapr_sentry_sign_requests",
            "Finished requests by validator and reason code",
            self.outcomes.clone(),
        );
        registry.register("dapr_sentry_sign_duration_seconds", "Time from request to answer", self.latency.clone());
        registry.register(
            "dapr_sentry_bundle_problem",
            "1 while the stored bundle cannot be used and the last good one is",
            self.bundle_problem.clone(),
        );
        registry.register(
            "dapr_sentry_transient_failures",
            "Attempts inside a call that failed for transient trouble",
            self.retries.clone(),
        );
        registry.register(
            "dapr_sentry_requests_waiting",
            "Calls waiting for a place among the token reviews",
            self.waiting.clone(),
        );
    }

    fn register_rotation(&self, registry: &mut Registry) {
        registry.register(
            "dapr_sentry_root_rotation_phase",
            "1 for the phase the change of the root is in",
            self.rotation_phase.clone(),
        );
        registry.register(
            "dapr_sentry_root_rotation_old_anchor_pods",
            "Pods that hold only the old anchor during a change of the root, -1 if they cannot be counted",
            self.old_anchor_pods.clone(),
        );
        registry.register(
            "dapr_sentry_root_rotation_blocked",
            "1 while the root should be changed and cannot be",
            self.rotation_blocked.clone(),
        );
    }

    /// Notes the bundle in use.
    pub fn bundle_expiry(&self, root: i64, issuer: i64) {
        self.issuer_expiry.set(issuer);
        self.expiry.root.store(root, Ordering::Relaxed);
        self.expiry.issuer.store(issuer, Ordering::Relaxed);
    }

    /// Notes the serving certificate in use.
    pub fn serving_expiry(&self, not_after: i64) {
        self.expiry.serving.store(not_after, Ordering::Relaxed);
    }
}

/// Computes what is left at the time of the scrape.
#[derive(Debug)]
struct SecondsToExpiry(Arc<Expiry>);

impl Collector for SecondsToExpiry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let now = unix_now();
        for (name, help, not_after) in [
            ("dapr_sentry_root_expiry_seconds", "Seconds until the last root expires", &self.0.root),
            ("dapr_sentry_issuer_expiry_seconds", "Seconds until the issuer expires", &self.0.issuer),
            ("dapr_sentry_serving_expiry_seconds", "Seconds until the serving certificate expires", &self.0.serving),
        ] {
            let not_after = not_after.load(Ordering::Relaxed);
            if not_after == 0 {
                continue;
            }
            let gauge = ConstGauge::new(not_after - now);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
