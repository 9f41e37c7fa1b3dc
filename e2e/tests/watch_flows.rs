//! The chart's NetworkPolicies against the connections that the control plane really has.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use e2e::flows::{self, Direction, Flow};
use e2e::modules::package_folder;
use e2e::quickstart::access::Access;
use e2e::quickstart::services;
use e2e::{Cluster, helm};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::ListParams;
use serde::Deserialize;
use serde_json::Value;

/// The kubelet's probes: no NetworkPolicy keeps a node from its own pods.
const HEALTH_PORT: u16 = 8080;

/// Who has which address.
struct Addresses {
    /// Label `app` of the pod.
    apps: BTreeMap<Ipv4Addr, String>,
    services: BTreeMap<Ipv4Addr, Service>,
    nodes: Vec<Ipv4Addr>,
}

impl Addresses {
    async fn read(access: &Access) -> Result<Self> {
        let all = ListParams::default();
        let mut apps = BTreeMap::new();
        for pod in Api::<Pod>::all(access.client()).list(&all).await? {
            let app = pod.metadata.labels.unwrap_or_default().remove("app").unwrap_or_default();
            if let Some(address) = pod.status.and_then(|status| status.pod_ip?.parse().ok()) {
                apps.insert(address, app);
            }
        }
        let services = Api::<Service>::all(access.client()).list(&all).await?.into_iter();
        let services = services.filter_map(|s| Some((s.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()?, s)));
        let nodes = Api::<Node>::all(access.client()).list(&all).await?.into_iter();
        let nodes = nodes.flat_map(|node| node.status.and_then(|status| status.addresses).unwrap_or_default());
        Ok(Self {
            apps,
            services: services.collect(),
            nodes: nodes.filter_map(|address| address.address.parse().ok()).collect(),
        })
    }

    /// The port and the label `app` that a policy sees: behind a Service those of the pod, because
    /// kube-proxy has put the pod's address in place by then.
    fn behind(&self, flow: Flow) -> (u16, Option<&str>) {
        let Some(service) = self.services.get(&flow.peer).and_then(|service| service.spec.as_ref()) else {
            return (flow.port, self.apps.get(&flow.peer).map(String::as_str));
        };
        let port = service.ports.iter().flatten().find(|port| port.port == i32::from(flow.port));
        let target = port.and_then(|port| match port.target_port {
            Some(IntOrString::Int(number)) => u16::try_from(number).ok(),
            _ => None,
        });
        let app = service.selector.as_ref().and_then(|selector| selector.get("app")).map(String::as_str);
        (target.unwrap_or(flow.port), app)
    }
}

/// The policies as the chart renders them, by the workload that they are for.
fn policies() -> Result<BTreeMap<String, Value>> {
    let chart = package_folder().join("../charts/dapr");
    let mut render = Cluster::current()?.helm();
    render.arg("template").arg(helm::RELEASE).arg(chart).args(["--namespace", helm::NAMESPACE]);
    render.args(["--set", "global.networkPolicy.enabled=true", "--show-only", "templates/networkpolicies.yaml"]);
    let rendered = render.output().context("run helm")?;
    ensure!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let mut all = BTreeMap::new();
    for document in serde_yaml::Deserializer::from_slice(&rendered.stdout) {
        let policy = Value::deserialize(document)?;
        if let Some(app) = policy.pointer("/spec/podSelector/matchLabels/app").and_then(Value::as_str) {
            all.insert(app.to_owned(), policy.clone());
        }
    }
    Ok(all)
}

#[tokio::test]
async fn every_connection_of_the_control_plane_is_one_that_its_network_policy_allows() -> Result<()> {
    let access = Access::running().await?;
    let (addresses, policies) = (Addresses::read(&access).await?, policies()?);
    let mut seen = BTreeMap::new();
    for service in services::look(&access).await? {
        let Some(process) = service.process else {
            println!("{}: its connections cannot be read from this machine's /proc", service.pod);
            return Ok(());
        };
        let app = services::SERVICES.iter().find(|known| known.0 == service.name).map_or("", |known| known.1);
        let policy = policies.get(app).with_context(|| format!("{app} has no NetworkPolicy"))?;
        for flow in flows::of_process(&process)? {
            let (port, peer) = match flow.direction {
                Direction::Egress => addresses.behind(flow),
                Direction::Ingress => (flow.port, addresses.apps.get(&flow.peer).map(String::as_str)),
            };
            let of_the_node = flow.direction == Direction::Ingress && addresses.nodes.contains(&flow.peer);
            let allowed = flows::allows(policy, flow.direction, port, peer) || (of_the_node && port == HEALTH_PORT);
            ensure!(allowed, "{}: {flow:?} to port {port} of {peer:?} is not in its NetworkPolicy", service.pod);
            *seen.entry((app, flow.direction, port)).or_insert(0) += 1;
        }
    }
    println!("connections seen, by service, direction and port: {seen:?}");
    // These are always there, so the comparison was not one with nothing.
    for flow in [
        ("dapr-operator", Direction::Ingress, 6500),
        ("dapr-operator", Direction::Egress, 6443),
        ("dapr-placement-server", Direction::Ingress, 50005),
        ("dapr-placement-server", Direction::Egress, 8201),
        ("dapr-scheduler-server", Direction::Ingress, 50006),
    ] {
        ensure!(seen.contains_key(&flow), "{flow:?} was not seen");
    }
    Ok(())
}
