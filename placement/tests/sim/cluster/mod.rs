//! A simulated cluster: three whole replicas (openraft with our store and state machine, lease, rejoin,
//! hub, gRPC service) and sidecars of three generations, in one thread and in virtual time.
//!
//! Left out are sockets, TLS and the disk below the database. The network delays, reorders, loses and
//! is cut in either direction; replicas crash, sleep, leave in order, stop all at once, lose their disk;
//! sidecars crash, reset, freeze and change their types. At [`CHAOS`] everything is undone, and by
//! [`END`] it must be in order again.
//!
//! One seed decides everything: each draw is keyed by what it decides, openraft's election time-outs
//! included. What a seed cannot decide is the order in which tokio polls two arms of a `select!` of
//! openraft, or two waiters of one channel, within an instant: see [`replay`].
//!
//! All invariants watch the same runs. Each has a file, which also shows that it notices a fault.

mod chance;
mod disk;
mod heal;
mod link;
mod one_actor_owner;
mod one_leader;
mod one_ledger;
mod orders;
mod plan;
mod replay;
mod replica;
mod sleep;
mod stream;
mod version;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use world::{Cluster, Seen};

use crate::read;

/// Seeds in `make test`; each is a minute of a cluster's life.
const SEEDS: u64 = 1000;
const REPLICAS: usize = 3;
/// Shorter than in production, to see holds run out; longer than a sidecar needs to notice a dead replica.
const HOLD: Duration = Duration::from_secs(10);
/// Faults happen until here; then everything heals.
pub const CHAOS: Duration = Duration::from_secs(25);
/// And here everything must be in order again: rejoin, hold, limits and reconnects have passed.
pub const END: Duration = Duration::from_mins(1);

/// A defect, to show that an invariant notices it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The vote is not written: a restarted replica does not know that it voted.
    UnpersistedVote,
    /// A replica's calls across a cut count as acknowledged.
    ForgedAcknowledgement,
    /// One replica writes facts without their content.
    HollowLog,
    /// A new leader does not hold the hosts of the lost one.
    SkippedHold,
    /// A 1.16 sidecar gets each LOCK twice.
    SecondLock,
    /// What was cut stays cut.
    UnmendedCut,
    /// A follower grants itself the leases that only the leader can.
    FollowerWithoutLease,
    /// Every crash loses the disk, also when all crash at once.
    EveryDiskLost,
    /// A follower's clock stands still while it sleeps.
    DozingClock,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chaos {
    /// A few faults of all kinds.
    Everything,
    /// Each election is contested by the leader before it; there are no sidecars.
    Elections,
    /// Two replicas lose their disk at once, as two pods without volumes do.
    Forgetful,
    /// One replica is cut off for longer than any hold.
    Isolation,
    /// One replica after the other sleeps for longer than it may carry streams.
    Sleep,
}

/// Watches a cluster; says what is wrong with it.
pub trait Invariant {
    fn check(&mut self, cluster: &Cluster, seen: &Seen) -> Result<(), String>;
}

type Make = fn() -> Box<dyn Invariant>;

const ALL: [(&str, Make); 8] = [
    ("heal", || Box::new(heal::Heal)),
    ("leaders in order", || Box::new(one_leader::InOrder)),
    ("one acting leader", || Box::new(one_leader::OneActing)),
    ("one ledger", || Box::<one_ledger::OneLedger>::default()),
    ("one owner", || Box::new(one_actor_owner::OneOwner)),
    ("orders", || Box::new(orders::Orders)),
    ("sleep", || Box::new(sleep::EndsAtOnce)),
    ("version", || Box::<version::NeverFalls>::default()),
];

/// First violation of each invariant by name.
type Violations = BTreeMap<&'static str, String>;

/// Plays one seed to its end.
fn play(seed: u64, fault: Fault, chaos: Chaos) -> (Violations, Vec<String>) {
    placement::raft::seed_thread(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let mut cluster = Cluster::start(seed, fault, chaos);
        let mut watching: Vec<_> = ALL.iter().map(|(name, make)| (*name, make())).collect();
        let mut violations = Violations::new();
        while let Some(seen) = cluster.advance().await {
            watching.retain_mut(|(name, invariant)| {
                let Err(violation) = invariant.check(&cluster, &seen) else { return true };
                let at = cluster.now();
                violations
                    .insert(name, format!("seed {seed} at {at:?}: {violation}; replay: SIM_SEED={seed} make sim"));
                false
            });
        }
        (violations, cluster.history().to_vec())
    })
}

/// Plays seeds on all cores until they are used up or `enough` is found; keeps the lowest seed's findings.
fn explore(
    seeds: std::ops::Range<u64>,
    what: (Fault, Chaos),
    enough: impl Fn(&Violations) -> bool + Sync,
) -> Violations {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<BTreeMap<&'static str, (u64, String)>> = Mutex::default();
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end {
            return;
        }
        let (violations, _) = play(seed, what.0, what.1);
        if enough(&violations) {
            next.store(seeds.end, Ordering::Relaxed);
        }
        let mut found = found.lock();
        for (name, text) in violations {
            println!("{:?} {name}: {text}", what.0);
            let first = found.entry(name).or_insert_with(|| (seed, text.clone()));
            if seed < first.0 {
                *first = (seed, text);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    found.into_inner().into_iter().map(|(name, (_, text))| (name, text)).collect()
}

/// The invariant holds for every seed. All invariants share one exploration.
fn holds(name: &str) {
    static HEALTHY: OnceLock<Violations> = OnceLock::new();
    assert!(ALL.iter().any(|(known, _)| *known == name), "no invariant is called {name}");
    let healthy = HEALTHY.get_or_init(|| {
        if let Some(seed) = read("SIM_SEED") {
            let (violations, history) = play(seed, Fault::None, Chaos::Everything);
            println!("{}", history.join("\n"));
            return violations;
        }
        let seeds = read("SIM_SEEDS").unwrap_or(SEEDS);
        println!("seeds 0 to {} of the cluster", seeds - 1);
        explore(0..seeds, (Fault::None, Chaos::Everything), |_| false)
    });
    assert_eq!(healthy.get(name), None);
}

/// The invariant holds under another chaos.
fn holds_under(chaos: Chaos, name: &str, seeds: u64) {
    if read("SIM_SEED").is_none() {
        assert_eq!(explore(0..seeds, (Fault::None, chaos), |_| false).get(name), None);
    }
}

/// The invariant notices this fault within so many seeds.
fn catches(name: &str, what: (Fault, Chaos), seeds: u64) {
    if read("SIM_SEED").is_none() {
        let found = explore(0..seeds, what, |violations| violations.contains_key(name));
        assert!(found.contains_key(name), "{:?} went unnoticed by {name}: {found:?}", what.0);
    }
}
