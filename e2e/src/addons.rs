//! What a cluster has beside Kubernetes itself: names (CoreDNS) and a default StorageClass.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::api::Api;
use crate::artifacts::NodeArtifacts;
use crate::http;
use crate::netns::{self, DNS_SERVICE_ADDRESS, NODE_ADDRESS};
use crate::processes::{Processes, Program};
use crate::progress::say;
use crate::state::State;

/// Where the controller-manager's built-in provisioner puts volumes; the path is fixed in Kubernetes.
const VOLUMES: &str = "/tmp/hostpath_pv";
/// A file in that folder that says it was made by us and is ours to remove.
const VOLUMES_MARK: &str = ".dapr-control-plane-e2e";

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
    processes.wait_ready("coredns", Duration::from_secs(60), || {
        http::get(NODE_ADDRESS, 8181, "/ready").is_ok_and(|answer| answer.status == 200)
    })
}

/// The default StorageClass: the controller-manager's own provisioner of folders.
pub fn add_storage(api: &Api<'_>) -> Result<()> {
    prepare_volumes()?;
    api.client.apply(&json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "standard",
            "annotations": { "storageclass.kubernetes.io/is-default-class": "true" },
        },
        "provisioner": "kubernetes.io/host-path",
        "reclaimPolicy": "Delete",
    }))
}

/// Removes the folder of volumes if we made it.
pub fn remove_volumes() -> Result<()> {
    let folder = PathBuf::from(VOLUMES);
    if folder.join(VOLUMES_MARK).exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {VOLUMES}"))?;
    }
    Ok(())
}

fn prepare_volumes() -> Result<()> {
    match fs::create_dir(VOLUMES) {
        Ok(()) => Ok(fs::write(Path::new(VOLUMES).join(VOLUMES_MARK), "")?),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("create {VOLUMES}")),
    }
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
