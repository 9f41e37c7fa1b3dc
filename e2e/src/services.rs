//! The control plane's services as plain processes beside an API server that runs no pods.
//!
//! Each takes its flags and environment from the rendered chart. What a kubelet would give it comes
//! from here: a kubeconfig with its service account's token, a token for sentry bound to its
//! (pending) pod, the trust anchors. Webhooks are served but not called, because no proxy leads
//! from the API server's Services to these processes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::api::{API_PORT, Client};
use crate::command::output;
use crate::components::Binaries;
use crate::helm::{Chart, NAMESPACE};
use crate::http;
use crate::plain::ADDRESS;
use crate::processes::{Processes, Program, wait_until};
use crate::progress::say;
use crate::state::State;

/// The services in the order of their start, each with ports of its own for health and metrics.
const SERVICES: [Service; 4] = [
    Service { name: "sentry", health: 18_081, metrics: 19_091 },
    Service { name: "operator", health: 18_082, metrics: 19_092 },
    Service { name: "placement", health: 18_083, metrics: 19_093 },
    Service { name: "injector", health: 18_084, metrics: 19_094 },
];
/// Where sentry listens by default.
const SENTRY_PORT: u16 = 50_001;
/// Where the chart mounts the trust anchors.
const ANCHORS: &str = "/var/run/secrets/dapr.io/tls";
const READY: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Copy)]
struct Service {
    name: &'static str,
    health: u16,
    metrics: u16,
}

/// The values that this way of running needs.
pub fn values(state: &State) -> Result<PathBuf> {
    let text =
        format!("global:\n  mtls:\n    sentryAddress: {ADDRESS}:{SENTRY_PORT}\n  scheduler:\n    enabled: false\n");
    state.write("services/values.yaml", text)
}

/// Puts the chart's objects in place and starts the services.
pub fn start(chart: &Chart, client: &Client, binaries: &Binaries, state: &State) -> Result<()> {
    say("putting the chart's objects in place");
    chart.install_objects()?;
    let rendered = chart.render()?;
    let processes = Processes::of(state)?;
    for service in SERVICES {
        say(format!("starting {}", service.name));
        let container = Container::find(&rendered, service.name)?;
        let given = Given::make(service.name, &container, client, state)?;
        let program = program(service, &container, &given, binaries)?;
        // New binaries and new values take effect on every `up`.
        processes.stop(service.name)?;
        processes.start(&program)?;
        processes.wait_ready(service.name, READY, || {
            http::get(ADDRESS, service.health, "/healthz").is_ok_and(|answer| answer.status == 200)
        })?;
    }
    say("the control plane is ready; its webhooks are not called in this way of running");
    Ok(())
}

/// What the chart says of a service's container.
#[derive(Debug)]
struct Container {
    account: String,
    args: Vec<String>,
    env: Vec<Value>,
}

impl Container {
    fn find(rendered: &str, name: &str) -> Result<Self> {
        for document in serde_yaml::Deserializer::from_str(rendered) {
            let value = Value::deserialize(document).context("understand the rendered chart")?;
            let pod = &value["spec"]["template"]["spec"];
            let container = &pod["containers"][0];
            if container["command"][0] == format!("/{name}") {
                let texts = container["args"].as_array().into_iter().flatten();
                return Ok(Self {
                    account: pod["serviceAccountName"].as_str().unwrap_or("default").to_owned(),
                    args: texts.filter_map(|text| text.as_str().map(str::to_owned)).collect(),
                    env: container["env"].as_array().cloned().unwrap_or_default(),
                });
            }
        }
        bail!("the rendered chart has no workload that runs /{name}")
    }
}

/// What a kubelet would give the service.
#[derive(Debug)]
struct Given {
    pod: String,
    kubeconfig: PathBuf,
    sentry_token: PathBuf,
    anchors: PathBuf,
}

impl Given {
    fn make(name: &str, container: &Container, client: &Client, state: &State) -> Result<Self> {
        let pod = pending_pod(&container.account, client)?;
        let api_token = token(&container.account, client, &[])?;
        let authority = std::fs::read(state.path("pki/ca.crt")).context("read the cluster's CA")?;
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: 'https://{ADDRESS}:{API_PORT}', certificate-authority-data: {}}}}}]\n\
             users: [{{name: c, user: {{token: '{api_token}'}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: c, namespace: {NAMESPACE}}}}}]\n",
            STANDARD.encode(authority)
        );
        let folder = PathBuf::from("services").join(name);
        let anchors = state.folder(folder.join("tls"))?;
        let mut sentry_token = String::new();
        if name != "sentry" {
            let bound = ["--bound-object-kind=Pod", &format!("--bound-object-name={pod}"), &audience(client)?];
            sentry_token = token(&container.account, client, &bound)?;
            state.write(folder.join("tls/ca.crt"), trust_anchors(client)?)?;
        }
        Ok(Self {
            pod,
            kubeconfig: state.write_secret(folder.join("kubeconfig"), kubeconfig)?,
            sentry_token: state.write_secret(folder.join("token"), sentry_token)?,
            anchors,
        })
    }
}

fn program(service: Service, container: &Container, given: &Given, binaries: &Binaries) -> Result<Program> {
    let anchors = given.anchors.display().to_string();
    let mut program = Program::new(service.name, binaries.path(service.name)?)
        .env("KUBECONFIG", given.kubeconfig.display().to_string())
        // The check is meant for containers; here the user is whoever runs the cluster.
        .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true");
    if service.name != "sentry" {
        program = program.env("DAPR_SENTRY_TOKEN_FILE", given.sentry_token.display().to_string());
    }
    for variable in &container.env {
        let name = variable["name"].as_str().unwrap_or_default();
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("metadata.namespace") => NAMESPACE.to_owned(),
            Some("metadata.name") => given.pod.clone(),
            Some(_) => ADDRESS.to_owned(),
            None => variable["value"].as_str().unwrap_or_default().replace(ANCHORS, &anchors),
        };
        program = program.env(name, value);
    }
    let mut args: Vec<String> = without_ports(&container.args).map(|text| text.replace(ANCHORS, &anchors)).collect();
    for (name, value) in &program.env {
        // As a kubelet does with arguments.
        for arg in &mut args {
            *arg = arg.replace(&format!("$({name})"), value);
        }
    }
    args.push(format!("--healthz-port={}", service.health));
    args.push(format!("--metrics-port={}", service.metrics));
    Ok(program.args(args))
}

/// The arguments less the two ports that would clash between the services.
fn without_ports(args: &[String]) -> impl Iterator<Item = &str> {
    let is_port = |text: &str| ["--metrics-port", "--healthz-port"].contains(&text);
    args.iter().enumerate().filter_map(move |(index, text)| {
        let is_value = index > 0 && is_port(&args[index - 1]);
        let joined = text.split_once('=').is_some_and(|(flag, _)| is_port(flag));
        (!is_value && !joined && !is_port(text)).then_some(text.as_str())
    })
}

/// The pod that the controllers made for the workload; it waits for a node that never comes.
fn pending_pod(account: &str, client: &Client) -> Result<String> {
    let names = "jsonpath={range .items[*]}{.spec.serviceAccountName} {.metadata.name}{'\\n'}{end}";
    let mut found = None;
    wait_until(READY, || {
        let list = output(client.kubectl().args(["get", "pods", "-n", NAMESPACE, "-o", names])).unwrap_or_default();
        found = list.lines().find_map(|line| line.strip_prefix(&format!("{account} ")).map(str::to_owned));
        found.is_some()
    });
    found.with_context(|| format!("the controllers made no pod with service account {account}"))
}

fn token(account: &str, client: &Client, more: &[&str]) -> Result<String> {
    let mut kubectl = client.kubectl();
    kubectl.args(["create", "token", account, "-n", NAMESPACE, "--duration=24h"]).args(more);
    Ok(output(&mut kubectl)?.trim().to_owned())
}

/// The audience that sentry asks for: its own identity.
fn audience(client: &Client) -> Result<String> {
    let path = "jsonpath={.spec.mtls.controlPlaneTrustDomain}";
    let domain = output(client.kubectl().args(["get", "configuration", "daprsystem", "-n", NAMESPACE, "-o", path]))?;
    let domain = if domain.is_empty() { "cluster.local" } else { &domain };
    Ok(format!("--audience=spiffe://{domain}/ns/{NAMESPACE}/dapr-sentry"))
}

fn trust_anchors(client: &Client) -> Result<String> {
    let mut anchors = String::new();
    wait_until(READY, || {
        let get = ["get", "configmap", "dapr-trust-bundle", "-n", NAMESPACE, "-o", "jsonpath={.data.ca\\.crt}"];
        anchors = output(client.kubectl().args(get)).unwrap_or_default();
        !anchors.is_empty()
    });
    if anchors.is_empty() {
        bail!("ConfigMap {NAMESPACE}/dapr-trust-bundle has no ca.crt: sentry did not store its bundle");
    }
    Ok(anchors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_left_out_in_both_spellings() {
        let args: Vec<String> =
            ["--a", "1", "--metrics-port", "9090", "--healthz-port=8080", "--b"].map(String::from).into();
        assert_eq!(without_ports(&args).collect::<Vec<_>>(), ["--a", "1", "--b"]);
    }

    #[test]
    fn a_service_is_found_by_its_command() {
        let rendered =
            "spec: {template: {spec: {serviceAccountName: s, containers: [{command: [/sentry], args: [--x]}]}}}\n";
        let container = Container::find(rendered, "sentry").unwrap();
        assert_eq!((container.account.as_str(), container.args.as_slice()), ("s", ["--x".to_owned()].as_slice()));
        assert!(Container::find(rendered, "operator").is_err());
    }
}
