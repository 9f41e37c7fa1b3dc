//! A sidecar's LOCK is followed by exactly one UPDATE and UNLOCK, or by the end of its stream; versions on
//! a stream never fall; a hosting sidecar finds itself in its first table.

use super::world::{Fault, World};
use super::{catches, holds};

fn observe(world: &World) -> Result<(), String> {
    world.violation().map_or(Ok(()), |violation| Err(violation.clone()))
}

#[test]
fn every_lock_is_paired_and_every_table_comes_in_order() {
    holds(observe);
}

#[test]
fn a_second_lock_to_a_1_16_sidecar_is_noticed() {
    catches(Fault::SecondLock, observe);
}
