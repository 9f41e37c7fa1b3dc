//! Bringing the cluster up, step by step; each step finds what an earlier run already did.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::api::{Api, Client, Place};
use crate::args::Up;
use crate::artifacts::{Artifacts, BackendArtifacts, NodeArtifacts};
use crate::cache::Cache;
use crate::cluster::Cluster;
use crate::command::output;
use crate::components::Binaries;
use crate::helm::{Chart, NAMESPACE, RELEASE};
use crate::mode::{Machine, Mode};
use crate::modules::package_folder;
use crate::netns::{self, NODE_ADDRESS};
use crate::node::Runtime;
use crate::packages::{self, Purpose};
use crate::processes::{Processes, wait_until};
use crate::progress::say;
use crate::state::{Record, State};
use crate::{addons, backends, cleanup, kind, node, samples};

/// How often a person is told what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(20);

/// The right to change the cluster: two commands at once would undo each other's work.
#[derive(Debug)]
pub struct Turn {
    state: State,
    _lock: Option<File>,
}

/// Set for the programs that `e2e test` starts: they work within its turn.
pub const TURN_IS_TAKEN: &str = "DAPRCP_TURN_IS_TAKEN";

/// Waits until no other command works on the cluster.
pub fn take_turn() -> Result<Turn> {
    let state = State::of_user()?;
    let lock = if std::env::var_os(TURN_IS_TAKEN).is_some() { None } else { Some(lock(&state)?) };
    Ok(Turn { state, _lock: lock })
}

/// Brings the cluster up or up to date.
pub fn up(options: &Up) -> Result<Cluster> {
    up_in_turn(options, &take_turn()?)
}

/// Brings the cluster up or up to date, for somebody whose turn goes on.
pub fn up_in_turn(options: &Up, turn: &Turn) -> Result<Cluster> {
    let (mode, why) = match options.mode {
        Some(mode) => (mode, "asked for"),
        None => {
            Machine::look().choose().context("on this system a cluster needs docker and kind, and they do not work")?
        }
    };
    say(format!("cluster: {mode:?} ({why})"));
    let state = &turn.state;
    state.create()?;
    match mode {
        Mode::Node => up_node(options, state)?,
        Mode::Kind => up_kind(options, state)?,
        Mode::Processes => crate::plain::up(options, state)?,
    }
    Cluster::in_state(state.clone())
}

/// Stops the cluster, however it was brought up.
pub fn down() -> Result<()> {
    let Turn { state, _lock } = take_turn()?;
    let record = state.record()?;
    if record.as_ref().is_some_and(|record| record.mode == Mode::Kind) {
        kind::stop()?;
    }
    let containerd = state.load::<PathBuf>(CONTAINERD_FILE)?;
    cleanup::down(&state, containerd.as_deref())?;
    std::fs::remove_file(lock_file(&state)).context("remove the lock")?;
    say("nothing is left of the cluster");
    Ok(())
}

/// Remembers where containerd's client is from before its start, for the clean-up after a crash.
const CONTAINERD_FILE: &str = "containerd.json";

fn up_node(options: &Up, state: &State) -> Result<()> {
    packages::ensure(Purpose::Node)?;
    let cache = Cache::of_user()?;
    let artifacts = Artifacts::build(&cache)?;
    let node_artifacts = NodeArtifacts::build(&cache)?;
    let backend_artifacts = BackendArtifacts::build(&cache)?;
    let sample_images = samples::images(&cache)?;
    let binaries = (!options.no_chart).then(|| Binaries::build(options, &artifacts, &cache)).transpose()?;
    let processes = Processes::of(state)?;
    if is_whole(state, &processes)? {
        say("the cluster runs already");
    } else {
        restart_node(&artifacts, &node_artifacts, state)?;
    }
    let cluster = Cluster::in_state(state.clone())?;
    backends::start(&cluster.api(), &backend_artifacts, &processes, state)?;
    for image in &sample_images {
        cluster.load_image(image)?;
    }
    let Some(binaries) = binaries else { return Ok(()) };
    let chart = chart(options, Mode::Node, &artifacts, &cluster.api());
    let runtime = Runtime::of(state, &node_artifacts.containerd);
    let changed = binaries.import(&chart.render()?, &runtime, state)?;
    install(&chart, &cluster.api(), &changed)
}

/// Starts the node from nothing; what an earlier run left is removed first.
fn restart_node(artifacts: &Artifacts, node_artifacts: &NodeArtifacts, state: &State) -> Result<()> {
    if !Processes::of(state)?.names().is_empty() || netns::exists() {
        cleanup::down(state, Some(&node_artifacts.containerd)).context("clean up after an earlier run")?;
        state.create()?;
    }
    state.save(CONTAINERD_FILE, &node_artifacts.containerd)?;
    let processes = Processes::of(state)?;
    netns::create().context("make the network namespace")?;
    let place = Place { address: NODE_ADDRESS.into(), netns: Some(netns::file()) };
    let api = Api::start(artifacts, &processes, state, place)?;
    api.start_controllers(true)?;
    addons::add_storage(&api, state)?;
    node::start(&api, node_artifacts, &processes, state)?;
    addons::start_dns(&api, node_artifacts, &processes, state)?;
    say("the node is ready");
    state.save(
        "cluster.json",
        &Record {
            mode: Mode::Node,
            kubeconfig: api.client.kubeconfig.clone(),
            kubectl: artifacts.kubectl(),
            helm: artifacts.helm(),
            containerd: Some(node_artifacts.containerd.clone()),
        },
    )
}

/// Whether a cluster was brought up in full and everything of it still runs.
fn is_whole(state: &State, processes: &Processes) -> Result<bool> {
    let Some(record) = state.record()? else { return Ok(false) };
    let client = Client { program: record.kubectl, kubeconfig: record.kubeconfig };
    let names = processes.names();
    let alive =
        names.iter().filter(|name| backends::ALL.iter().all(|b| b.name != **name)).all(|n| processes.is_alive(n));
    Ok(record.mode == Mode::Node && !names.is_empty() && alive && client.is_ready())
}

fn up_kind(options: &Up, state: &State) -> Result<()> {
    packages::ensure(Purpose::Build)?;
    let cache = Cache::of_user()?;
    let artifacts = Artifacts::build(&cache)?;
    let kubeconfig = kind::start(state)?;
    let record =
        Record { mode: Mode::Kind, kubeconfig, kubectl: artifacts.kubectl(), helm: artifacts.helm(), containerd: None };
    state.save("cluster.json", &record)?;
    let cluster = Cluster::in_state(state.clone())?;
    kind::start_backends(&cluster.api(), state)?;
    for image in &samples::images(&cache)? {
        cluster.load_image(image)?;
    }
    if options.no_chart {
        return Ok(());
    }
    let chart = chart(options, Mode::Kind, &artifacts, &cluster.api());
    kind::load_control_plane(&chart.render()?)?;
    install(&chart, &cluster.api(), &BTreeSet::new())
}

/// The chart that was asked for with its values; the acceptance values are the default, because they
/// are what the product's user installs with.
pub fn chart(options: &Up, mode: Mode, artifacts: &Artifacts, client: &Client) -> Chart {
    let root = package_folder().parent().unwrap_or(Path::new("."));
    let mut values = Vec::new();
    // Without a node there is one process of each service, so the acceptance values' replicas mean nothing.
    if options.values.is_empty() && mode != Mode::Processes {
        values.push(package_folder().join("acceptance/values.yaml"));
    }
    values.extend(options.values.iter().cloned());
    Chart {
        helm: artifacts.helm(),
        kubeconfig: client.kubeconfig.clone(),
        folder: options.chart.clone().unwrap_or_else(|| root.join("charts/dapr")),
        values,
    }
}

fn install(chart: &Chart, client: &Client, changed: &BTreeSet<String>) -> Result<()> {
    let had = output(client.kubectl().args(["get", "deploy,statefulset", "-n", NAMESPACE, "-o", "name"]))?;
    say("installing the chart");
    forget_broken_install(client)?;
    if let Err(error) = install_visibly(chart, client) {
        let seen = output(client.kubectl().args(["get", "pods", "-n", NAMESPACE])).unwrap_or_default();
        return Err(error.context(format!("the control plane did not become ready:\n{seen}")));
    }
    let outdated: Vec<&str> =
        had.lines().filter(|workload| changed.iter().any(|name| workload.contains(name.as_str()))).collect();
    if !outdated.is_empty() {
        say("restarting services whose image changed");
        output(client.kubectl().args(["rollout", "restart", "-n", NAMESPACE]).args(&outdated))?;
        for workload in outdated {
            output(client.kubectl().args(["rollout", "status", "--timeout=180s", "-n", NAMESPACE, workload]))?;
        }
    }
    say("the control plane is ready");
    Ok(())
}

/// Installs the chart and tells now and then which pods it still waits for.
fn install_visibly(chart: &Chart, client: &Client) -> Result<()> {
    std::thread::scope(|scope| {
        let helm = scope.spawn(|| chart.install());
        loop {
            if wait_until(TELL_EVERY, || helm.is_finished()) {
                break;
            }
            say(format!("waiting for {}", unready_pods(client)));
        }
        helm.join().unwrap_or_else(|_| anyhow::bail!("the thread that ran helm panicked")).map(drop)
    })
}

/// The pods of the control plane that are not ready, in words.
fn unready_pods(client: &Client) -> String {
    let list = output(client.kubectl().args(["get", "pods", "-n", NAMESPACE, "--no-headers"])).unwrap_or_default();
    let pods = list.lines().filter_map(|line| {
        let mut columns = line.split_whitespace();
        let (name, ready, status) = (columns.next()?, columns.next()?, columns.next()?);
        let (up, all) = ready.split_once('/')?;
        (up != all).then(|| format!("{name} ({status})"))
    });
    let pods: Vec<String> = pods.collect();
    if pods.is_empty() { "helm".into() } else { pods.join(", ") }
}

/// Helm refuses to touch a release whose last operation was broken off; forgetting that operation
/// lets the next one take over the objects.
fn forget_broken_install(client: &Client) -> Result<()> {
    let broken = format!("owner=helm,name={RELEASE},status in (pending-install,pending-upgrade,pending-rollback)");
    output(client.kubectl().args(["delete", "secret", "-n", NAMESPACE, "--selector", &broken])).map(drop)
}

/// `down` removes the file while it holds it, so a lock counts only if it is on the file that is there.
fn lock(state: &State) -> Result<File> {
    let path = lock_file(state);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    loop {
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        if file.try_lock().is_err() {
            say("waiting for another e2e command to finish");
            file.lock().with_context(|| format!("lock {}", path.display()))?;
        }
        if std::fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|held| held.ino() == there.ino())) {
            return Ok(file);
        }
    }
}

fn lock_file(state: &State) -> PathBuf {
    state.root().with_extension("lock")
}

/// Gives the administrator's kubeconfig and what runs, for `e2e status`.
pub fn status() -> Result<String> {
    let state = State::of_user()?;
    let Some(record) = state.record()? else {
        return Ok("no cluster is up".into());
    };
    let processes = Processes::of(&state)?;
    let mut text = format!("cluster: {:?}\nexport KUBECONFIG={}\n", record.mode, record.kubeconfig.display());
    for name in processes.names() {
        let line = match processes.identity(&name) {
            Some(identity) => format!("process {}", identity.pid),
            None => format!("has ended, see {}", processes.log(&name).display()),
        };
        writeln!(text, "  {name:<26} {line}")?;
    }
    let client = Client { program: record.kubectl, kubeconfig: record.kubeconfig };
    if client.is_ready() {
        text.push_str(&output(client.kubectl().args(["get", "pods", "--all-namespaces", "-o", "wide"]))?);
    } else {
        text.push_str("the API server does not answer\n");
    }
    Ok(text)
}
