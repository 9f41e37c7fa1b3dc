//! What the machine itself must have, and its installation where that is allowed.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{self, find};
use crate::progress::say;

/// A Debian package and how to see that what it brings is there.
struct Need {
    package: &'static str,
    is_there: fn() -> bool,
}

/// For building programs and downloading backends.
const BUILDING: &[Need] = &[
    Need { package: "golang-go", is_there: || find("go").is_some() },
    Need { package: "gcc", is_there: || find("cc").is_some() },
    Need { package: "libc6-dev", is_there: || has_static_libc() },
    Need {
        package: "python3-pip",
        is_there: || command::succeeds(Command::new("python3").args(["-m", "pip", "--version"])),
    },
    Need { package: "maven", is_there: || find("mvn").is_some() },
    Need { package: "openjdk-17-jre-headless", is_there: || find("java").is_some() },
];

/// For a node of our own.
const NODE: &[Need] = &[
    Need { package: "runc", is_there: || find("runc").is_some() },
    Need { package: "iptables", is_there: || find("iptables").is_some() },
    Need { package: "iproute2", is_there: || find("ip").is_some() },
    Need { package: "conntrack", is_there: || find("conntrack").is_some() },
    Need { package: "procps", is_there: || find("sysctl").is_some() },
    Need { package: "util-linux", is_there: || find("nsenter").is_some() },
    Need { package: "ca-certificates", is_there: || Path::new("/etc/ssl/certs/ca-certificates.crt").exists() },
    Need { package: "containernetworking-plugins", is_there: || Path::new("/usr/lib/cni/ptp").exists() },
];

/// Which of the needs to meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Building and downloading.
    Build,
    /// Building, downloading and running a node.
    Node,
}

/// Installs what is missing where root and `apt-get` allow it; else says in one line what to install.
pub fn ensure(purpose: Purpose) -> Result<()> {
    let node = if purpose == Purpose::Node { NODE } else { &[] };
    let missing: Vec<&str> =
        BUILDING.iter().chain(node).filter(|need| !(need.is_there)()).map(|need| need.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !rustix::process::geteuid().is_root() || find("apt-get").is_none() {
        bail!("missing on this machine: {list} (names of Debian packages); install them and try again");
    }
    say(format!("installing Debian packages: {list}"));
    let apt = |arguments: &[&str]| {
        command::output(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(arguments))
    };
    apt(&["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)?;
    Ok(())
}

fn has_static_libc() -> bool {
    let mut cc = Command::new("cc");
    cc.arg("-print-file-name=libc.a");
    // The compiler repeats the bare name when it knows no such file.
    command::output(&mut cc).is_ok_and(|path| path.trim().starts_with('/'))
}
