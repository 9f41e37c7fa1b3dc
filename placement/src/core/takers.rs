//! Hosts that take actors over from 1.16 sidecars, and when they may begin.
//!
//! 1.16 acknowledges nothing, so LOCK is acknowledged on its behalf at once (RULINGS 15). But at LOCK it
//! goes on with the turns that run, for up to 2 s, and reads no further order meanwhile. Whoever gets
//! actors that such a host had is therefore unlocked only when those turns are over. Nobody else waits
//! for that: UPDATE, everybody else's UNLOCK and the next round go on, and a taker takes part in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::command::Command;
use super::dissemination::Dissemination;
use super::host::{Entry, Generation};
use super::moment::Moment;
use super::resume::Hosts;
use super::round::Phase;
use super::stream::StreamId;

impl Dissemination {
    /// Notes who takes actors from 1.16 sidecars of the running round when its table is `after`.
    pub(super) fn note_takers(&mut self, after: &Hosts) {
        let before = self.fixed.clone();
        // Actor types of 1.16 sidecars, and whether one of them gives all of its actors up.
        let mut running: BTreeMap<&Arc<str>, bool> = BTreeMap::new();
        for name in self.round.v116.iter().map(|id| &self.streams[id].host.name) {
            let keeps = after.get(name);
            for entity in before.hosts.get(name).iter().flat_map(|entry| &entry.entities) {
                *running.entry(entity).or_default() |= !keeps.is_some_and(|entry| hosts(entry, entity));
            }
        }
        if running.is_empty() {
            return;
        }
        let until = self.round.started + self.settings.limits.v116_drain;
        for (id, stream) in self.streams.iter().filter(|(_, s)| s.in_round && s.generation.is_sidecar()) {
            let Some(entry) = after.get(&stream.host.name) else { continue };
            let had = before.hosts.get(&stream.host.name).filter(|had| had.id == entry.id && had.port == entry.port);
            let new = |entity| !had.is_some_and(|had| hosts(had, entity));
            if entry.entities.iter().any(|entity| running.get(entity).is_some_and(|all| *all || new(entity))) {
                self.takers.insert(*id, until);
            }
        }
    }

    /// Whether the turns that a stream might run a second time are over.
    pub(super) fn may_go_on(&self, now: Moment, id: StreamId) -> bool {
        self.takers.get(&id).is_none_or(|until| *until <= now)
    }

    /// The round goes on without the UNLOCK of these takers. A 1.16 sidecar among them must not be locked
    /// again before it.
    pub(super) fn leave_locked(&mut self, takers: Vec<StreamId>) {
        for id in takers {
            let generation = self.streams[&id].generation;
            self.round.forget(id, generation);
            if generation == Generation::V116 {
                self.round.v116.remove(&id);
                self.owed_unlocks.entry(id).or_insert(self.round.started);
            }
        }
    }

    /// Unlocks the takers whose time has come. During a round they wait for its own UNLOCK.
    pub(super) fn unlock_takers(&mut self, now: Moment, out: &mut Vec<Command>) {
        if self.round.phase != Phase::Idle {
            return;
        }
        let over = self.takers.extract_if(.., |_, until| *until <= now).map(|(id, _)| id);
        let locked = over.filter(|id| self.streams.get(id).is_some_and(|s| s.locked.is_some())).collect();
        self.unlock_streams(locked, out);
    }

    /// When the first taker may go on, if no round runs.
    pub(super) fn taker_deadline(&self) -> Option<Moment> {
        self.takers.values().min().copied().filter(|_| self.round.phase == Phase::Idle)
    }
}

fn hosts(entry: &Entry, entity: &Arc<str>) -> bool {
    entry.entities.binary_search(entity).is_ok()
}
