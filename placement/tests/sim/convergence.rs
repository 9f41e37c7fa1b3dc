//! After the faults have stopped, every live sidecar is connected, unlocked, and holds the table of
//! exactly the live hosts.

use std::collections::BTreeSet;

use super::world::{END, World, ms};
use super::{catches, holds};
use crate::Fault;

fn observe(world: &World) -> Result<(), String> {
    if world.now() + ms(5000) < END {
        return Ok(());
    }
    let live = || world.sidecars.iter().filter(|s| s.alive);
    let hosting: BTreeSet<_> = live().filter(|s| !s.types.is_empty()).map(|s| s.name.clone()).collect();
    let version = world.machine().map(|m| m.table().version);
    for sidecar in live() {
        let Some(table) = &sidecar.table else { return Err(format!("{} has no table", sidecar.name)) };
        if sidecar.locked_since.is_some() {
            return Err(format!("{} is locked", sidecar.name));
        }
        if Some(table.version) != version {
            return Err(format!("{} holds table {} of {version:?}", sidecar.name, table.version));
        }
        if table.hosts.keys().cloned().collect::<BTreeSet<_>>() != hosting {
            return Err(format!("table {} names {:?}, live are {hosting:?}", table.version, table.hosts.keys()));
        }
    }
    Ok(())
}

#[test]
fn everything_is_in_order_again_after_the_faults_stop() {
    holds(observe);
}

#[test]
fn lost_unlocks_do_not_heal() {
    catches(Fault::LostUnlock, observe);
}
