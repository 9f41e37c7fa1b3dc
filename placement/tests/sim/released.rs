//! After the faults have stopped, no live sidecar has a type blocked that its table names: what a stream
//! that was lost between UPDATE and UNLOCK left behind in 1.18 is released (G10, W24).

use super::world::{END, Fault, World, ms};
use super::{catches, holds};

fn observe(world: &World) -> Result<(), String> {
    if world.now() + ms(5000) < END {
        return Ok(());
    }
    for sidecar in &world.sidecars {
        let stuck = sidecar.stuck();
        if !stuck.is_empty() {
            return Err(format!("{} has {stuck:?} blocked", sidecar.name));
        }
    }
    Ok(())
}

#[test]
fn no_type_is_left_blocked_by_a_stream_that_was_lost() {
    holds(observe);
}

#[test]
fn types_that_are_not_sent_before_the_first_table_are_noticed() {
    catches(Fault::SkippedTypes, observe);
}
