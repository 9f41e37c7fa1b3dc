//! Sentry under callers that want certificates.
//!
//! Cost and latency are measured in standalone mode, where nothing but sentry works: no token
//! review, no API server beside it on the same cores. Memory with many pods needs Kubernetes mode,
//! against the API server of `cluster`; both sides are given the same one.

mod cluster;
mod load;
mod pods;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use proto::sentry::v1::SignCertificateRequest;
use tokio::runtime::{Builder, Runtime};

use super::credentials::{self, APP_ID, NAMESPACE, signing_request};
use super::programs::{Programs, Side};
use super::report::{Bound, Report, Unit, machine};
use super::samples::{median, quantile};
use super::server::{Server, Start};
use super::{Bench, IDLE, IDLE_ANON_MIB, IDLE_RSS_MIB};
use crate::progress::say;
use cluster::{CONTROL_PLANE, Cluster, token};
use load::{Connections, Load};

const SIDES: [Side; 2] = [Side::Upstream, Side::Ours];
/// Different keys among the requests: making them is not what is measured.
const KEYS: usize = 64;
/// The files of an authority.
const AUTHORITY: [&str; 3] = ["ca.crt", "issuer.crt", "issuer.key"];
/// Turns in which both sides take a load: whatever else the machine does meanwhile slows both.
const TURNS: usize = 20;
/// Certificates before anything is measured.
const WARM_UP: usize = 500;
/// Bounds of the issue.
const THIRD: f64 = 1.0 / 3.0;
const P99_SECONDS: f64 = 0.010;
const PODS_RSS_MIB: f64 = 64.0;

/// How large the loads are.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Certificates signed in each measurement on kept connections.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub kept: usize,
    /// Certificates signed in each measurement on new connections.
    #[arg(long, value_name = "COUNT", default_value_t = 5_000)]
    pub new: usize,
    /// Requests a second whose latency is measured.
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    pub rate: u32,
    /// How long that rate lasts.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub rate_time: u64,
    /// Pods in the cluster; a tenth of them have a sidecar. With 0 memory is not measured.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub pods: usize,
}

/// The figures of one run of one side, in seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Signing {
    kept_cpu: f64,
    kept_rate: f64,
    new_cpu: f64,
    new_rate: f64,
    p50: f64,
    p99: f64,
    failed: f64,
}

/// Memory in MiB, CPU in seconds a certificate.
#[derive(Debug, Clone, Copy)]
struct Memory {
    rss: f64,
    anon: f64,
    peak: f64,
    cpu: f64,
}

/// Measures and prints.
pub fn run(bench: &Bench, options: &Options) -> Result<()> {
    let programs = Programs::build(bench.binaries.as_deref())?;
    let machine = machine();
    let mut report = Report::new(&SIDES.map(Side::name));
    compare_idle(&programs, &mut report)?;
    compare_signing(bench, options, &programs, &mut report)?;
    if options.pods > 0 {
        compare_memory(options, &programs, &mut report)?;
    }
    println!("\nsentry, {machine}; medians of {} runs\n\n{}", bench.repeat, report.markdown());
    Ok(())
}

/// A standalone sentry with an authority of its own, in its folder `credentials`. Another one made
/// it: upstream's restarts itself two seconds after it has written the files.
pub fn standalone(programs: &Programs, side: Side) -> Result<Server> {
    let first = on_files(programs, side, &[])?;
    let read = |name| Ok((name, fs::read(first.path("credentials").join(name))?));
    let files = AUTHORITY.into_iter().map(read).collect::<Result<Vec<_>>>().context("read sentry's files")?;
    on_files(programs, side, &files)
}

fn on_files(programs: &Programs, side: Side, files: &[(&str, Vec<u8>)]) -> Result<Server> {
    let start = Start::new(programs.path(side, "sentry"))?;
    let (configuration, folder) = (start.path("config.yaml"), start.path("credentials"));
    fs::write(&configuration, "").context("write sentry's configuration")?;
    fs::create_dir(&folder).context("make sentry's folder")?;
    for (name, content) in files {
        fs::write(folder.join(name), content).with_context(|| format!("write {name}"))?;
    }
    let flags = [format!("--config={}", configuration.display()), format!("--issuer-credentials={}", folder.display())];
    flags.into_iter().fold(start, Start::flag).run()
}

/// One thread: the other core is the server's.
fn load_runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("start the load's runtime")
}

fn dial(server: &Server) -> Result<credentials::Sentry> {
    let anchors = fs::read(server.path("credentials/ca.crt")).context("read sentry's trust anchors")?;
    credentials::Sentry::new(&server.address(), anchors)
}

fn compare_idle(programs: &Programs, report: &mut Report) -> Result<()> {
    let mut figures = Vec::new();
    for side in SIDES {
        let server = standalone(programs, side)?;
        std::thread::sleep(IDLE);
        let usage = server.usage()?;
        figures.push((mib(usage.rss_kib), mib(usage.anon_kib)));
    }
    let rss: Vec<_> = figures.iter().map(|(rss, _)| Some(*rss)).collect();
    let anon: Vec<_> = figures.iter().map(|(_, anon)| Some(*anon)).collect();
    report.add("idle: VmRSS", Unit::Mebibytes, &rss, Bound::AtMost(IDLE_RSS_MIB));
    report.add("… RssAnon", Unit::Mebibytes, &anon, Bound::AtMost(IDLE_ANON_MIB));
    Ok(())
}

fn compare_signing(bench: &Bench, options: &Options, programs: &Programs, report: &mut Report) -> Result<()> {
    let mut runs: [Vec<Signing>; 2] = Default::default();
    for _ in 0..bench.repeat {
        let measured = load_runtime()?.block_on(signing(programs, options))?;
        for ((side, runs), measured) in SIDES.iter().zip(&mut runs).zip(measured) {
            say(format!("{}: {measured:?}", side.name()));
            runs.push(measured);
        }
    }
    let figure = |pick: fn(&Signing) -> f64| runs.each_ref().map(|runs| Some(median(runs.iter().map(pick))));
    let third = |figures: [Option<f64>; 2]| Bound::Share { of: figures[0].unwrap_or_default(), part: THIRD };
    let kept = figure(|run| run.kept_cpu);
    report.add("server CPU per certificate, kept connections", Unit::Seconds, &kept, third(kept));
    report.add("… certificates a second", Unit::Count, &figure(|run| run.kept_rate), Bound::None);
    let new = figure(|run| run.new_cpu);
    report.add("server CPU per certificate, new connections", Unit::Seconds, &new, third(new));
    report.add("… certificates a second", Unit::Count, &figure(|run| run.new_rate), Bound::None);
    let rate = options.rate;
    report.add(format!("at {rate}/s on new connections: p50"), Unit::Seconds, &figure(|run| run.p50), Bound::None);
    report.add("… p99", Unit::Seconds, &figure(|run| run.p99), Bound::AtMost(P99_SECONDS));
    report.add("… failed", Unit::Count, &figure(|run| run.failed), Bound::AtMost(0.0));
    Ok(())
}

/// One run of both sides.
async fn signing(programs: &Programs, options: &Options) -> Result<[Signing; 2]> {
    let mut loaded = Vec::new();
    for side in SIDES {
        let server = standalone(programs, side)?;
        let load = Arc::new(Load::new(dial(&server)?, requests()?));
        load.closed_loop(&mut load.callers(Connections::New).await?, WARM_UP).await?;
        loaded.push((server, load));
    }
    let kept = costs(&loaded, Connections::Kept, options.kept).await?;
    let new = costs(&loaded, Connections::New, options.new).await?;
    let mut signing = [Signing::default(); 2];
    for (side, (_, load)) in loaded.iter().enumerate() {
        let mut latencies = load::at_rate(load, options.rate, Duration::from_secs(options.rate_time)).await?;
        let failed = count_of(latencies.failed as u64);
        let mut seconds = |share| quantile(&mut latencies.took, share).as_secs_f64();
        let ((kept_cpu, kept_rate), (new_cpu, new_rate)) = (kept[side], new[side]);
        signing[side] =
            Signing { kept_cpu, kept_rate, new_cpu, new_rate, p50: seconds(0.5), p99: seconds(0.99), failed };
    }
    Ok(signing)
}

/// Seconds of the server's CPU for one certificate, and certificates a second, of each side in turns.
async fn costs(sides: &[(Server, Arc<Load>)], connections: Connections, total: usize) -> Result<Vec<(f64, f64)>> {
    let mut callers = Vec::new();
    for (server, load) in sides {
        callers.push((load.callers(connections).await?, server.usage()?.cpu, Duration::ZERO));
    }
    let share = total.div_ceil(TURNS);
    for _ in 0..TURNS {
        for ((_, load), (callers, _, took)) in sides.iter().zip(&mut callers) {
            *took += load.closed_loop(callers, share).await?;
        }
    }
    let total = count_of((share * TURNS) as u64);
    let cost = |((server, _), (_, before, took)): (&(Server, _), (_, Duration, Duration))| {
        let spent = server.usage()?.cpu.saturating_sub(before);
        Ok((spent.as_secs_f64() / total, total / took.as_secs_f64()))
    };
    sides.iter().zip(callers).map(cost).collect()
}

/// What the insecure validator grants, with Ed25519 keys as 1.18 sidecars have.
fn requests() -> Result<Vec<SignCertificateRequest>> {
    let request = || {
        Ok(SignCertificateRequest {
            id: APP_ID.into(),
            namespace: NAMESPACE.into(),
            certificate_signing_request: signing_request()?.1,
            ..SignCertificateRequest::default()
        })
    };
    (0..KEYS).map(|_| request()).collect()
}

fn compare_memory(options: &Options, programs: &Programs, report: &mut Report) -> Result<()> {
    let mut figures = Vec::new();
    for side in SIDES {
        let measured = memory(programs, side, options.pods)
            .with_context(|| format!("{} with {} pods", side.name(), options.pods))?;
        say(format!("{}: {measured:?}", side.name()));
        figures.push(measured);
    }
    let figure = |pick: fn(&Memory) -> f64| figures.iter().map(|figure| Some(pick(figure))).collect::<Vec<_>>();
    let (pods, dapr) = (options.pods, options.pods / 10);
    let what = format!("{pods} pods, {dapr} of them Dapr's: VmRSS");
    report.add(what, Unit::Mebibytes, &figure(|memory| memory.rss), Bound::AtMost(PODS_RSS_MIB));
    report.add("… RssAnon", Unit::Mebibytes, &figure(|memory| memory.anon), Bound::None);
    report.add("… peak", Unit::Mebibytes, &figure(|memory| memory.peak), Bound::None);
    report.add("… CPU per certificate with token review", Unit::Seconds, &figure(|memory| memory.cpu), Bound::None);
    Ok(())
}

/// A sentry in Kubernetes mode that listed all pods and then certified each Dapr pod.
fn memory(programs: &Programs, side: Side, pods: usize) -> Result<Memory> {
    let cluster = Cluster::start(pods, pods / 10)?;
    say(format!("{} pods of {} bytes", pods, cluster.mean_pod_bytes()));
    let start = Start::new(programs.path(side, "sentry"))?;
    let (kubeconfig, folder) = (start.path("kubeconfig"), start.path("credentials"));
    fs::write(&kubeconfig, cluster.kubeconfig()).context("write a kubeconfig")?;
    fs::create_dir(&folder).context("make sentry's folder")?;
    let server = start
        .flag("--mode=kubernetes")
        .flag("--trust-domain=cluster.local")
        .flag(format!("--kubeconfig={}", kubeconfig.display()))
        .flag(format!("--issuer-credentials={}", folder.display()))
        .variable("NAMESPACE", CONTROL_PLANE)
        .variable("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
        .run()?;
    let runtime = load_runtime()?;
    let spent = runtime.block_on(async {
        let sentry = credentials::Sentry::new(&server.address(), cluster.anchors().await?)?;
        let requests = pod_requests(&cluster)?;
        let total = requests.len();
        let load = Load::new(sentry, requests);
        let before = server.usage()?.cpu;
        load.closed_loop(&mut load.callers(Connections::New).await?, total).await?;
        let spent = server.usage()?.cpu.saturating_sub(before);
        anyhow::Ok(spent.as_secs_f64() / count_of(total as u64))
    })?;
    std::thread::sleep(IDLE);
    let usage = server.usage()?;
    Ok(Memory { rss: mib(usage.rss_kib), anon: mib(usage.anon_kib), peak: mib(usage.peak_kib), cpu: spent })
}

fn pod_requests(cluster: &Cluster) -> Result<Vec<SignCertificateRequest>> {
    let (_, csr) = signing_request()?;
    let request = |pod: &pods::Pod| SignCertificateRequest {
        id: pod.app_id.clone().unwrap_or_default(),
        namespace: pod.namespace.clone(),
        token: token(pod),
        certificate_signing_request: csr.clone(),
        ..SignCertificateRequest::default()
    };
    Ok(cluster.dapr_pods().map(request).collect())
}

#[allow(clippy::cast_precision_loss, reason = "counts and KiB are far below 2^52")]
fn count_of(number: u64) -> f64 {
    number as f64
}

fn mib(kib: u64) -> f64 {
    count_of(kib) / 1024.0
}
