//! The operator's metrics. Names and labels are API.

use std::sync::{Arc, Weak};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};

use crate::{core::api_kind::ApiKind, hub::Hub};

/// The label upstream's Service counters carry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct App {
    app_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// Counters. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    service_created: Family<App, Counter>,
    service_updated: Family<App, Counter>,
    service_deleted: Family<App, Counter>,
    objects_refused: Family<OfKind, Counter>,
    events_merged: Family<OfKind, Counter>,
    watch_failures: Family<OfKind, Counter>,
}

impl Metrics {
    /// Registers the counters. The registry appends `_total`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let apps = [
            ("created", "created", &metrics.service_created),
            ("deleted", "deleted", &metrics.service_deleted),
            ("updated", "updated", &metrics.service_updated),
        ];
        for (name, verb, family) in apps {
            registry.register(
                format!("dapr_operator_service_{name}"),
                format!("The total number of dapr services {verb}"),
                family.clone(),
            );
        }
        let kinds = [
            ("objects_refused", "Objects left out because they cannot be read", &metrics.objects_refused),
            ("events_merged", "Events merged because a sidecar was slow", &metrics.events_merged),
            ("watch_failures", "Failed lists and watches of the API server", &metrics.watch_failures),
        ];
        for (name, help, family) in kinds {
            registry.register(format!("dapr_operator_{name}"), help, family.clone());
        }
        metrics
    }

    /// A Service was created.
    pub fn service_created(&self, app_id: &str) {
        self.service_created.get_or_create(&app(app_id)).inc();
    }

    /// A Service was changed.
    pub fn service_updated(&self, app_id: &str) {
        self.service_updated.get_or_create(&app(app_id)).inc();
    }

    /// An object was left out.
    pub fn object_refused(&self, kind: ApiKind) {
        self.objects_refused.get_or_create(&OfKind { kind: kind.name() }).inc();
    }

    /// Events were merged.
    pub fn events_merged(&self, kind: ApiKind, count: u64) {
        if count > 0 {
            self.events_merged.get_or_create(&OfKind { kind: kind.name() }).inc_by(count);
        }
    }

    /// A list or watch failed.
    pub fn watch_failed(&self, kind: &'static str) {
        self.watch_failures.get_or_create(&OfKind { kind }).inc();
    }
}

fn app(app_id: &str) -> App {
    App { app_id: app_id.to_owned() }
}

/// Reads the sizes of the hub at scrape time, so that they never drift.
#[derive(Clone)]
pub struct Sizes(Weak<Hub>);

impl Sizes {
    /// The sizes of `hub`.
    pub fn of(hub: &Arc<Hub>) -> Self {
        Self(Arc::downgrade(hub))
    }
}

impl std::fmt::Debug for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sizes")
    }
}

/// Reads one size of a hub.
type Size = fn(&Hub, ApiKind) -> usize;

impl Collector for Sizes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(hub) = self.0.upgrade() else {
            return Ok(());
        };
        let gauges: [(&str, &str, Size); 2] = [
            ("dapr_operator_objects", "Objects served", Hub::objects),
            ("dapr_operator_streams", "Open update streams", Hub::streams),
        ];
        for (name, help, size) in gauges {
            let mut family =
                encoder.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?;
            for kind in ApiKind::ALL {
                let value = i64::try_from(size(&hub, kind)).unwrap_or(i64::MAX);
                let labels = [("kind", kind.name())];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
