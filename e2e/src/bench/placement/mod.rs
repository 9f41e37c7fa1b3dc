//! Placement under sidecars that join at once, change and stay.
//!
//! The bounds are those of the issue: against upstream without its coalescing flag where they are
//! shares, and no slower than upstream with it at 200 ms. Sidecars arrive in two ways. One after
//! another, each as soon as the one before is connected: upstream, busy with the first ones, begins a
//! round for nearly each of the rest. Or all in the same moment, which upstream finds easier: by the
//! end of its first round nearly all wait, and one more serves them.

mod fleet;
mod sidecar;
mod tally;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use rustls::ClientConfig;
use tokio::runtime::{Builder, Runtime};

use super::credentials;
use super::programs::{Programs, Side};
use super::report::{Bound, Report, Unit, machine};
use super::samples::{median, quantile};
use super::sentry::standalone;
use super::server::{Server, Start};
use super::{Bench, IDLE, IDLE_ANON_MIB, IDLE_RSS_MIB};
use crate::progress::say;
use fleet::{Arrivals, Fleet};
use wire::Size;

/// How long a fleet may take to settle; upstream needs half a minute for a thousand.
const SETTLE: Duration = Duration::from_mins(3);
/// Between changes: both sides have forgotten the last one by then.
const QUIET: Duration = Duration::from_secs(2);
/// Changes of one host that are timed.
const CHANGES: usize = 5;
/// Bounds of the issue.
const STREAM_KIB: f64 = 28.0;
const ROUNDS: f64 = 10.0;

/// How large the fleets are.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Sidecars that join at once, in the comparison.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub sidecars: usize,
    /// Sidecars that must settle without a lost stream, ours only.
    #[arg(long, value_name = "COUNT", default_value_t = 5000)]
    pub many: usize,
    /// Leave out the comparison with upstream.
    #[arg(long)]
    pub ours_only: bool,
}

/// A contestant: whose placement and with which window.
#[derive(Debug, Clone, Copy)]
struct Contestant {
    side: Side,
    window: &'static str,
    label: &'static str,
}

const CONTESTANTS: [Contestant; 3] = [
    Contestant { side: Side::Upstream, window: "0s", label: "upstream" },
    Contestant { side: Side::Upstream, window: "200ms", label: "upstream, 200 ms window" },
    Contestant { side: Side::Ours, window: "0s", label: "ours" },
];

/// The figures of one fleet in one process; times in seconds, memory in MiB.
#[derive(Debug, Clone, Copy, Default)]
struct Joined {
    hold: f64,
    unlocked: f64,
    rounds: f64,
    cpu: f64,
    peak: f64,
    blocked_p50: f64,
    blocked_p99: f64,
    change: f64,
    change_blocked_p99: f64,
    lost: f64,
}

/// Measures and prints.
pub fn run(bench: &Bench, options: &Options) -> Result<()> {
    let programs = Programs::build(bench.binaries.as_deref())?;
    let machine = machine();
    let mut report = Report::new(&CONTESTANTS.map(|contestant| contestant.label));
    compare_joins(bench, options, &programs, &mut report)?;
    settle_many(options, &programs, &mut report)?;
    compare_idle(options, &programs, &mut report)?;
    println!("\nplacement, {machine}; medians of {} runs\n\n{}", bench.repeat, report.markdown());
    Ok(())
}

fn contestants(options: &Options) -> impl Iterator<Item = (usize, Contestant)> {
    let ours_only = options.ours_only;
    CONTESTANTS.into_iter().enumerate().filter(move |(_, contestant)| !ours_only || contestant.side == Side::Ours)
}

fn compare_joins(bench: &Bench, options: &Options, programs: &Programs, report: &mut Report) -> Result<()> {
    let n = options.sidecars;
    let scenes = [(Arrivals::InTurn, "one after another"), (Arrivals::AllAtOnce, "in the same moment")];
    for (arrivals, how) in scenes {
        let mut runs: [Vec<Joined>; 3] = Default::default();
        for _ in 0..bench.repeat {
            for (index, contestant) in contestants(options) {
                let joined = join(programs, contestant, n, arrivals)
                    .with_context(|| format!("{n} sidecars {how} on {}", contestant.label))?;
                say(format!("{n} {how}, {}: {}", contestant.label, joined.line()));
                runs[index].push(joined);
            }
        }
        add_joins(report, &format!("{n} join {how}"), &runs);
        if arrivals == Arrivals::InTurn {
            add_change(report, n, &runs);
        }
    }
    Ok(())
}

type Figures = [Option<f64>; 3];

/// The median of a figure of each contestant.
fn medians(runs: &[Vec<Joined>; 3], pick: fn(&Joined) -> f64) -> Figures {
    runs.each_ref().map(|runs| (!runs.is_empty()).then(|| median(runs.iter().map(pick))))
}

/// A bound that is a part of upstream's figure, where there is one.
fn share(of: Option<f64>, part: f64) -> Bound {
    of.map_or(Bound::None, |of| Bound::Share { of, part })
}

fn add_joins(report: &mut Report, title: &str, runs: &[Vec<Joined>; 3]) {
    let hold = medians(runs, |run| run.hold);
    report.add(format!("{title}: all hold the full table"), Unit::Seconds, &hold, share(hold[0], 0.2));
    let beside = [hold[1], None, hold[2]];
    report.add("… beside upstream with its window", Unit::Seconds, &beside, share(hold[1], 1.0));
    report.add("… all unlocked", Unit::Seconds, &medians(runs, |run| run.unlocked), Bound::None);
    report.add("… rounds", Unit::Count, &medians(runs, |run| run.rounds), Bound::AtMost(ROUNDS));
    let cpu = medians(runs, |run| run.cpu);
    report.add("… server CPU", Unit::Seconds, &cpu, share(cpu[0], 0.1));
    let peak = medians(runs, |run| run.peak);
    report.add("… peak memory", Unit::Mebibytes, &peak, share(peak[0], 0.125));
    report.add("… UPDATE→UNLOCK p50", Unit::Seconds, &medians(runs, |run| run.blocked_p50), Bound::None);
    let p99 = medians(runs, |run| run.blocked_p99);
    report.add("… UPDATE→UNLOCK p99", Unit::Seconds, &p99, share(p99[0], 1.0 / 3.0));
    report.add("… streams lost", Unit::Count, &medians(runs, |run| run.lost), Bound::AtMost(0.0));
}

fn add_change(report: &mut Report, n: usize, runs: &[Vec<Joined>; 3]) {
    let change = medians(runs, |run| run.change);
    report.add(format!("one of {n} changes: all unlocked"), Unit::Seconds, &change, share(change[0], 0.5));
    report.add("… UPDATE→UNLOCK p99", Unit::Seconds, &medians(runs, |run| run.change_blocked_p99), Bound::None);
}

/// A fresh placement, plaintext.
fn placement(programs: &Programs, contestant: Contestant) -> Result<Server> {
    let start = Start::new(programs.path(contestant.side, "placement"))?;
    lead(start.flag(format!("--disseminate-coalesce-window={}", contestant.window)))
}

/// Starts a placement and waits until it leads.
fn lead(start: Start) -> Result<Server> {
    let raft = start.ports.raft;
    let mut server = start.flag(format!("--initial-cluster=dapr-placement-0=127.0.0.1:{raft}")).run()?;
    let leads = |line: &str| line.starts_with("dapr_placement_leader_status") && line.ends_with(" 1");
    server.wait("/metrics", server.ports.metrics, |answer| answer.body.lines().any(leads))?;
    Ok(server)
}

/// One thread: the other core is the server's.
fn load_runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("start the load's runtime")
}

fn join(programs: &Programs, contestant: Contestant, count: usize, arrivals: Arrivals) -> Result<Joined> {
    let server = placement(programs, contestant)?;
    load_runtime()?.block_on(async {
        let before = server.usage()?;
        let started = Instant::now();
        let mut fleet = Fleet::join(count, arrivals, &server.address(), None);
        let unlocked_at = fleet.settled(SETTLE).await?;
        let after = server.usage()?;
        let mut blocked = std::mem::take(&mut fleet.tally.blocked);
        let seconds = |at: Instant| (at - started).as_secs_f64();
        let mut joined = Joined {
            hold: fleet.tally.all_hold_at.map(seconds).unwrap_or_default(),
            unlocked: seconds(unlocked_at),
            rounds: count_of(fleet.tally.version),
            cpu: after.cpu.saturating_sub(before.cpu).as_secs_f64(),
            peak: mib(after.peak_kib),
            blocked_p50: quantile(&mut blocked, 0.5).as_secs_f64(),
            blocked_p99: quantile(&mut blocked, 0.99).as_secs_f64(),
            ..Joined::default()
        };
        joined.change = changes(&mut fleet, count).await?;
        joined.change_blocked_p99 = quantile(&mut fleet.tally.blocked, 0.99).as_secs_f64();
        joined.lost = count_of(fleet.tally.lost as u64);
        if let Some(reason) = &fleet.tally.last_loss {
            say(format!("{} streams lost, the last one: {reason}", fleet.tally.lost));
        }
        Ok(joined)
    })
}

/// One host takes up a type and drops it again, in turns; the median time until all are unlocked.
async fn changes(fleet: &mut Fleet, count: usize) -> Result<f64> {
    let mut times = Vec::with_capacity(CHANGES);
    for turn in 0..CHANGES {
        fleet.stay(QUIET).await;
        let types: &[&str] = if turn % 2 == 0 { &["type", "other"] } else { &["type"] };
        let changed = Instant::now();
        fleet.change(count / 2, types, Size { types: types.len(), hosts: count });
        times.push((fleet.settled(SETTLE).await? - changed).as_secs_f64());
    }
    Ok(median(times))
}

fn settle_many(options: &Options, programs: &Programs, report: &mut Report) -> Result<()> {
    let joined = join(programs, CONTESTANTS[2], options.many, Arrivals::AllAtOnce)
        .with_context(|| format!("{} sidecars on our placement", options.many))?;
    say(format!("{} sidecars, ours: {}", options.many, joined.line()));
    let mut ours = |what: String, unit, figure, bound| report.add(what, unit, &[None, None, Some(figure)], bound);
    ours(
        format!("{} join in the same moment: all hold the full table", options.many),
        Unit::Seconds,
        joined.hold,
        Bound::None,
    );
    ours("… rounds".into(), Unit::Count, joined.rounds, Bound::None);
    ours("… server CPU".into(), Unit::Seconds, joined.cpu, Bound::None);
    ours("… peak memory".into(), Unit::Mebibytes, joined.peak, Bound::None);
    ours("… UPDATE→UNLOCK p99".into(), Unit::Seconds, joined.blocked_p99, Bound::None);
    ours("… streams lost".into(), Unit::Count, joined.lost, Bound::AtMost(0.0));
    ours(format!("one of {} changes: all unlocked", options.many), Unit::Seconds, joined.change, Bound::None);
    Ok(())
}

/// Memory of an idle service and of its idle mTLS streams.
#[derive(Debug, Clone, Copy)]
struct Idle {
    rss: f64,
    anon: f64,
    stream_kib: f64,
}

fn compare_idle(options: &Options, programs: &Programs, report: &mut Report) -> Result<()> {
    let sentry = standalone(programs, Side::Ours)?;
    let mut idle = [None; 3];
    for (index, contestant) in contestants(options).filter(|(index, _)| *index != 1) {
        let measured = idle_streams(programs, contestant, &sentry, options.sidecars)?;
        say(format!("{}: {measured:?}", contestant.label));
        idle[index] = Some(measured);
    }
    let figure = |pick: fn(Idle) -> f64| idle.map(|idle| idle.map(pick));
    report.add("idle with mTLS: VmRSS", Unit::Mebibytes, &figure(|idle| idle.rss), Bound::AtMost(IDLE_RSS_MIB));
    report.add("… RssAnon", Unit::Mebibytes, &figure(|idle| idle.anon), Bound::AtMost(IDLE_ANON_MIB));
    let what = format!("memory of an idle mTLS stream, of {}", options.sidecars);
    report.add(what, Unit::Kibibytes, &figure(|idle| idle.stream_kib), Bound::AtMost(STREAM_KIB));
    Ok(())
}

fn idle_streams(programs: &Programs, contestant: Contestant, sentry: &Server, count: usize) -> Result<Idle> {
    let start = Start::new(programs.path(contestant.side, "placement"))?
        .flag("--tls-enabled")
        .flag(format!("--sentry-address={}", sentry.address()))
        .flag(format!("--trust-anchors-file={}", sentry.path("credentials/ca.crt").display()));
    let server = lead(start)?;
    std::thread::sleep(IDLE);
    let before = server.usage()?;
    load_runtime()?.block_on(async {
        let tls = sidecar_tls(sentry).await?;
        let mut fleet = Fleet::join(count, Arrivals::AllAtOnce, &server.address(), Some(&tls));
        fleet.settled(SETTLE).await?;
        fleet.stay(IDLE).await;
        let after = server.usage()?;
        Ok(Idle {
            rss: mib(before.rss_kib),
            anon: mib(before.anon_kib),
            stream_kib: count_of(after.rss_kib.saturating_sub(before.rss_kib)) / count_of(count as u64),
        })
    })
}

async fn sidecar_tls(sentry: &Server) -> Result<Arc<ClientConfig>> {
    let anchors = std::fs::read(sentry.path("credentials/ca.crt")).context("read sentry's trust anchors")?;
    credentials::Sentry::new(&sentry.address(), anchors)?.sidecar_tls().await
}

#[allow(clippy::cast_precision_loss, reason = "counts and KiB are far below 2^52")]
fn count_of(number: u64) -> f64 {
    number as f64
}

fn mib(kib: u64) -> f64 {
    count_of(kib) / 1024.0
}

impl Joined {
    fn line(&self) -> String {
        let Self { hold, unlocked, rounds, cpu, peak, blocked_p50, blocked_p99, change, change_blocked_p99, lost } =
            self;
        format!(
            "full {hold:.2} s, unlocked {unlocked:.2} s, {rounds} rounds, cpu {cpu:.2} s, peak {peak:.0} MiB, \
             update→unlock p50 {blocked_p50:.3} s p99 {blocked_p99:.3} s; change {change:.3} s, p99 {change_blocked_p99:.3} s; \
             {lost} lost"
        )
    }
}
