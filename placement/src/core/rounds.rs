//! How a namespace moves through its rounds: when one starts, when a phase is complete, what happens
//! to those who are late.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::command::{Command, EndReason, Order, Record};
use super::dissemination::Dissemination;
use super::host::Generation;
use super::ledger::Settled;
use super::moment::Moment;
use super::round::{Phase, Round};
use super::stream::{Leftovers, Stage, StreamId};
use super::table::Table;

impl Dissemination {
    /// Moves on until something outside is needed: an acknowledgement, a commit, or time.
    pub(super) fn advance(&mut self, now: Moment, out: &mut Vec<Command>) {
        self.expire_holds(now);
        loop {
            self.expire_limits(now, out);
            self.expire_owed_unlocks(now, out);
            self.unlock_takers(now, out);
            let done = self.round.nobody_owes();
            let moved = match self.round.phase {
                Phase::Idle => self.leave_idle(now, out),
                Phase::Lock if done => self.fix(now, out),
                Phase::Update if done => self.unlock(now, out),
                Phase::Unlock if done => self.finish(now, out),
                Phase::Lock | Phase::Commit | Phase::Update | Phase::Unlock => false,
            };
            if !moved {
                return;
            }
        }
    }

    /// The moment the oldest pending change that may be acted on is due.
    fn due(&self) -> Option<Moment> {
        if self.forced {
            return Some(Moment::default());
        }
        let may_grow = self.may_grow();
        let pending = || self.changes.values().filter(move |c| c.left.is_some() || (c.grows && may_grow));
        let oldest = pending().map(|c| c.since).min()?;
        if self.settings.coalesce_window.is_zero() {
            return Some(self.adaptive.due(oldest, pending().filter_map(|c| c.left).min()));
        }
        Some(oldest)
    }

    /// The configured window, unless it is over or a known stream's report bypasses it.
    fn open_window(&self) -> Option<Moment> {
        self.window.filter(|_| !self.bypass)
    }

    /// Whether the last table may not have reached everyone who may still act by an older one.
    fn is_unsettled(&self) -> bool {
        let away = !self.holds.is_empty() || self.stale.iter().any(|id| self.must_wait(*id));
        self.knows_no_table_before() && away
    }

    /// Whether it takes actors over and may not go on yet, nor is it owed an UNLOCK.
    fn must_wait(&self, id: StreamId) -> bool {
        self.takers.contains_key(&id) && !self.owed_unlocks.contains_key(&id)
    }

    pub(super) fn idle_deadline(&self) -> Option<Moment> {
        if self.is_unsettled() {
            return None;
        }
        let due = self.due().or_else(|| (!self.queued.is_empty()).then(Moment::default))?;
        // A queued stream that may not be admitted yet waits for an event, not for time.
        if due == Moment::default() && self.open_window().is_none() {
            return None;
        }
        Some(self.open_window().map_or(due, |window| window.max(due)))
    }

    fn leave_idle(&mut self, now: Moment, out: &mut Vec<Command>) -> bool {
        if self.is_unsettled() {
            return false;
        }
        self.forced |= self.settled == Settled::No;
        if self.window.is_some_and(|w| w <= now) {
            self.window = None;
        }
        if self.open_window().is_some() {
            return false;
        }
        match self.due() {
            Some(due) if due <= now => {
                self.start(now, out);
                true
            }
            Some(_) => false,
            None => self.push_to_newcomers(out),
        }
    }

    /// Whether the stream can take part with the table as it may be fixed now.
    fn may_join(&self, id: StreamId) -> bool {
        if self.must_wait(id) {
            return false;
        }
        let host = &self.streams[&id].host;
        let fixed = self.fixed.hosts.get(&host.name).map(AsRef::as_ref);
        self.may_grow() || self.stale.contains(&id) || host.entry().is_none_or(|e| !e.gains_over(fixed))
    }

    fn admit(&mut self) -> Vec<StreamId> {
        let joining: Vec<_> = self.queued.iter().copied().filter(|id| self.may_join(*id)).collect();
        for id in &joining {
            self.queued.remove(id);
            self.stale.remove(id);
            if let Some(stream) = self.streams.get_mut(id) {
                stream.stage = Stage::Admitted;
            }
        }
        joining
    }

    /// The table is not going to change: gives it to those who have none, to nobody else.
    fn push_to_newcomers(&mut self, out: &mut Vec<Command>) -> bool {
        let streams = self.admit();
        if streams.is_empty() {
            return false;
        }
        let table = self.fixed.clone();
        let version = table.version;
        self.send(self.without_lock(&streams), Order::Lock(version), out);
        self.send_types(&streams, out);
        for id in &streams {
            self.owed_unlocks.remove(id);
            if let Some(stream) = self.streams.get_mut(id) {
                stream.one_shot = Some(version);
                stream.table = Some(version);
                stream.early_acks = 0;
                stream.leftovers = Leftovers::None;
            }
        }
        self.send(streams.clone(), Order::Update(table), out);
        self.send(streams, Order::Unlock(version), out);
        true
    }

    fn start(&mut self, now: Moment, out: &mut Vec<Command>) {
        self.admit();
        self.version = self.version.max(self.version_floor) + 1;
        self.forced = false;
        self.bypass = false;
        self.window = None;
        self.adaptive.started();
        let version = self.version;
        let mut members = Vec::new();
        for (id, stream) in self.streams.iter_mut().filter(|(_, s)| s.stage == Stage::Admitted) {
            stream.in_round = true;
            stream.locked = Some(version);
            stream.one_shot = None;
            members.push(*id);
        }
        self.round = Round::start(now, members.len());
        self.round.v116 =
            members.iter().filter(|id| self.streams[id].generation == Generation::V116).copied().collect();
        self.expect_acks();
        self.send(self.without_lock(&members), Order::Lock(version), out);
    }

    /// Those that may be sent a LOCK: a 1.16 sidecar that is owed an UNLOCK may not (placement.md §7.3 G1).
    fn without_lock(&self, streams: &[StreamId]) -> Vec<StreamId> {
        streams.iter().filter(|id| !self.owed_unlocks.contains_key(id)).copied().collect()
    }

    /// Waits for every stream of the round, except those that never acknowledge or did so early.
    fn expect_acks(&mut self) {
        for (id, stream) in self.streams.iter_mut().filter(|(_, s)| s.in_round) {
            let early = stream.generation == Generation::OpLess && stream.early_acks > 0;
            if early {
                stream.early_acks -= 1;
            }
            if !early && stream.generation != Generation::V116 {
                self.round.wait_for(*id, stream.generation);
            } else if self.round.phase == Phase::Lock {
                stream.lock_acked = self.version;
            }
        }
    }

    fn send(&self, streams: Vec<StreamId>, order: Order, out: &mut Vec<Command>) {
        debug_assert!(order.version() <= self.version);
        if !streams.is_empty() {
            out.push(Command::Send { streams, order });
        }
    }

    /// All LOCKs are acknowledged: fixes the table and has it replicated.
    fn fix(&mut self, now: Moment, out: &mut Vec<Command>) -> bool {
        if self.lost_sight() {
            self.give_up();
            return true;
        }
        self.round.enter(Phase::Commit, now);
        self.adaptive.fixed(self.round.lock_took());
        let may_grow = self.may_grow_now();
        let mut names: BTreeSet<_> = self.changes.keys().cloned().collect();
        if !may_grow {
            names.extend(self.grown());
        }
        let mut hosts = self.fixed.hosts.clone();
        let mut changes = Vec::new();
        for name in &names {
            let before = hosts.get(name).map(AsRef::as_ref);
            let wanted = if self.acts_outside(name) { before.cloned() } else { self.desired(name, false) };
            let entry = if may_grow { wanted } else { self.narrowed(name, wanted) };
            if entry.as_ref() != before {
                changes.push((name.clone(), entry.clone()));
                match entry {
                    Some(entry) => drop(hosts.insert(name.clone(), Arc::new(entry))),
                    None => drop(hosts.remove(name)),
                }
            }
        }
        self.note_takers(&hosts);
        self.remember_before();
        self.fixed = Arc::new(Table { version: self.version, hosts });
        self.settled = Settled::No;
        for name in &names {
            self.recheck(now, name);
        }
        out.push(Command::Propose(Record::Fixed { version: self.version, changes }));
        false
    }

    /// The fixed table is replicated: everyone in the round gets it.
    pub(super) fn committed(&mut self, now: Moment, version: u64, out: &mut Vec<Command>) {
        if self.round.phase != Phase::Commit || version != self.version {
            return;
        }
        if self.round.doubtful {
            return self.give_up();
        }
        self.round.enter(Phase::Update, now);
        self.expect_acks();
        let members = self.members();
        self.send_types(&members, out);
        self.send(members, Order::Update(self.fixed.clone()), out);
    }

    /// Those that may have types blocked since an earlier stream get the table's types without hosts:
    /// whatever table they kept, each type changes now or by the table that follows.
    fn send_types(&mut self, streams: &[StreamId], out: &mut Vec<Command>) {
        let mut unsure = Vec::new();
        for id in streams {
            if let Some(stream) = self.streams.get_mut(id).filter(|s| s.leftovers == Leftovers::Possible) {
                stream.leftovers = Leftovers::Sent;
                unsure.push(*id);
            }
        }
        self.send(unsure, Order::Types(self.fixed.clone()), out);
    }

    fn members(&self) -> Vec<StreamId> {
        self.streams.iter().filter(|(_, s)| s.in_round).map(|(id, _)| *id).collect()
    }

    fn unlock(&mut self, now: Moment, out: &mut Vec<Command>) -> bool {
        self.settled = Settled::Yes;
        self.before = None;
        out.push(Command::Propose(Record::Settled { version: self.version }));
        self.round.enter(Phase::Unlock, now);
        self.expect_acks();
        let (locked, later) = self.members().into_iter().partition(|id| self.may_go_on(now, *id));
        self.leave_locked(later);
        self.unlock_streams(locked, out);
        true
    }

    /// Sends the UNLOCK that each of these streams is owed; never a second one.
    pub(super) fn unlock_streams(&mut self, streams: Vec<StreamId>, out: &mut Vec<Command>) {
        let version = self.version;
        let mut owed = Vec::new();
        for id in streams {
            self.round.v116.remove(&id);
            self.owed_unlocks.remove(&id);
            self.takers.remove(&id);
            if let Some(stream) = self.streams.get_mut(&id).filter(|s| s.locked.is_some()) {
                stream.locked = None;
                stream.table = Some(version);
                if stream.leftovers == Leftovers::Changed {
                    stream.leftovers = Leftovers::None;
                }
                owed.push(id);
            }
        }
        self.send(owed, Order::Unlock(version), out);
    }

    fn finish(&mut self, now: Moment, out: &mut Vec<Command>) -> bool {
        self.round.enter(Phase::Idle, now);
        out.push(Command::Finished(self.round.summary(self.version)));
        self.end_round();
        let window = self.settings.coalesce_window;
        self.window = (!window.is_zero()).then(|| now + window);
        true
    }

    pub(super) fn end_round(&mut self) {
        self.round = Round::default();
        for stream in self.streams.values_mut() {
            stream.in_round = false;
            if stream.leftovers != Leftovers::None && stream.locked.is_none() {
                stream.leftovers = Leftovers::Possible;
            }
        }
    }

    /// Ends the streams that are past their limit; the round goes on without them.
    fn expire_limits(&mut self, now: Moment, out: &mut Vec<Command>) {
        if self.round.phase == Phase::Idle {
            return;
        }
        let version = self.version;
        let late = self.round.overdue(now, &self.settings.limits);
        let mut op_less = false;
        for (id, limit) in late {
            op_less |= self.streams.get(&id).is_some_and(|s| !s.generation.is_sidecar());
            self.end(now, id, EndReason::DisseminationTimeout { limit, version }, out);
        }
        if self.round.started + self.settings.limits.v116_unlock <= now {
            self.release_v116(now, out);
        }
        if op_less && !self.streams.values().any(|s| s.in_round && s.generation.is_sidecar()) {
            self.restart();
        }
    }

    /// A 1.16 sidecar must not be unlocked later than 15 s after its LOCK: gives it the UNLOCK now, or
    /// ends its stream if there is no table for it yet.
    fn release_v116(&mut self, now: Moment, out: &mut Vec<Command>) {
        let streams: Vec<_> = self.round.v116.iter().copied().collect();
        if self.round.phase == Phase::Update {
            return self.unlock_streams(streams, out);
        }
        let version = self.version;
        for id in streams {
            self.end(now, id, EndReason::UnlockOverdue { version }, out);
        }
    }

    /// Upstream's test clients expect a new LOCK right after a timeout (placement.md §4.6).
    fn restart(&mut self) {
        for stream in self.streams.values_mut().filter(|s| s.in_round) {
            stream.locked = None;
        }
        self.end_round();
        self.forced = true;
        self.bypass = true;
    }
}
