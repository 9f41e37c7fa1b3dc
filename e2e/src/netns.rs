//! The network namespace that a local node runs in.
//!
//! It has no default route: nothing in it can leave the machine, and its ports never clash with
//! anything. One pair of virtual interfaces joins it to the machine, for `kubectl` and the tests.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{output, succeeds};

/// Name of the namespace.
pub const NAME: &str = "dapr-e2e";
/// The node's address; the API server and the backends listen on it.
pub const NODE_ADDRESS: &str = "172.31.0.1";
/// Addresses of Services.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The API server's own Service.
pub const API_SERVICE_ADDRESS: &str = "10.96.0.1";
/// The DNS server's Service.
pub const DNS_SERVICE_ADDRESS: &str = "10.96.0.10";
/// Addresses of pods.
pub const POD_RANGE: &str = "10.244.0.0/16";

const HOST_INTERFACE: &str = "dapr-e2e";
const HOST_ADDRESS: &str = "172.31.0.5";
const INNER_ADDRESS: &str = "172.31.0.6";

/// The file that stands for the namespace.
pub fn file() -> PathBuf {
    PathBuf::from("/var/run/netns").join(NAME)
}

/// Whether the namespace is there.
pub fn exists() -> bool {
    file().exists()
}

/// A command that runs inside.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    // Not `ip netns exec`: that would give it a mount namespace of its own as well, and what the
    // kubelet mounts would not reach containerd.
    let mut inside = Command::new("nsenter");
    inside.arg(format!("--net={}", file().display())).arg(program);
    inside
}

/// Makes the namespace with its addresses and routes.
pub fn create() -> Result<()> {
    ip(&["netns", "add", NAME])?;
    ip_inside("link set lo up")?;
    // A bridge without ports is an interface that is always up: it carries the node's address, and
    // the route of the Service range leads to it, without which a call to a Service fails with
    // "network is unreachable" before kube-proxy's rules get to see it.
    ip_inside("link add node0 type bridge")?;
    ip_inside(&format!("addr add {NODE_ADDRESS}/32 dev node0"))?;
    ip_inside("link set node0 up")?;
    ip_inside(&format!("route add {SERVICE_RANGE} dev node0 src {NODE_ADDRESS}"))?;
    ip(&["link", "add", HOST_INTERFACE, "type", "veth", "peer", "name", "host0", "netns", NAME])?;
    ip(&["addr", "add", &format!("{HOST_ADDRESS}/30"), "dev", HOST_INTERFACE])?;
    ip(&["link", "set", HOST_INTERFACE, "up"])?;
    ip_inside(&format!("addr add {INNER_ADDRESS}/30 dev host0"))?;
    ip_inside("link set host0 up")?;
    for range in [&format!("{NODE_ADDRESS}/32"), SERVICE_RANGE, POD_RANGE] {
        ip(&["route", "add", range, "via", INNER_ADDRESS, "dev", HOST_INTERFACE])
            .with_context(|| format!("{range} is already routed on this machine"))?;
    }
    output(command("sysctl").args(["-q", "-w", "net.ipv4.ip_forward=1"]))?;
    Ok(())
}

/// Removes the namespace, its interfaces and the machine's routes to it.
pub fn delete() -> Result<()> {
    if succeeds(Command::new("ip").args(["link", "show", HOST_INTERFACE])) {
        ip(&["link", "delete", HOST_INTERFACE])?;
    }
    if exists() {
        ip(&["netns", "delete", NAME])?;
    }
    Ok(())
}

/// Whether the process is in this namespace.
pub fn contains(pid: i32) -> bool {
    let inode = |path: PathBuf| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let own = inode(file());
    own.is_some() && inode(PathBuf::from(format!("/proc/{pid}/ns/net"))) == own
}

fn ip(args: &[&str]) -> Result<()> {
    output(Command::new("ip").args(args)).map(drop)
}

fn ip_inside(line: &str) -> Result<()> {
    output(Command::new("ip").args(["-n", NAME]).args(line.split(' '))).map(drop)
}
