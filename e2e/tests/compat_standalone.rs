//! A new root in standalone mode, with unmodified sidecars of every supported version that call
//! each other all the while: as plain processes on the loopback, without a cluster. Upstream's sentry
//! takes over in the middle, on the same files, and gives them back.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::cache::Cache;
use e2e::compat::ring::RELEASES;
use e2e::components::build_ours;
use e2e::http;
use e2e::processes::{Processes, Program, wait_until};
use e2e::progress::say;
use e2e::samples;
use e2e::state::State;
use e2e::upstream::{Part, Release, V1_18};

const READY: Duration = Duration::from_mins(1);
/// Certificates live 30 s, so everybody renews in this time.
const RENEWED: Duration = Duration::from_secs(25);
const PAUSE: Duration = Duration::from_millis(200);
const SETTLE: &str = "--root-rotation-settle=5s";
/// Sidecars find each other by their app id, which is the end of an address of the loopback.
const CONFIGURATION: &str = r#"
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: { name: standalone }
spec:
  mtls: { enabled: true, workloadCertTTL: 30s, allowedClockSkew: 2s }
  nameResolution:
    component: kubernetes
    version: v1
    configuration: { template: "127.0.0.{{.ID}}:{{.Port}}" }
"#;

/// Programs and the ports that they share.
struct Mesh {
    _folder: tempfile::TempDir,
    root: PathBuf,
    processes: Processes,
    ours: PathBuf,
    upstreams: PathBuf,
    application: PathBuf,
    sidecars: Vec<(&'static Release, PathBuf)>,
    sentry_port: u16,
    health_port: u16,
    /// The sidecars' own port, the same for all: each has an address of its own.
    sidecar_port: u16,
}

/// One sidecar with its application.
#[derive(Debug, Clone)]
struct Member {
    id: u8,
    version: &'static str,
    daprd: PathBuf,
    anchors: String,
    http: u16,
    application: u16,
}

/// What calls between two versions came to.
#[derive(Debug, Default)]
struct Tally {
    calls: u64,
    failures: Vec<String>,
    slowest: Duration,
}

type Tallies = Arc<Mutex<BTreeMap<(&'static str, &'static str), Tally>>>;

/// Threads that call until they are told to stop.
struct Calls {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Mesh {
    fn prepare() -> Result<Self> {
        let cache = Cache::of_user()?;
        let ours = build_ours(&["sentry"])?.join("sentry");
        let image = samples::images(&cache)?.into_iter().find(|image| image.entrypoint == "/order-processor");
        let application = image.and_then(|mut image| image.files.remove("/order-processor"));
        let sidecars = RELEASES.map(|release| Ok((release, release.build(&cache, Part::Daprd)?.join("daprd"))));
        let folder = tempfile::tempdir()?;
        let root = folder.path().to_owned();
        for name in ["credentials", "resources"] {
            std::fs::create_dir(root.join(name))?;
        }
        std::fs::write(root.join("configuration.yaml"), CONFIGURATION)?;
        Ok(Self {
            processes: Processes::of(&State::at(root.clone()))?,
            _folder: folder,
            root,
            ours,
            upstreams: V1_18.build(&cache, Part::ControlPlane)?.join("sentry"),
            application: application.context("the samples have no order-processor")?,
            sidecars: sidecars.into_iter().collect::<Result<_>>()?,
            sentry_port: free_port()?,
            health_port: free_port()?,
            sidecar_port: free_port()?,
        })
    }

    fn path(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }

    fn credential(&self, name: &str) -> PathBuf {
        self.root.join("credentials").join(name)
    }

    fn anchors(&self) -> String {
        std::fs::read_to_string(self.credential("ca.crt")).unwrap_or_default()
    }

    /// Runs one sentry or the other on the same files, in place of the one that runs.
    fn use_sentry(&self, program: &Path, more: &[&str]) -> Result<()> {
        self.processes.stop("sentry")?;
        let flags = ["--config", &self.path("configuration.yaml"), "--issuer-credentials", &self.path("credentials")];
        let sentry = Program::new("sentry", program).args(flags).args(more.iter().copied()).args([
            format!("--port={}", self.sentry_port),
            "--listen-address=127.0.0.1".into(),
            format!("--healthz-port={}", self.health_port),
            "--enable-metrics=false".into(),
        ]);
        self.processes.start(&sentry)?;
        let health = || http::get("127.0.0.1", self.health_port, "/healthz").is_ok_and(|answer| answer.status == 200);
        self.processes.wait_ready("sentry", READY, health)
    }

    /// Starts one sidecar of each version with today's anchors.
    fn generation(&self, first: u8) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        for (id, (release, daprd)) in (first..).zip(&self.sidecars) {
            let (http, application) = (free_port()?, free_port()?);
            let version = release.version;
            let member = Member { id, version, daprd: daprd.clone(), anchors: self.anchors(), http, application };
            let app = Program::new(&format!("app-{id}"), &self.application)
                .env("LISTEN", format!("127.0.0.1:{application}"))
                .env("HOSTS_ACTORS", "no");
            self.processes.start(&app)?;
            self.start_sidecar(&member)?;
            members.push(member);
        }
        say(format!("sidecars {first} and following are up"));
        Ok(members)
    }

    fn start_sidecar(&self, member: &Member) -> Result<()> {
        let name = format!("daprd-{}", member.id);
        let program = Program::new(&name, &member.daprd)
            .env("DAPR_TRUST_ANCHORS", &member.anchors)
            .env("NAMESPACE", "default")
            .env("DAPR_CONTROLPLANE_NAMESPACE", "default")
            .args([
                format!("--app-id={}", member.id),
                format!("--app-port={}", member.application),
                "--enable-mtls".into(),
                format!("--sentry-address=127.0.0.1:{}", self.sentry_port),
                format!("--config={}", self.path("configuration.yaml")),
                format!("--resources-path={}", self.path("resources")),
                "--dapr-listen-addresses=127.0.0.1".into(),
                format!("--dapr-http-port={}", member.http),
                format!("--dapr-grpc-port={}", free_port()?),
                format!("--dapr-internal-grpc-listen-address=127.0.0.{}", member.id),
                format!("--dapr-internal-grpc-port={}", self.sidecar_port),
                "--enable-metrics=false".into(),
                "--placement-host-address=".into(),
                "--scheduler-host-address=".into(),
            ]);
        self.processes.start(&program)?;
        let path = "/v1.0/healthz/outbound";
        let health = || http::get("127.0.0.1", member.http, path).is_ok_and(|answer| answer.status == 204);
        self.processes.wait_ready(&name, READY, health)
    }

    fn stop_sidecar(&self, member: &Member) -> Result<()> {
        self.processes.stop(&format!("daprd-{}", member.id))
    }

    fn restart_sidecars(&self, members: &[Member]) -> Result<()> {
        for member in members {
            self.stop_sidecar(member)?;
            self.start_sidecar(member)?;
        }
        Ok(())
    }

    fn command(&self, word: &str) -> Result<()> {
        std::fs::write(self.credential("ca-rotation"), word).context("write the command")
    }

    fn phase(&self) -> Option<String> {
        let text = std::fs::read(self.credential("root-rotation.json")).ok()?;
        let state: serde_json::Value = serde_json::from_slice(&text).ok()?;
        Some(state["phase"].as_str()?.to_owned())
    }

    fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        ensure!(wait_until(READY, || done(self)), "{what}: not within {READY:?}");
        say(what);
        Ok(())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for name in self.processes.names() {
            if let Err(error) = self.processes.stop(&name) {
                say(format!("{name} is left: {error:#}"));
            }
        }
    }
}

impl Calls {
    /// Each member calls every other one, over and over.
    fn start(members: &[&[Member]], tallies: &Tallies) -> Self {
        let (all, stop) = (members.concat(), Arc::new(AtomicBool::new(false)));
        let callers = all.iter().map(|caller| {
            let (caller, others, stop, tallies) = (caller.clone(), all.clone(), stop.clone(), tallies.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for other in others.iter().filter(|other| other.id != caller.id) {
                        note(&tallies, &caller, other);
                    }
                    sleep(PAUSE);
                }
            })
        });
        Self { callers: callers.collect(), stop }
    }

    /// Stops when the calls under way have ended, and says how all fared.
    fn stop(self, tallies: &Tallies) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            if caller.join().is_err() {
                bail!("a caller panicked");
            }
        }
        let tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let (calls, failed) = tallies.values().fold((0, 0), |sum, t| (sum.0 + t.calls, sum.1 + t.failures.len()));
        say(format!("{calls} calls so far, {failed} failed"));
        Ok(())
    }
}

fn note(tallies: &Tallies, caller: &Member, other: &Member) {
    let began = Instant::now();
    let path = format!("/v1.0/invoke/{}/method/healthz", other.id);
    let failure = match http::get("127.0.0.1", caller.http, &path) {
        Ok(answer) if answer.status == 204 => None,
        Ok(answer) => Some(format!("{} called {}: {} {}", caller.id, other.id, answer.status, answer.body)),
        Err(error) => Some(format!("{} called {}: {error:#}", caller.id, other.id)),
    };
    let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
    let tally = tallies.entry((caller.version, other.version)).or_default();
    tally.calls += 1;
    tally.slowest = tally.slowest.max(began.elapsed());
    tally.failures.extend(failure);
}

fn rotate(mesh: &Mesh, tallies: &Tallies) -> Result<()> {
    mesh.use_sentry(&mesh.ours, &[SETTLE])?;
    let old = mesh.generation(2)?;
    let calls = Calls::start(&[&old], tallies);
    mesh.command("start")?;
    mesh.wait("a new root is announced", |mesh| {
        mesh.phase().is_some() && mesh.anchors().matches("BEGIN").count() == 2
    })?;
    let mut new = mesh.generation(12)?;
    calls.stop(tallies)?;
    let calls = Calls::start(&[&old, &new], tallies);
    mesh.wait("the new issuer signs", |mesh| mesh.phase().as_deref() == Some("sign"))?;
    new.extend(mesh.generation(22)?);
    calls.stop(tallies)?;
    let calls = Calls::start(&[&old, &new], tallies);
    sleep(RENEWED);
    mesh.use_sentry(&mesh.ours, &[SETTLE])?;
    calls.stop(tallies)?;
    let calls = Calls::start(&[&new], tallies);
    mesh.restart_sidecars(&old)?;
    say("those that hold only the old anchor were started anew");
    mesh.use_sentry(&mesh.upstreams, &[])?;
    mesh.restart_sidecars(&old)?;
    say("and once more, with upstream's sentry");
    calls.stop(tallies)?;
    let calls = Calls::start(&[&old, &new], tallies);
    sleep(RENEWED);
    mesh.use_sentry(&mesh.ours, &[SETTLE])?;
    sleep(RENEWED);
    calls.stop(tallies)?;
    let calls = Calls::start(&[&new], tallies);
    for member in &old {
        mesh.stop_sidecar(member)?;
    }
    mesh.command("retire")?;
    mesh.wait("the old root is retired", |mesh| {
        mesh.phase().is_none() && mesh.anchors().matches("BEGIN").count() == 1
    })?;
    new.extend(mesh.generation(32)?);
    calls.stop(tallies)?;
    let calls = Calls::start(&[&new], tallies);
    sleep(RENEWED);
    calls.stop(tallies)?;
    let ended: Vec<_> = new.iter().filter(|m| !mesh.processes.is_alive(&format!("daprd-{}", m.id))).collect();
    ensure!(ended.is_empty(), "sidecars ended: {ended:?}");
    Ok(())
}

#[test]
#[ignore = "needs daprd 1.17 and 1.16 and upstream's sentry, minutes to build: run `make test-compat`"]
fn no_call_fails_while_the_root_is_changed_in_standalone_mode() -> Result<()> {
    let tallies = Tallies::default();
    let result = Mesh::prepare().and_then(|mesh| rotate(&mesh, &tallies));
    let tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
    for ((from, to), tally) in tallies.iter() {
        let (failed, slowest) = (tally.failures.len(), tally.slowest.as_millis());
        say(format!("{from} called {to}: {} calls, {failed} failed, slowest {slowest} ms", tally.calls));
    }
    result?;
    ensure!(tallies.len() == 9, "not every version called every version: {:?}", tallies.keys());
    for (pair, tally) in tallies.iter() {
        ensure!(tally.calls > 300, "only {} calls of {pair:?}", tally.calls);
        ensure!(tally.failures.is_empty(), "{pair:?}: {:?}", tally.failures);
    }
    Ok(())
}
