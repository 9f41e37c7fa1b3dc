//! Without a node: API server, etcd and controller-manager as plain processes on loopback.
//!
//! No pods run. The control plane's objects can be tried against a real API server.

use anyhow::Result;

use crate::api::{Api, Place};
use crate::args::Up;
use crate::artifacts::Artifacts;
use crate::cache::Cache;
use crate::mode::Mode;
use crate::packages::{self, Purpose};
use crate::processes::Processes;
use crate::progress::say;
use crate::state::{Record, State};
use crate::{backends, cleanup};

/// Brings the API server up.
pub fn up(_options: &Up, state: &State) -> Result<()> {
    packages::ensure(Purpose::Build)?;
    let artifacts = Artifacts::build(&Cache::of_user()?)?;
    let processes = Processes::of(state)?;
    let names = processes.names();
    if !names.is_empty() && names.iter().all(|name| processes.is_alive(name)) {
        say("the API server runs already");
        return Ok(());
    }
    cleanup::down(state, None)?;
    state.create()?;
    let processes = Processes::of(state)?;
    let place = Place { address: "127.0.0.1".into(), netns: None };
    let api = Api::start(&artifacts, &processes, state, place)?;
    api.start_controllers(false)?;
    api.client.apply(&backends::application_objects(&backends::Credentials::of(state)?))?;
    let record = Record {
        mode: Mode::Processes,
        kubeconfig: api.client.kubeconfig.clone(),
        kubectl: artifacts.kubectl(),
        helm: artifacts.helm(),
        containerd: None,
    };
    state.save("cluster.json", &record)?;
    say("the API server is ready; no pods run in this way of running");
    Ok(())
}
