//! What a cluster has beside Kubernetes itself: names (CoreDNS) and a default StorageClass.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::api::Api;
use crate::artifacts::NodeArtifacts;
use crate::http;
use crate::netns::{self, DNS_SERVICE_ADDRESS, NODE_ADDRESS};
use crate::node::NODE_NAME;
use crate::processes::{Processes, Program};
use crate::progress::say;
use crate::state::State;

/// How many volumes there are: the control plane takes six, the rest is for tests that install it anew.
const VOLUMES: usize = 30;
/// What each volume says it holds; the chart asks for up to 16Gi.
const VOLUME_SIZE: &str = "20Gi";
/// The default StorageClass.
const STORAGE_CLASS: &str = "standard";

/// Starts CoreDNS and gives it its Service.
pub fn start_dns(api: &Api<'_>, node: &NodeArtifacts, processes: &Processes, state: &State) -> Result<()> {
    say("starting CoreDNS");
    let kubeconfig = api.kubeconfig("coredns", "coredns", None)?;
    api.client.apply(&dns_objects())?;
    let corefile = state.write("coredns/Corefile", corefile(&kubeconfig))?;
    let coredns = Program::new("coredns", node.coredns.join("coredns"))
        .args(["-conf".to_owned(), corefile.display().to_string()])
        .in_netns(&netns::file());
    processes.start(&coredns)?;
    processes.wait_ready("coredns", Duration::from_mins(1), || {
        http::get(NODE_ADDRESS, 8181, "/ready").is_ok_and(|answer| answer.status == 200)
    })
}

/// The default StorageClass, with folders of the state folder as its volumes.
///
/// They are `local` volumes, not `hostPath`: only to those does the kubelet apply a pod's `fsGroup`.
pub fn add_storage(api: &Api<'_>, state: &State) -> Result<()> {
    let mut items = vec![json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": { "storageclass.kubernetes.io/is-default-class": "true" },
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    })];
    for number in 0..VOLUMES {
        let name = format!("local-{number:02}");
        let folder = state.folder(Path::new("volumes").join(&name))?;
        items.push(volume(&name, &folder));
    }
    api.client.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))
}

fn volume(name: &str, folder: &Path) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": name },
        "spec": {
            "capacity": { "storage": VOLUME_SIZE },
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": { "path": folder },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME] },
            ]}]}},
        },
    })
}

/// Names of the cluster are answered from the API server; every other name does not exist, since
/// nothing leaves the namespace.
fn corefile(kubeconfig: &Path) -> String {
    format!(
        "cluster.local:53 in-addr.arpa:53 {{\n  bind {NODE_ADDRESS}\n  errors\n  ready {NODE_ADDRESS}:8181\n  \
         kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {}\n    pods insecure\n    ttl 1\n  }}\n}}\n\
         .:53 {{\n  bind {NODE_ADDRESS}\n  template ANY ANY {{\n    rcode NXDOMAIN\n  }}\n}}\n",
        kubeconfig.display()
    )
}

fn dns_objects() -> Value {
    let ports = json!([
        { "name": "dns", "protocol": "UDP", "port": 53 },
        { "name": "dns-tcp", "protocol": "TCP", "port": 53 },
    ]);
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "kube-dns", "namespace": "kube-system", "labels": { "k8s-app": "kube-dns" } },
            "spec": { "clusterIP": DNS_SERVICE_ADDRESS, "ports": ports },
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-node",
                "namespace": "kube-system",
                "labels": { "kubernetes.io/service-name": "kube-dns" },
            },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [NODE_ADDRESS], "conditions": { "ready": true } }],
            "ports": ports,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": "coredns" },
            "rules": [
                { "apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"] },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": "coredns" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "coredns" }],
        },
    ]})
}
