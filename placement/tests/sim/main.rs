//! A simulated namespace: the pure machine, a replicated ledger, and sidecars of three generations that
//! behave as placement.md §7 describes, under crashes, resets, freezes, slow hosts, lost
//! and stalled leaders and clocks that leap.
//!
//! One seed decides everything. `SIM_SEEDS=5000 cargo test -p placement --test sim` runs more of them,
//! `SIM_SEED=42 cargo test -p placement --test sim` replays one and prints its history.
//!
//! [`cluster`] plays three whole replicas with Raft on top of the same sidecars.
//!
//! One file per invariant; each says what is observed, and each is shown to catch an injected fault.

mod bounded_lock;
mod cluster;
mod convergence;
mod departed_hosts;
mod no_early_table;
mod pairing;
mod patience;
#[path = "../support/peer.rs"]
mod peer;
mod released;
mod rollout;
mod sidecar;
mod single_owner;
mod world;

use world::{Fault, World};

/// Seeds of one invariant's run in `make test`.
const SEEDS: u64 = 1000;

/// Runs an observer over many seeds; panics with the seed and the command that replays it.
fn explore(fault: Fault, observe: impl Fn(&World) -> Result<(), String>) -> Result<(), String> {
    let (seeds, replay) = (read("SIM_SEEDS").unwrap_or(SEEDS), read("SIM_SEED"));
    let range = replay.map_or(0..seeds, |seed| seed..seed + 1);
    for seed in range {
        let mut world = World::new(seed, fault, replay.is_some());
        while world.advance() {
            observe(&world).map_err(|violation| {
                format!("seed {seed} at {:?}: {violation}; replay with SIM_SEED={seed}", world.now())
            })?;
        }
    }
    Ok(())
}

fn read(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The invariant holds for every seed.
fn holds(observe: impl Fn(&World) -> Result<(), String>) {
    assert_eq!(explore(Fault::None, observe), Ok(()));
}

/// The invariant's observer notices this fault within the seeds.
fn catches(fault: Fault, observe: impl Fn(&World) -> Result<(), String>) {
    if read("SIM_SEED").is_none() {
        assert!(explore(fault, observe).is_err(), "{fault:?} went unnoticed");
    }
}

#[test]
fn a_seed_gives_the_same_history_every_time() {
    let history = |seed| {
        let mut world = World::new(seed, Fault::None, false);
        while world.advance() {}
        world.history()
    };
    for seed in 0..20 {
        assert_eq!(history(seed), history(seed), "seed {seed}");
    }
    assert_ne!(history(1), history(2));
}
