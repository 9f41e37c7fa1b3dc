//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bench::Bench;
use crate::components::ControlPlane;
use crate::mode::Mode;

/// A local Kubernetes cluster with our control plane, real sidecars and real backends.
#[derive(Debug, Parser)]
#[command(name = "e2e", version, about, long_about = LONG)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const LONG: &str = "A local Kubernetes cluster with our control plane, real sidecars and real backends.\n\n\
With Docker and kind it uses them. Else, on Linux as root, it builds Kubernetes from pinned Go modules and \
runs one real node in a network namespace of its own. Else it runs the API server and our services as plain \
processes. It says which one it chose and why.\n\n\
Built things are kept in ${XDG_CACHE_HOME:-$HOME/.cache}/dapr-control-plane (DAPRCP_CACHE names another \
folder); the running cluster lives in /var/lib/dapr-control-plane or, without root, in \
${XDG_STATE_HOME:-$HOME/.local/state}/dapr-control-plane (DAPRCP_STATE names another folder).";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring the cluster up: Kubernetes, backends, images, chart. Again: bring it up to date.
    Up(Up),
    /// `up`, then apply the acceptance manifests, try every building block and print the table.
    Run(Up),
    /// `up`, then the end-to-end tests.
    Test(Test),
    /// Actors with real sidecars while their hosts are scaled and placement is disturbed, as a table;
    /// on the cluster that runs.
    Actors(crate::actors::Options),
    /// Stop the cluster and leave nothing behind.
    Down,
    /// Say what runs and where to look.
    Status,
    /// Build and download everything that is not of this repository, to warm the cache.
    Build,
    /// Measure our services beside upstream's; needs no cluster. Run it in release mode: `make bench`.
    Bench(Bench),
    /// Run kubectl on the cluster: `e2e kubectl -- get pods -A`.
    Kubectl {
        /// Arguments for kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run Helm on the cluster: `e2e helm -- list -A`.
    Helm {
        /// Arguments for Helm.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// How to bring the cluster up.
#[derive(Debug, Clone, Args)]
pub struct Up {
    /// How to run it; default: the best way that works on this machine.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Whose control plane to install.
    #[arg(long, value_enum, default_value_t)]
    pub control_plane: ControlPlane,
    /// Folder with operator, sentry, placement and injector already built; default: built here in release mode.
    #[arg(long, value_name = "FOLDER", conflicts_with = "control_plane")]
    pub binaries: Option<PathBuf>,
    /// Folder of the chart to install; default: ours.
    #[arg(long, value_name = "FOLDER")]
    pub chart: Option<PathBuf>,
    /// A values file, may be repeated, later ones win; default: the acceptance values.
    #[arg(long = "values", short = 'f', value_name = "FILE")]
    pub values: Vec<PathBuf>,
    /// Stop once Kubernetes and the backends run: no images, no chart.
    #[arg(long)]
    pub no_chart: bool,
}

/// How to test.
#[derive(Debug, Clone, Args)]
pub struct Test {
    /// The long tests as well: older sidecars and upgrades from upstream.
    #[arg(long)]
    pub compat: bool,
    /// Only these files of tests, by name: `watch_services`; default: all.
    #[arg(long = "only", value_name = "FILE")]
    pub only: Vec<String>,
    /// How to bring the cluster up.
    #[command(flatten)]
    pub up: Up,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn kubectl_takes_its_own_flags() {
        let parsed = Arguments::try_parse_from(["e2e", "kubectl", "--", "get", "pods", "-A"]).unwrap();
        assert!(matches!(parsed.command, Command::Kubectl { arguments } if arguments == ["get", "pods", "-A"]));
    }
}
