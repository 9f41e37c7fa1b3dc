//! No two sidecars run the same actor at the same time.
//!
//! Left out: sidecars that were frozen, since no fencing exists in the protocol (RULINGS 21); and those
//! whose hold or drain the leader's clock leapt over, see [`World::cut_short`]. A leader that stalls, and
//! any other leap, takes nothing back.

use std::sync::Arc;

use super::sidecar::Sidecar;
use super::world::{Fault, World};
use super::{catches, holds};

const ACTORS: u64 = 8;

fn observe(world: &World) -> Result<(), String> {
    if !world.moved() {
        return Ok(());
    }
    for actor_type in ["a", "b", "c"].map(Arc::from) {
        for actor in 0..ACTORS {
            let provable = world.sidecars.iter().filter(|s| !s.was_frozen && !world.cut_short(s));
            let runs = |s: &&Sidecar| s.claims(&actor_type, actor) || s.drains(world.now(), &actor_type, actor);
            let mut claims = provable.filter(runs);
            if let (Some(one), Some(other)) = (claims.next(), claims.next()) {
                return Err(format!("{} and {} both run {actor_type}/{actor}", one.name, other.name));
            }
        }
    }
    Ok(())
}

#[test]
fn an_actor_never_runs_on_two_hosts() {
    holds(observe);
}

#[test]
fn turns_that_1_16_still_runs_are_noticed() {
    catches(Fault::SkippedDrain, observe);
}

#[test]
fn a_skipped_hold_is_noticed() {
    catches(Fault::SkippedHold, observe);
}
