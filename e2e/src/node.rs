//! A real one-node cluster: containerd, kubelet and kube-proxy in a network namespace of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::api::Api;
use crate::artifacts::NodeArtifacts;
use crate::command::{output, succeeds};
use crate::images::{Image, pause_image};
use crate::netns::{self, DNS_SERVICE_ADDRESS, NODE_ADDRESS, POD_RANGE};
use crate::processes::{Processes, Program};
use crate::progress::say;
use crate::state::State;

/// The node's name.
pub const NODE_NAME: &str = "dapr-e2e";
/// Where Debian keeps the CNI plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";
/// The folder in each control group hierarchy that holds all pods of this node, and nothing else.
pub const CGROUP: &str = "dapr-e2e";
/// Name of the pods' network.
const CNI_NETWORK: &str = "dapr-e2e";
/// Namespace of containerd in which the kubelet keeps its containers.
const CONTAINERD_NAMESPACE: &str = "k8s.io";

/// The node's container runtime, as far as a command needs it.
#[derive(Debug, Clone)]
pub struct Runtime {
    ctr: PathBuf,
    socket: PathBuf,
}

impl Runtime {
    /// The runtime of a node in this state folder.
    pub fn of(state: &State, containerd: &Path) -> Self {
        Self { ctr: containerd.join("ctr"), socket: socket(state) }
    }

    /// containerd's client, set to the kubelet's namespace.
    pub fn ctr(&self) -> Command {
        let mut ctr = Command::new(&self.ctr);
        ctr.arg("--address").arg(&self.socket).args(["--namespace", CONTAINERD_NAMESPACE]);
        ctr
    }

    /// Makes an image known to the node, in place of an earlier one of the same name.
    pub fn import(&self, archive: &Path) -> Result<()> {
        output(self.ctr().args(["images", "import", "--local"]).arg(archive)).map(drop)
    }

    /// Kills every container and forgets it, so that no shim stays behind.
    pub fn remove_containers(&self) -> Result<()> {
        for task in self.list(&["tasks", "list", "--quiet"])? {
            // A task may end by itself between the two calls.
            let _ = output(self.ctr().args(["tasks", "kill", "--all", "--signal", "SIGKILL", &task]));
            let _ = output(self.ctr().args(["tasks", "delete", "--force", &task]));
        }
        for container in self.list(&["containers", "list", "--quiet"])? {
            let _ = output(self.ctr().args(["containers", "delete", &container]));
        }
        Ok(())
    }

    fn list(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let text = output(self.ctr().args(arguments))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// Starts the node and waits until it is ready.
pub fn start(api: &Api<'_>, node: &NodeArtifacts, processes: &Processes, state: &State) -> Result<()> {
    say("starting containerd, kubelet and kube-proxy");
    start_containerd(node, processes, state)?;
    let pause = pause_image(&node.pause)?;
    let archive = state.path("images/pause.tar");
    pause.write(&archive)?;
    Runtime::of(state, &node.containerd).import(&archive)?;
    make_cgroup()?;
    processes.start(&kubelet(api, state)?)?;
    processes.start(&kube_proxy(api)?)?;
    let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    processes.wait_ready("kubelet", Duration::from_secs(90), || {
        output(api.client.kubectl().args(["get", "node", NODE_NAME, "-o", ready])).is_ok_and(|text| text == "True")
    })
}

fn start_containerd(node: &NodeArtifacts, processes: &Processes, state: &State) -> Result<()> {
    let config = state.write("containerd/config.toml", containerd_config(state)?)?;
    state.write("cni/10-pods.conflist", cni_config(state))?;
    let containerd = Program::new("containerd", node.containerd.join("containerd"))
        .args(["--config".to_owned(), config.display().to_string()])
        // containerd finds its shim and runc on the PATH.
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", node.containerd.display()))
        .in_netns(&netns::file());
    processes.start(&containerd)?;
    let runtime = Runtime::of(state, &node.containerd);
    // The kubelet gives up at once when the socket is missing.
    processes.wait_ready("containerd", Duration::from_mins(1), || {
        succeeds(runtime.ctr().args(["images", "list", "--quiet"]))
    })
}

fn socket(state: &State) -> PathBuf {
    state.path("containerd/containerd.sock")
}

fn containerd_config(state: &State) -> Result<String> {
    Ok(format!(
        r#"version = 3
root = "{root}"
state = "{run}"

[grpc]
address = "{socket}"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
# Root in a container or a small machine may not lower it.
restrict_oom_score_adj = true
# Inside the state folder, so that what is left over is known to be ours.
netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{CNI_PLUGINS}"]
conf_dir = "{cni}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
Root = "{runc}"

[plugins."io.containerd.nri.v1.nri"]
disable = true
"#,
        root = state.folder("containerd/root")?.display(),
        run = state.folder("containerd/run")?.display(),
        socket = socket(state).display(),
        runc = state.folder("containerd/runc")?.display(),
        pause = Image::pause_reference(),
        cni = state.folder("cni")?.display(),
    ))
}

/// Pods are routed, not bridged: between pods of one bridge the answers to a Service's address would
/// bypass the node's rules wherever the kernel's bridge filter is not loaded.
fn cni_config(state: &State) -> String {
    let config = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": CNI_NETWORK,
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": state.path("cni-addresses"),
                    "ranges": [[{ "subnet": POD_RANGE }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    config.to_string()
}

fn kubelet(api: &Api<'_>, state: &State) -> Result<Program> {
    let user = format!("system:node:{NODE_NAME}");
    let kubeconfig = api.kubeconfig("kubelet", &user, Some("system:nodes"))?;
    let serving = api.authority.server(NODE_NAME, &[NODE_NAME, NODE_ADDRESS])?;
    let certificate = state.write("pki/kubelet.crt", serving.certificate)?;
    let key = state.write_secret("pki/kubelet.key", serving.key)?;
    let resolv = state.write("resolv.conf", format!("nameserver {DNS_SERVICE_ADDRESS}\n"))?;
    let config = serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": state.path("pki/ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": certificate,
        "tlsPrivateKeyFile": key,
        "containerRuntimeEndpoint": format!("unix://{}", socket(state).display()),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{CGROUP}"),
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_SERVICE_ADDRESS],
        "resolvConf": resolv,
        "maxPods": 200,
        // Images come by import only, and a developer's disk is often nearly full.
        "evictionHard": { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "podLogsDir": state.folder("pod-logs")?,
        "volumePluginDir": state.folder("kubelet-plugins")?,
        // A changed ConfigMap or Secret reaches its pods quickly.
        "syncFrequency": "15s",
        "configMapAndSecretChangeDetectionStrategy": "Watch",
    });
    let config = state.write("kubelet.json", config.to_string())?;
    Ok(api.program("kubelet").args([
        format!("--config={}", config.display()),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--root-dir={}", state.folder("kubelet")?.display()),
        format!("--hostname-override={NODE_NAME}"),
        format!("--node-ip={NODE_ADDRESS}"),
    ]))
}

fn kube_proxy(api: &Api<'_>) -> Result<Program> {
    let kubeconfig = api.kubeconfig("kube-proxy", "system:kube-proxy", None)?;
    Ok(api.program("kube-proxy").args([
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--hostname-override={NODE_NAME}"),
        "--proxy-mode=iptables".into(),
        format!("--cluster-cidr={POD_RANGE}"),
        "--bind-address=127.0.0.1".into(),
        "--oom-score-adj=0".into(),
        // The limits of connection tracking are the machine's, not a namespace's.
        "--conntrack-max-per-core=0".into(),
        "--conntrack-tcp-timeout-established=0s".into(),
        "--conntrack-tcp-timeout-close-wait=0s".into(),
    ]))
}

/// The roots of the control group hierarchies: one each in version 1, one for all in version 2.
fn cgroup_roots() -> Vec<PathBuf> {
    let base = PathBuf::from("/sys/fs/cgroup");
    if base.join("cgroup.controllers").exists() {
        return vec![base];
    }
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

fn make_cgroup() -> Result<()> {
    for root in cgroup_roots() {
        let folder = root.join(CGROUP);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        if root.join("cgroup.controllers").exists() {
            let all = "+cpu +memory +pids +cpuset +io +hugetlb";
            for controller in all.split(' ') {
                // A kernel without one of them runs pods without that limit.
                let _ = fs::write(root.join("cgroup.subtree_control"), controller);
            }
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // Version 1 hands these to new groups empty, and an empty one runs nothing.
            if let Ok(value) = fs::read(root.join(file))
                && root.ends_with("cpuset")
            {
                let _ = fs::write(folder.join(file), value);
            }
        }
    }
    Ok(())
}

/// The ids of all processes in this node's pods.
pub fn pod_processes() -> Vec<i32> {
    let mut found = Vec::new();
    for root in cgroup_roots() {
        visit_cgroups(&root.join(CGROUP), &mut |folder| {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        });
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Removes the control groups of this node; they must be empty of processes.
pub fn remove_cgroups() {
    for root in cgroup_roots() {
        visit_cgroups(&root.join(CGROUP), &mut |folder| {
            // One that is still in use is reported by the check that ends `down`.
            let _ = fs::remove_dir(folder);
        });
    }
}

/// Visits a control group after those below it.
fn visit_cgroups(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        visit_cgroups(&entry.path(), visit);
    }
    if folder.exists() {
        visit(folder);
    }
}
