//! Without a node: etcd, API server and controller-manager as plain processes on loopback.
//!
//! No pods run. The chart's objects are put in place all the same, and the control plane's services
//! run beside the API server (see `services`).

use anyhow::Result;

use crate::api::{Api, Place};
use crate::args::Up;
use crate::artifacts::Artifacts;
use crate::cache::Cache;
use crate::cluster::Cluster;
use crate::components::Binaries;
use crate::mode::Mode;
use crate::packages::{self, Purpose};
use crate::processes::Processes;
use crate::progress::say;
use crate::services;
use crate::state::{Record, State};
use crate::up::chart;
use crate::{backends, cleanup};

/// The address of everything.
pub const ADDRESS: &str = "127.0.0.1";

/// Brings the API server and the services up.
pub fn up(options: &Up, state: &State) -> Result<()> {
    packages::ensure(Purpose::Build)?;
    let cache = Cache::of_user()?;
    let artifacts = Artifacts::build(&cache)?;
    let binaries = (!options.no_chart).then(|| Binaries::build(options, &artifacts, &cache)).transpose()?;
    if is_whole(state)? {
        say("the API server runs already");
    } else {
        restart(&artifacts, state)?;
    }
    let Some(binaries) = binaries else { return Ok(()) };
    let client = Cluster::in_state(state.clone())?.api();
    let mut chart = chart(options, Mode::Processes, &artifacts, &client);
    chart.values.push(services::values(state)?);
    services::start(&chart, &client, &binaries, state)
}

fn restart(artifacts: &Artifacts, state: &State) -> Result<()> {
    if !Processes::of(state)?.names().is_empty() {
        cleanup::down(state, None)?;
        state.create()?;
    }
    let processes = Processes::of(state)?;
    let place = Place { address: ADDRESS.into(), netns: None };
    let api = Api::start(artifacts, &processes, state, place)?;
    api.start_controllers(false)?;
    api.client.apply(&backends::application_objects(&backends::Credentials::of(state)?))?;
    let record = Record {
        mode: Mode::Processes,
        kubeconfig: api.client.kubeconfig.clone(),
        kubectl: artifacts.kubectl(),
        helm: artifacts.helm(),
        containerd: None,
    };
    state.save("cluster.json", &record)
}

fn is_whole(state: &State) -> Result<bool> {
    let Some(record) = state.record()? else { return Ok(false) };
    Ok(record.mode == Mode::Processes && Cluster::in_state(state.clone())?.api().is_ready())
}
