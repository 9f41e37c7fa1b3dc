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

/// Turns of one type that 1.16 sidecars may still run.
struct Turns {
    until: Moment,
    /// One of them gives all of its actors up: everyone who has the type takes some.
    given_up: bool,
}

impl Turns {
    fn until(until: Moment) -> Self {
        Self { until, given_up: false }
    }
}

impl Dissemination {
    /// Notes who takes actors from 1.16 sidecars of the running round when its table is `after`.
    pub(super) fn note_takers(&mut self, after: &Hosts) {
        let before = self.fixed.clone();
        let turns = self.running_turns(&before.hosts, after);
        if turns.is_empty() {
            return;
        }
        for (name, entry) in after {
            let had = before.hosts.get(name).filter(|had| had.id == entry.id && had.port == entry.port);
            let new = |entity| !had.is_some_and(|had| hosts(had, entity));
            let takes = |entity| turns.get(entity).filter(|turns| turns.given_up || new(entity));
            let Some(until) = entry.entities.iter().filter_map(takes).map(|turns| turns.until).max() else { continue };
            let streams = self.by_name.get(name).into_iter().flatten();
            self.takers.extend(streams.filter(|id| self.streams[id].generation.is_sidecar()).map(|id| (*id, until)));
            if self.holds.contains_key(name) {
                self.absent_takers.insert(name.clone(), until);
            }
        }
        self.given_up.extend(turns.into_iter().filter(|(_, turns)| turns.given_up).map(|(name, t)| (name, t.until)));
    }

    /// Actor types of which 1.16 sidecars of the round may run turns, or gave all up a moment ago.
    fn running_turns(&mut self, before: &Hosts, after: &Hosts) -> BTreeMap<Arc<str>, Turns> {
        let now = self.round.phase_started;
        self.given_up.retain(|_, until| now < *until);
        let remembered = self.given_up.iter().map(|(name, until)| (name.clone(), Turns::until(*until)));
        let mut turns: BTreeMap<_, _> = remembered.collect();
        let until = self.round.started + self.settings.limits.v116_drain;
        for name in self.round.v116.iter().map(|id| &self.streams[id].host.name) {
            let keeps = after.get(name);
            for entity in before.get(name).iter().flat_map(|entry| &entry.entities) {
                let turns = turns.entry(entity.clone()).or_insert(Turns::until(until));
                turns.until = until;
                turns.given_up |= !keeps.is_some_and(|entry| hosts(entry, entity));
            }
        }
        turns
    }

    /// A held host that is back may have to wait, too.
    pub(super) fn note_return(&mut self, id: StreamId, name: &Arc<str>) {
        if let Some(until) = self.absent_takers.remove(name) {
            self.takers.insert(id, until);
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

    /// Unlocks the takers whose time has come, and lets in those that are queued. During a round they wait
    /// for its own UNLOCK.
    pub(super) fn unlock_takers(&mut self, now: Moment, out: &mut Vec<Command>) {
        if self.round.phase != Phase::Idle {
            return;
        }
        self.absent_takers.retain(|_, until| now < *until);
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
