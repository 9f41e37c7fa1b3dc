//! A host whose own end was seen is in no table that is fixed afterwards.

use super::world::{Fault, World};
use super::{catches, holds};

fn observe(world: &World) -> Result<(), String> {
    match world.violation() {
        Some(violation) if violation.contains("whose end was seen") => Err(violation.clone()),
        _ => Ok(()),
    }
}

#[test]
fn a_departed_host_is_in_no_later_table() {
    holds(observe);
}

#[test]
fn an_end_that_goes_unnoticed_is_noticed_here() {
    catches(Fault::UnnoticedEnd, observe);
}
