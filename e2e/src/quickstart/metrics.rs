//! Sums over Prometheus' text format, and the seven metrics that the user watches.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use super::access::{Access, Port};
use super::manifests::{APPLICATIONS, NAMESPACE};
use super::services;
use super::table::print_columns;

/// The sidecar's port for metrics, and the one on which it serves its metadata to the pod's network.
const METRICS_PORT: u16 = 9090;
const PUBLIC_PORT: u16 = 3501;

/// The user's metrics that sidecars serve.
const OF_SIDECARS: [&str; 5] = [
    "dapr_http_server_request_count",
    "dapr_http_client_roundtrip_latency",
    "dapr_component_pubsub_ingress_count",
    "dapr_component_pubsub_egress_count",
    "dapr_component_state_count",
];
/// The user's name for what daprd 1.18 counts only in its metadata.
const ACTIVE_ACTORS: &str = "dapr_runtime_actor_active_count";
/// The user's metric of the injector.
pub const INJECTIONS: &str = "dapr_sidecar_injection_requests_total";

/// Sums per metric name over all label sets and all pods that were added.
#[derive(Debug, Default, Clone)]
pub struct Scrape {
    sums: BTreeMap<String, f64>,
}

impl Scrape {
    /// What one pod exposes.
    pub fn of(text: &str) -> Self {
        let mut all = Self::default();
        for (name, value) in text.lines().filter(|line| !line.starts_with('#')).filter_map(sample) {
            *all.sums.entry(name.to_owned()).or_insert(0.0) += value;
        }
        all
    }

    /// Both together.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        for (name, value) in other.sums {
            *self.sums.entry(name).or_insert(0.0) += value;
        }
        self
    }

    /// The sum of a counter or gauge, or the number of observations of a histogram.
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.sums.get(name).or_else(|| self.sums.get(&format!("{name}_count"))).copied()
    }

    /// The mean of a histogram.
    pub fn mean(&self, name: &str) -> Option<f64> {
        let count = self.sums.get(&format!("{name}_count")).filter(|count| **count > 0.0)?;
        Some(self.sums.get(&format!("{name}_sum"))? / count)
    }
}

/// Name and value of a line such as `name{label="a b"} 3 1700000000`.
fn sample(line: &str) -> Option<(&str, f64)> {
    let end = line.find(['{', ' '])?;
    let rest = if line.as_bytes()[end] == b'{' { &line[line.rfind('}')? + 1..] } else { &line[end..] };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((&line[..end], value))
}

/// The user's seven metrics with their present values, as a table.
pub async fn seven(access: &Access) -> Result<String> {
    let mut sidecars = Scrape::default();
    let mut actors = 0;
    for (app, _) in APPLICATIONS {
        for pod in access.pod_names(NAMESPACE, app).await? {
            let port = |number| Port { namespace: NAMESPACE, pod: &pod, number };
            let scraped = access.ask(port(METRICS_PORT), "GET", "/metrics", None).await?;
            sidecars = sidecars.with(Scrape::of(&scraped.body));
            actors += active_actors(&access.ask_json(port(PUBLIC_PORT), "GET", "/v1.0/metadata", None).await?);
        }
    }
    let mut lines = Vec::new();
    for name in OF_SIDECARS {
        let value = match (sidecars.sum(name), sidecars.mean(name)) {
            (Some(count), Some(mean)) => format!("{count} calls, mean {mean:.1} ms"),
            (Some(sum), None) => sum.to_string(),
            (None, _) => "no series yet".into(),
        };
        lines.push(vec![name.to_owned(), value]);
    }
    let active = match sidecars.sum(ACTIVE_ACTORS) {
        Some(sum) => sum.to_string(),
        None => format!("{actors} by the sidecars' metadata (daprd 1.18.3 has no such metric)"),
    };
    lines.push(vec![ACTIVE_ACTORS.to_owned(), active]);
    let injector = services::scrape(access, "dapr-sidecar-injector").await?;
    let injections = injector.sum(INJECTIONS).map_or("no series yet".into(), |sum| sum.to_string());
    lines.push(vec![INJECTIONS.to_owned(), injections]);
    Ok(print_columns(&["METRIC", "NOW, ALL PODS TOGETHER"], &lines))
}

/// Active actors of the application in a sidecar's metadata; its own workflow actors are left out.
fn active_actors(metadata: &Value) -> u64 {
    let types = metadata.pointer("/actorRuntime/activeActors").and_then(Value::as_array);
    let own = types.into_iter().flatten().filter(|t| !t["type"].as_str().unwrap_or("").starts_with("dapr.internal."));
    own.filter_map(|t| t["count"].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_over_labels_and_pods() {
        let one = Scrape::of("# HELP a x\na{l=\"1 }\"} 2\na{l=\"2\"} 3 1700000000\nh_sum 10\nh_count 4\n");
        let scrape = one.with(Scrape::of("a 5\n"));
        assert_eq!(scrape.sum("a"), Some(10.0));
        assert_eq!(scrape.sum("h"), Some(4.0));
        assert_eq!(scrape.mean("h"), Some(2.5));
        assert_eq!(scrape.sum("b"), None);
    }

    #[test]
    fn workflow_actors_are_not_the_users() {
        let metadata = serde_json::json!({ "actorRuntime": { "activeActors": [
            { "type": "OrderActor", "count": 7 }, { "type": "dapr.internal.fuse.payment-service.workflow", "count": 2 },
        ] } });
        assert_eq!(active_actors(&metadata), 7);
    }
}
