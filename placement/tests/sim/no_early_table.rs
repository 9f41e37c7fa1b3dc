//! No UPDATE before every live host of the round acknowledged its LOCK.

use super::world::{Fault, World};
use super::{catches, holds};

fn observe(world: &World) -> Result<(), String> {
    match world.violation() {
        Some(violation) if violation.contains("acknowledge") => Err(violation.clone()),
        _ => Ok(()),
    }
}

#[test]
fn no_table_is_given_out_before_the_last_lock_acknowledgement() {
    holds(observe);
}

#[test]
fn a_skipped_acknowledgement_check_is_noticed() {
    catches(Fault::SkippedAckCheck, observe);
}
