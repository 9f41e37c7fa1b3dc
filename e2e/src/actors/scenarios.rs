//! What is done to the hosts and to placement while calls run.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams};
use rustix::process::Signal;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until};

use super::calls::{self, Call, Second, Summary, Window};
use super::stage::Stage;
use super::turns::{self, Overlap, Turn};
use crate::compat::{is_ready, restarts};
use crate::progress::say;
use crate::quickstart::access::{Access, Port};
use crate::quickstart::metrics::Scrape;
use crate::quickstart::services::NAMESPACE;

const PLACEMENT: &str = "dapr-placement-server";
const METRICS_PORT: u16 = 9090;
/// Calls before anything is done.
const CALM: Duration = Duration::from_secs(5);
/// How long the hosts are watched after each change of their number.
const SETTLE: Duration = Duration::from_secs(12);
/// How long a leader's loss is watched, from its end.
const AFTER_LEADER: Duration = Duration::from_secs(35);
/// The least time between the deletions of two replicas.
const PER_REPLICA: Duration = Duration::from_secs(20);
/// How long the sidecar is stopped, and how long it is watched afterwards.
const STOPPED: Duration = Duration::from_secs(20);
const AFTER_STOP: Duration = Duration::from_secs(25);
/// Hosts at the most, and while something else than their number changes.
const MANY_HOSTS: usize = 10;
const FEW_HOSTS: usize = 2;
const STEADY_HOSTS: usize = 4;
/// How long a leader may be missing, and a replica take to be back.
const LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(250);

/// One disturbance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// The hosts are scaled from 1 to 10 and to 2.
    Scale,
    /// The process of placement's leader is killed.
    LeaderKilled,
    /// The pod of each replica of placement is deleted in turn.
    ReplicasRestarted,
    /// The sidecar of one host is stopped for 20 s and goes on.
    SidecarStopped,
}

impl Scenario {
    /// All of them; the replicas are restarted after a leader was killed, so that no pod stays that
    /// was restarted in place.
    pub const ALL: [Self; 4] = [Self::Scale, Self::LeaderKilled, Self::ReplicasRestarted, Self::SidecarStopped];

    /// Name for a person.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scale => "hosts 1 → 10 → 2",
            Self::LeaderKilled => "leader killed",
            Self::ReplicasRestarted => "each replica restarted",
            Self::SidecarStopped => "sidecar stopped for 20 s",
        }
    }

    /// Whether an actor may never have two owners: not when a sidecar is stopped, because it serves
    /// what waited for it before it learns that it lost its place (RULINGS 21).
    pub const fn demands_one_owner(self) -> bool {
        !matches!(self, Self::SidecarStopped)
    }

    const fn hosts_before(self) -> usize {
        match self {
            Self::Scale => 1,
            _ => STEADY_HOSTS,
        }
    }
}

/// What a scenario came to.
#[derive(Debug)]
pub struct Outcome {
    /// Which it was.
    pub scenario: Scenario,
    /// From the first call to the last one begun.
    pub window: Window,
    /// Every call.
    pub calls: Vec<Call>,
    /// Every turn that began since the first call.
    pub turns: Vec<Turn>,
    /// Turns with a second owner, or that began while code of one that was cut off still ran.
    pub overlaps: Vec<Overlap>,
    /// What was done when, in nanoseconds.
    pub events: Vec<(i64, String)>,
}

impl Outcome {
    /// The figures altogether.
    pub fn summary(&self) -> Summary {
        calls::summary(self.window, &self.calls, &self.overlaps)
    }

    /// The figures of each second.
    pub fn seconds(&self) -> Vec<Second> {
        calls::seconds(self.window, &self.calls, &self.overlaps)
    }

    /// Turns that began while code of another host still ran whose turn had been cut off.
    pub fn beside_cut_off(&self) -> usize {
        self.overlaps.iter().filter(|overlap| !overlap.has_two_owners()).count()
    }

    /// Turns whose host did not live to write down their end.
    pub fn unended(&self) -> usize {
        self.turns.iter().filter(|turn| !turn.ended).count()
    }

    /// No turn may be missing: every answer names its turn, and the journal must hold it.
    pub(super) fn ensure_complete(&self) -> Result<()> {
        let known: std::collections::BTreeSet<&str> = self.turns.iter().map(|turn| turn.id.as_str()).collect();
        let lost = self.calls.iter().find(|call| call.ok() && !known.contains(call.turn.as_str()));
        ensure!(lost.is_none(), "the journal lacks a turn that was answered: {lost:?}");
        ensure!(!known.is_empty(), "no turn was run");
        Ok(())
    }

    /// Whether calls were answered again at the end, and how many hosts had run turns.
    pub fn ensure_meaningful(&self) -> Result<()> {
        let last = self.seconds().into_iter().rev().take(5);
        ensure!(last.map(|second| second.ok).sum::<u64>() > 0, "no call of the last 5 s was answered");
        let hosts: std::collections::BTreeSet<&str> = self.turns.iter().map(|turn| turn.host.as_str()).collect();
        // Forty actors leave one of ten hosts idle once in a while, but never half of them.
        let least = if self.scenario == Scenario::Scale { MANY_HOSTS / 2 + 1 } else { 2 };
        ensure!(hosts.len() >= least, "only {} hosts ran turns: nothing was moved", hosts.len());
        Ok(())
    }

    /// Single owners, where they are demanded.
    pub fn ensure_one_owner(&self) -> Result<()> {
        let two: Vec<_> = self.overlaps.iter().filter(|overlap| overlap.has_two_owners()).collect();
        if let (true, Some(worst)) =
            (self.scenario.demands_one_owner(), two.iter().max_by_key(|overlap| overlap.nanoseconds()))
        {
            bail!("{}: {} turns with a second owner, the worst: {worst}", self.scenario.name(), two.len());
        }
        Ok(())
    }
}

/// Plays one scenario.
pub async fn play(stage: &Stage, scenario: Scenario) -> Result<Outcome> {
    stage.scale(scenario.hosts_before()).await?;
    stage.wait_for_hosts(scenario.hosts_before()).await?;
    leader(stage.access()).await?;
    let mut events = Events::default();
    let begin = now();
    stage.start_calls().await?;
    sleep(CALM).await;
    let disturbed = match scenario {
        Scenario::Scale => scale(stage, &mut events).await,
        Scenario::LeaderKilled => kill_leader(stage, &mut events).await,
        Scenario::ReplicasRestarted => restart_replicas(stage, &mut events).await,
        Scenario::SidecarStopped => stop_sidecar(stage, &mut events).await,
    };
    let end = now();
    let calls = stage.stop_calls().await?;
    disturbed.with_context(|| scenario.name())?;
    let turns: Vec<Turn> = stage.turns().await?.into_iter().filter(|turn| turn.begin >= begin).collect();
    let overlaps = turns::overlaps(&turns);
    let window = Window { begin, end };
    let outcome = Outcome { scenario, window, calls, turns, overlaps, events: events.0 };
    outcome.ensure_complete()?;
    Ok(outcome)
}

/// What was done, told to a person and kept with its time.
#[derive(Default)]
struct Events(Vec<(i64, String)>);

impl Events {
    fn add(&mut self, what: impl Into<String>) {
        let what = what.into();
        say(&what);
        self.0.push((now(), what));
    }
}

async fn scale(stage: &Stage, events: &mut Events) -> Result<()> {
    for hosts in [MANY_HOSTS, FEW_HOSTS] {
        events.add(format!("scaling to {hosts} hosts"));
        stage.scale(hosts).await?;
        stage.wait_for_hosts(hosts).await?;
        events.add(format!("{hosts} hosts"));
        sleep(SETTLE).await;
    }
    Ok(())
}

async fn kill_leader(stage: &Stage, events: &mut Events) -> Result<()> {
    let access = stage.access();
    let name = leader(access).await?;
    let pods = Api::<Pod>::namespaced(access.client(), NAMESPACE);
    let before = restarts(&pods.get(&name).await?);
    let process = stage.process(NAMESPACE, &name, PLACEMENT)?;
    events.add(format!("killing the leader {name}"));
    process.signal(Signal::KILL);
    let (window, deadline) = (Instant::now() + AFTER_LEADER, Instant::now() + LIMIT);
    while process.is_alive() {
        ensure!(Instant::now() < deadline, "the leader's process outlived SIGKILL");
        sleep(POLL).await;
    }
    let next = leader(access).await?;
    events.add(format!("{next} leads"));
    loop {
        let pod = pods.get(&name).await?;
        if restarts(&pod) > before && is_ready(&pod) {
            break;
        }
        ensure!(Instant::now() < deadline, "{name} is not back after its process was killed");
        sleep(POLL).await;
    }
    events.add(format!("{name} is back"));
    sleep_until(window).await;
    Ok(())
}

async fn restart_replicas(stage: &Stage, events: &mut Events) -> Result<()> {
    let access = stage.access();
    let pods = Api::<Pod>::namespaced(access.client(), NAMESPACE);
    for name in access.pod_names(NAMESPACE, PLACEMENT).await? {
        let uid = pods.get(&name).await?.metadata.uid;
        let role = if leader(access).await? == name { "leader" } else { "follower" };
        events.add(format!("deleting {name}, a {role}"));
        let (next, deadline) = (Instant::now() + PER_REPLICA, Instant::now() + LIMIT);
        pods.delete(&name, &DeleteParams::default()).await?;
        loop {
            // Between the old pod and the new one there is none of that name.
            let pod = pods.get_opt(&name).await?;
            if pod.is_some_and(|pod| pod.metadata.uid != uid && is_ready(&pod)) {
                break;
            }
            ensure!(Instant::now() < deadline, "{name} is not back after its pod was deleted");
            sleep(POLL).await;
        }
        events.add(format!("{name} is back"));
        sleep_until(next).await;
    }
    Ok(())
}

async fn stop_sidecar(stage: &Stage, events: &mut Events) -> Result<()> {
    let (pod, process) = stage.sidecar_of_a_host().await?;
    events.add(format!("stopping the sidecar of {pod}"));
    process.signal(Signal::STOP);
    sleep(STOPPED).await;
    let state = state_of(process.pid);
    process.signal(Signal::CONT);
    ensure!(state == Some('T'), "the sidecar of {pod} was not stopped: its state was {state:?}");
    events.add(format!("the sidecar of {pod} goes on"));
    sleep(AFTER_STOP).await;
    ensure!(process.is_alive(), "the sidecar of {pod} was restarted meanwhile");
    Ok(())
}

/// The pod that says it leads; waits for one.
async fn leader(access: &Access) -> Result<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        for pod in access.pod_names(NAMESPACE, PLACEMENT).await? {
            let port = Port { namespace: NAMESPACE, pod: &pod, number: METRICS_PORT };
            // A replica that just starts answers nothing.
            let Ok(answer) = access.ask(port, "GET", "/metrics", None).await else { continue };
            if Scrape::of(&answer.body).sum("dapr_placement_leader_status") == Some(1.0) {
                return Ok(pod);
            }
        }
        ensure!(Instant::now() < deadline, "no replica of placement says that it leads");
        sleep(POLL).await;
    }
}

/// Third field of `/proc/<pid>/stat`: `T` is stopped.
fn state_of(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

fn now() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(i64::MAX)
}
