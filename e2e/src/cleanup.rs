//! Stopping a cluster so that nothing stays behind, whether it ran well or broke off half-way.
//!
//! What is ended is known to be ours by one of four signs: its recorded identity, the network
//! namespace, the control group of our pods, or containerd's socket in our state folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::netns;
use crate::node::{CGROUP, Runtime, pod_processes, remove_cgroups};
use crate::processes::{Processes, find, wait_until};
use crate::progress::say;
use crate::state::State;

/// The order in which programs are stopped; those that are not named come after `kubelet`.
const FIRST: [&str; 1] = ["kubelet"];
const LAST: [&str; 5] = ["containerd", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"];
/// How long killed processes may take to be gone.
const LEFTOVERS_END: Duration = Duration::from_secs(20);
/// Where containerd puts the sockets of its shims; the path is fixed in containerd.
const SHIM_SOCKETS: &str = "/run/containerd";
/// Where the kubelet puts links to the logs of containers; the path is fixed in Kubernetes.
const CONTAINER_LOGS: &str = "/var/log/containers";
/// Where the kubelet waits for device plugins; the path is fixed in Kubernetes.
const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";
/// Where the network plugins remember what they did; the path is fixed in their library.
const CNI_RESULTS: &str = "/var/lib/cni/results";

/// Stops everything of the cluster in `state` and removes the folder.
///
/// `containerd` is the folder of its programs, where the cluster has a node.
pub fn down(state: &State, containerd: Option<&Path>) -> Result<()> {
    if !state.root().exists() && !netns::exists() {
        return Ok(());
    }
    say("stopping the cluster");
    // A cluster of plain processes has no node; the namespace may be that of another state folder.
    let has_node = containerd.is_some() || !state.root().exists();
    let processes = Processes::of(state)?;
    stop_programs(&processes, state, containerd)?;
    if has_node {
        end_leftovers(state)?;
        unmount_below(state.root())?;
        remove_cgroups();
        netns::delete()?;
        remove_traces(state);
        check_nothing_is_left()?;
    }
    fs::remove_dir_all(state.root()).with_context(|| format!("remove {}", state.root().display()))
}

fn stop_programs(processes: &Processes, state: &State, containerd: Option<&Path>) -> Result<()> {
    for name in FIRST {
        processes.stop(name)?;
    }
    if let Some(folder) = containerd.filter(|_| processes.is_alive("containerd")) {
        Runtime::of(state, folder).remove_containers()?;
    }
    for name in processes.names().iter().filter(|name| !LAST.contains(&name.as_str())) {
        processes.stop(name)?;
    }
    for name in LAST {
        processes.stop(name)?;
    }
    Ok(())
}

/// Ends what a crashed run left: containers whose shims are gone, shims, programs without a record.
fn end_leftovers(state: &State) -> Result<()> {
    let in_pods = pod_processes();
    let socket = state.path("containerd/containerd.sock").display().to_string();
    let ours = |pid: i32| in_pods.contains(&pid) || netns::contains(pid) || is_shim_of(pid, &socket);
    // Nobody is left to hand anything over to, so none is asked first.
    let left = find(ours);
    for identity in &left {
        identity.signal(Signal::KILL);
    }
    if !wait_until(LEFTOVERS_END, || left.iter().all(|identity| !identity.is_alive())) {
        bail!("processes of the cluster do not end, among them {:?}", left.iter().find(|one| one.is_alive()));
    }
    Ok(())
}

fn is_shim_of(pid: i32, socket: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    arguments.next().is_some_and(|program| program.ends_with("containerd-shim-runc-v2"))
        && arguments.any(|argument| argument == socket)
}

/// Unmounts everything below a folder, the latest first.
fn unmount_below(folder: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let mut points: Vec<PathBuf> = table.lines().filter_map(mount_point).filter(|p| p.starts_with(folder)).collect();
    points.reverse();
    for point in points {
        unmount(&point, UnmountFlags::DETACH).with_context(|| format!("unmount {}", point.display()))?;
    }
    Ok(())
}

/// The fifth field of a line of mountinfo, with its octal escapes undone.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    Some(field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\").into())
}

/// Removes what programs left at places that cannot be configured. Files of others stay.
fn remove_traces(state: &State) {
    remove_matching(CONTAINER_LOGS, |path| fs::read_link(path).is_ok_and(|to| to.starts_with(state.root())));
    let ours = state.root().display().to_string();
    // Each names the network namespace of its pod, which lies in the state folder.
    remove_matching(CNI_RESULTS, |path| fs::read_to_string(path).is_ok_and(|text| text.contains(&ours)));
    // A socket of a running shim would refuse no connection; these have nobody behind them.
    remove_matching(&format!("{SHIM_SOCKETS}/s"), |path| {
        std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    if !Path::new("/var/lib/kubelet/config.yaml").exists() {
        remove_matching(DEVICE_PLUGINS, |path| {
            path.ends_with("kubelet.sock") || path.ends_with("kubelet_internal_checkpoint")
        });
    }
    let emptied = [
        CONTAINER_LOGS,
        CNI_RESULTS,
        "/var/lib/cni",
        "/run/containerd/s",
        "/run/containerd/runc",
        SHIM_SOCKETS,
        DEVICE_PLUGINS,
        "/var/lib/kubelet",
    ];
    for folder in emptied {
        // Only succeeds where nothing else is in it.
        let _ = fs::remove_dir(folder);
    }
}

fn remove_matching(folder: &str, matches: impl Fn(&Path) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if matches(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn check_nothing_is_left() -> Result<()> {
    let pods = pod_processes();
    if !pods.is_empty() {
        bail!("processes of pods still run: {pods:?} (control group {CGROUP})");
    }
    if netns::exists() {
        bail!("network namespace {} is still there", netns::NAME);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_a_space_is_read_back() {
        let line = r"36 35 98:0 / /var/a\040b rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from("/var/a b")));
    }
}
