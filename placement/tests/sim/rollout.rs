//! A rollout of 500 replicas in 60 s: few rounds, no timeout, and no departed host stays for long.

use std::time::Duration;

use super::world::{World, ms};

const REPLICAS: usize = 500;
const MOST_ROUNDS: u64 = 60;
const LONGEST_GHOST: Duration = Duration::from_secs(1);

#[test]
fn a_rollout_of_five_hundred_replicas_takes_at_most_sixty_rounds() {
    let mut world = World::of_v118(7, 2 * REPLICAS);
    for index in 0..REPLICAS {
        world.connect_at(ms(0), index);
        let at = ms(10_000 + 120 * index as u64);
        world.crash_at(at, index);
        world.connect_at(at + ms(50), REPLICAS + index);
    }
    let (mut before, mut looked) = (None, Duration::ZERO);
    while world.advance() {
        if world.now() >= ms(10_000) {
            before.get_or_insert(world.rounds);
        }
        if world.now() < looked + ms(25) {
            continue;
        }
        looked = world.now();
        let Some(machine) = world.machine() else { continue };
        for (name, left) in world.departed().iter().filter(|(_, left)| world.now() > **left + LONGEST_GHOST) {
            assert!(!machine.table().hosts.contains_key(name), "{name} left at {left:?}, now {:?}", world.now());
        }
    }
    let rounds = world.rounds - before.expect("the rollout began");
    println!("{rounds} rounds, {} before", before.unwrap_or_default());
    assert!(rounds <= MOST_ROUNDS, "{rounds} rounds");
    assert_eq!(world.timeouts, 0);
    assert_eq!(world.violation(), None);
    assert_eq!(world.machine().map(|m| m.table().hosts.len()), Some(REPLICAS));
}
