//! Nobody stays locked longer than the limits of a round allow. When the leader's process stalls or its
//! clock leaps, the limit that runs begins anew, so that once more is allowed, and the stall.

use std::time::Duration;

use super::world::{Fault, World};
use super::{catches, holds};

/// LOCK 4.5 s, UPDATE 8 s, and time for the messages.
const BOUND: Duration = Duration::from_secs(13);
/// The longest limit.
const AGAIN: Duration = Duration::from_secs(8);

fn observe(world: &World) -> Result<(), String> {
    // A frozen sidecar, or one whose leader is gone, is not the round's to unlock.
    let concerned = world.sidecars.iter().filter(|s| s.alive && !s.was_frozen && world.machine().is_some());
    for sidecar in concerned.filter(|s| s.stream.is_some()) {
        let bound = |since| {
            let (times, stalled) = world.stalls_since(since);
            BOUND + AGAIN * times + stalled
        };
        if let Some(since) = sidecar.locked_since.filter(|since| world.now() > *since + bound(*since)) {
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
