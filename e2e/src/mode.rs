//! How a cluster can be had on this machine: the best way that works, and why not a better one.

use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::command;

/// A way to run the cluster, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A cluster of kind in Docker.
    Kind,
    /// One real node in a network namespace of its own, from programs built here; pods really run.
    Node,
    /// API server, etcd and controller-manager as plain processes; our services beside them.
    Processes,
}

/// What the machine offers.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "four independent observations")]
pub struct Machine {
    /// A Docker engine answers.
    pub docker: bool,
    /// The `kind` program is there.
    pub kind: bool,
    /// The system is Linux.
    pub linux: bool,
    /// The user is root.
    pub root: bool,
}

impl Machine {
    /// Looks at this machine.
    pub fn look() -> Self {
        Self {
            docker: command::succeeds(Command::new("docker").arg("info")),
            kind: command::succeeds(Command::new("kind").arg("version")),
            linux: cfg!(target_os = "linux"),
            root: rustix::process::geteuid().is_root(),
        }
    }

    /// The best way that works here and the reason in words; none where nothing works.
    pub fn choose(self) -> Option<(Mode, &'static str)> {
        match self {
            Self { docker: true, kind: true, .. } => Some((Mode::Kind, "docker and kind work")),
            Self { linux: false, .. } => None,
            Self { root: false, .. } => {
                Some((Mode::Processes, "neither docker with kind nor root: no pods, our services as plain processes"))
            }
            Self { docker: true, .. } => {
                Some((Mode::Node, "docker works but kind is missing; Linux and root allow a node of our own"))
            }
            Self { .. } => Some((Mode::Node, "no Docker engine answers; Linux and root allow a node of our own")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: Machine = Machine { docker: false, kind: false, linux: true, root: false };

    #[test]
    fn kind_is_chosen_only_if_both_docker_and_kind_work() {
        assert_eq!(Machine { docker: true, kind: true, ..BARE }.choose().unwrap().0, Mode::Kind);
        assert_eq!(Machine { docker: true, root: true, ..BARE }.choose().unwrap().0, Mode::Node);
        assert_eq!(Machine { kind: true, root: true, ..BARE }.choose().unwrap().0, Mode::Node);
    }

    #[test]
    fn another_system_needs_docker_with_kind() {
        assert!(Machine { linux: false, root: true, ..BARE }.choose().is_none());
        assert!(Machine { linux: false, docker: true, kind: true, ..BARE }.choose().is_some());
    }

    #[test]
    fn without_root_there_are_plain_processes() {
        assert_eq!(BARE.choose().unwrap().0, Mode::Processes);
    }
}
