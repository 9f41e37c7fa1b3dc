//! Nobody stays locked longer than the limits of a round allow.

use std::time::Duration;

use super::world::{Fault, World};
use super::{catches, holds};

/// LOCK 4.5 s, UPDATE 8 s, and time for the messages.
const BOUND: Duration = Duration::from_secs(13);

fn observe(world: &World) -> Result<(), String> {
    // A frozen sidecar, or one whose leader is gone, is not the round's to unlock.
    let concerned = world.sidecars.iter().filter(|s| s.alive && !s.was_frozen && world.machine().is_some());
    for sidecar in concerned.filter(|s| s.stream.is_some()) {
        if let Some(since) = sidecar.locked_since.filter(|since| world.now() > *since + BOUND) {
            return Err(format!("{} is locked since {since:?}", sidecar.name));
        }
    }
    Ok(())
}

#[test]
fn nobody_is_left_locked() {
    holds(observe);
}

#[test]
fn a_lost_unlock_is_noticed() {
    catches(Fault::LostUnlock, observe);
}
