//! Only a sidecar's own slowness costs it its stream: one that answers in time keeps it, also when the
//! leader's process stalls or its clock leaps over the limit.
//!
//! Left out: 1.16 sidecars whose UNLOCK is overdue by the leader's clock; they count one themselves.

use super::world::{Fault, World};
use super::{catches, holds};

fn observe(world: &World) -> Result<(), String> {
    world.punished.clone().map_or(Ok(()), Err)
}

#[test]
fn a_healthy_sidecar_does_not_lose_its_stream_to_a_limit() {
    holds(observe);
}

#[test]
fn a_limit_that_is_too_short_is_noticed() {
    catches(Fault::HastyLimit, observe);
}
