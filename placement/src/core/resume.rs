//! Streams that outlive their leader, and replicas that are lost with theirs.
//!
//! A stream that a replica carried on is as its last orders left it. If it holds the table fixed last
//! and is not locked, it goes on undisturbed. Otherwise it is *stale*: it may act by another table, so
//! it is queued, no table may grow before it takes part in a round, and it gets the fixed table or the
//! next one. A 1.16 sidecar that is locked already gets no second LOCK, only the UNLOCK it is owed.
//!
//! When a replica is lost while a table is handed out, its hosts may hold that table or the one
//! before. The round is given up, and the next one fixes what both tables have in common. A leader that
//! takes over cannot do that: it does not know whether the table before was unlocked already. It waits
//! for the hosts that are held, unless a stream proves that it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::carrier::Carried;
use super::command::{Command, EndReason};
use super::dissemination::{Dissemination, Hold};
use super::host::{Entry, Generation};
use super::ledger::Settled;
use super::moment::Moment;
use super::round::Phase;
use super::stream::{Leftovers, Stage, Stream, StreamId};

impl Dissemination {
    /// Takes over what another leader, or this one before a link broke, left behind.
    pub(super) fn resume(&mut self, now: Moment, streams: Vec<Carried>, out: &mut Vec<Command>) {
        for carried in streams {
            if carried.ended {
                self.holds.remove(&carried.host.name);
                self.recheck(now, &carried.host.name);
            } else {
                self.take_over(now, carried, out);
            }
        }
    }

    fn take_over(&mut self, now: Moment, carried: Carried, out: &mut Vec<Command>) {
        let (id, generation, host) = (carried.stream, carried.generation, carried.host.normalised());
        if self.streams.contains_key(&id) {
            return;
        }
        if !self.same_host(&host, generation).is_empty() {
            // The sidecar is back already, elsewhere; whoever carried this one has not noticed yet.
            out.push(Command::End { stream: id, reason: EndReason::Superseded });
            return;
        }
        let name = host.name.clone();
        let mut stream = Stream::new(host, generation);
        if carried.table.is_some() {
            // It was unlocked on this stream: what was blocked before that is released.
            stream.leftovers = Leftovers::None;
        }
        let undisturbed = carried.locked.is_none() && carried.table == Some(self.fixed.version);
        if undisturbed && self.round.phase == Phase::Idle {
            stream.stage = Stage::Admitted;
            stream.table = carried.table;
        } else {
            self.queued.insert(id);
            // Without a table of its own it runs no actors, and waits like any newcomer.
            if carried.table.is_some() {
                self.stale.insert(id);
            }
        }
        if let Some(since) = carried.locked.filter(|_| generation == Generation::V116) {
            self.owed_unlocks.insert(id, since);
            // The leader before may have kept it locked for the sake of turns elsewhere.
            self.takers.insert(id, since + self.settings.limits.v116_drain);
        }
        if carried.lock > self.fixed.version {
            // No order may carry a version below that of the last LOCK (placement.md §7.3 G6).
            self.version_floor = self.version_floor.max(carried.lock);
            self.forced = true;
        }
        if carried.table == Some(self.fixed.version) && generation != Generation::V116 {
            // It was unlocked with this table, so every live host of that round had installed it.
            self.settled = Settled::Yes;
            self.before = None;
        }
        self.holds.remove(&name);
        self.note_return(id, &name);
        self.streams.insert(id, stream);
        self.by_name.entry(name.clone()).or_default().push(id);
        self.recheck(now, &name);
    }

    /// A replica is gone: the hosts of its streams keep their places for a while.
    pub(super) fn lose(&mut self, now: Moment, replica: u64) {
        let of = |seq| StreamId { replica, seq };
        let lost: Vec<_> = self.streams.range(of(0)..=of(u64::MAX)).map(|(id, _)| *id).collect();
        let doubtful = lost.iter().any(|id| self.may_hold_either_table(*id));
        for id in lost {
            let Some(stream) = self.forget(id) else { continue };
            let name = stream.host.name;
            if let Some(entry) = self.fixed.hosts.get(&name).filter(|_| !self.by_name.contains_key(&name)) {
                let until = now + self.settings.hold;
                self.holds.insert(name.clone(), Hold { entry: (**entry).clone(), until });
            }
            self.recheck(now, &name);
        }
        match self.round.phase {
            // The table is on its way to the other replicas: it is given up once it is there.
            Phase::Commit => self.round.doubtful |= doubtful,
            _ if doubtful => self.give_up(),
            _ => {}
        }
    }

    /// Whether the host of a stream that is lost now may act by the table before the running round's.
    fn may_hold_either_table(&self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get(&id).filter(|s| s.in_round) else { return false };
        match self.round.phase {
            Phase::Commit => true,
            Phase::Update => {
                self.round.owes(id, stream.generation)
                    || (stream.generation == Generation::V116 && stream.locked.is_some())
            }
            Phase::Idle | Phase::Lock | Phase::Unlock => false,
        }
    }

    /// Ends the running round without UNLOCKs; the next one begins at once.
    pub(super) fn give_up(&mut self) {
        let since = self.round.started;
        for (id, stream) in self.streams.iter_mut().filter(|(_, s)| s.in_round) {
            let owed = stream.locked.take().is_some() && stream.generation == Generation::V116;
            if owed {
                self.owed_unlocks.entry(*id).or_insert(since);
            }
        }
        self.end_round();
        self.forced = true;
        self.bypass = true;
    }

    /// When the first 1.16 sidecar would count an UNLOCK by itself.
    pub(super) fn owed_unlock_deadline(&self) -> Option<Moment> {
        self.owed_unlocks.values().min().map(|since| *since + self.settings.limits.v116_unlock)
    }

    /// Unlocks 1.16 sidecars that are locked for too long, or ends their streams if there is no table yet.
    pub(super) fn expire_owed_unlocks(&mut self, now: Moment, out: &mut Vec<Command>) {
        let limit = self.settings.limits.v116_unlock;
        let late: Vec<_> =
            self.owed_unlocks.iter().filter(|(_, since)| **since + limit <= now).map(|(id, _)| *id).collect();
        let version = self.version;
        for id in late {
            if self.round.phase == Phase::Update && self.streams.get(&id).is_some_and(|s| s.in_round) {
                self.unlock_streams(vec![id], out);
            } else {
                self.end(now, id, EndReason::UnlockOverdue { version }, out);
            }
        }
    }

    /// Whether hosts may gain actors in the table that is fixed now: nobody outside the round may act
    /// by another table.
    pub(super) fn may_grow_now(&self) -> bool {
        self.may_grow() && self.stale.is_empty()
    }

    /// Whether the host may act by an older table and is not in the round: it keeps its place whatever it
    /// reports meanwhile, or others would take its actors.
    pub(super) fn acts_outside(&self, name: &Arc<str>) -> bool {
        self.by_name.get(name).is_some_and(|ids| ids.iter().any(|id| self.stale.contains(id)))
    }

    /// Whether somebody left the round under LOCK who may act by a table before the unsettled one: what
    /// that was is not known, so nothing can be fixed that it bears with.
    pub(super) fn lost_sight(&self) -> bool {
        self.knows_no_table_before() && !(self.holds.is_empty() && self.stale.is_empty())
    }

    /// Whether the last table is unsettled and another leader fixed it: what hosts had before is not known.
    pub(super) fn knows_no_table_before(&self) -> bool {
        self.settled == Settled::No && self.before.is_none()
    }

    /// Another table is about to be fixed.
    pub(super) fn remember_before(&mut self) {
        self.before = match self.settled {
            Settled::Yes => Some(self.fixed.hosts.clone()),
            Settled::No => self.before.take().map(|before| common(&before, &self.fixed.hosts)),
        };
    }

    /// What a host may be given while others may act by the table before the last one, too.
    pub(super) fn narrowed(&self, name: &Arc<str>, wanted: Option<Entry>) -> Option<Entry> {
        let fixed = self.fixed.hosts.get(name).map(AsRef::as_ref);
        let entry = wanted.and_then(|e| e.without_gains(fixed))?;
        match &self.before {
            Some(before) => entry.without_gains(before.get(name).map(AsRef::as_ref)),
            None => Some(entry),
        }
    }

    /// Hosts whose place in the fixed table is more than what they had before it.
    pub(super) fn grown(&self) -> Vec<Arc<str>> {
        let Some(before) = &self.before else { return Vec::new() };
        let gains = |(name, entry): &(&Arc<str>, &Arc<Entry>)| entry.gains_over(before.get(*name).map(AsRef::as_ref));
        self.fixed.hosts.iter().filter(gains).map(|(name, _)| name.clone()).collect()
    }
}

/// Hosts by name, as in a table.
pub(super) type Hosts = BTreeMap<Arc<str>, Arc<Entry>>;

/// What two tables have in common.
fn common(a: &Hosts, b: &Hosts) -> Hosts {
    let both = |(name, entry): (&Arc<str>, &Arc<Entry>)| {
        let common = entry.without_gains(b.get(name).map(AsRef::as_ref))?;
        Some((name.clone(), if common == **entry { entry.clone() } else { Arc::new(common) }))
    };
    a.iter().filter_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Host, Ledger, Message, Operation, Record, Settings};
    use super::*;

    fn host(seq: u64, types: &[&str]) -> Host {
        let name: Arc<str> = format!("h{seq}").into();
        Host { id: name.clone(), name, port: 0, api_level: 20, entities: types.iter().map(|t| Arc::from(*t)).collect() }
    }

    /// A stream that the leader before had locked again after table 1.
    fn locked(seq: u64) -> Carried {
        let mut carried = Carried::new(StreamId { replica: seq, seq }, host(seq, &["a"]), Generation::V118);
        (carried.lock, carried.locked, carried.table) = (2, Some(Moment::default()), Some(1));
        carried
    }

    #[test]
    fn a_replica_lost_under_lock_while_the_table_is_unsettled_stops_the_round() {
        let mut ledger = Ledger::default();
        let changes = [1, 2].map(|seq| (host(seq, &[]).name, host(seq, &["a"]).entry()));
        ledger.apply(&Record::Fixed { version: 2, changes: changes.into() });
        let mut machine = Dissemination::restore(Settings::default(), &ledger, Moment::default());
        machine.step(Moment::default(), Event::Resumed { streams: vec![locked(1)] });
        machine.step(Moment::default(), Event::Resumed { streams: vec![locked(2)] });
        assert_eq!(machine.phase(), Phase::Lock, "all are back");
        machine.step(Moment::default(), Event::Lost { replica: 2 });
        let message = Message { operation: Operation::Lock, version: Some(machine.version()), entities: Vec::new() };
        let commands = machine.step(Moment::default(), Event::Received { stream: locked(1).stream, message });
        assert_eq!((commands, machine.phase()), (Vec::new(), Phase::Idle), "host 2 may act by the table before");
        let over = Moment::default() + Settings::default().hold;
        machine.step(over, Event::Tick);
        assert_eq!(machine.phase(), Phase::Lock, "its hold is over");
    }

    #[test]
    fn a_host_outside_the_round_keeps_its_place_whatever_it_reports() {
        let mut ledger = Ledger::default();
        let changes = [1, 2].map(|seq| (host(seq, &[]).name, host(seq, &["a"]).entry()));
        ledger.apply(&Record::Fixed { version: 1, changes: changes.into() });
        ledger.apply(&Record::Settled { version: 1 });
        let mut machine = Dissemination::restore(Settings::default(), &ledger, Moment::default());
        machine.step(Moment::default(), Event::Resumed { streams: vec![locked(1)] });
        assert_eq!(machine.phase(), Phase::Lock, "the round of the first stream runs");
        machine.step(Moment::default(), Event::Resumed { streams: vec![locked(2)] });
        let report = Message { operation: Operation::Report, version: None, entities: vec!["a".into(), "b".into()] };
        machine.step(Moment::default(), Event::Received { stream: locked(2).stream, message: report });
        let message = Message { operation: Operation::Lock, version: Some(machine.version()), entities: Vec::new() };
        let commands = machine.step(Moment::default(), Event::Received { stream: locked(1).stream, message });
        assert!(commands.iter().any(|c| matches!(c, Command::Propose(Record::Fixed { .. }))), "{commands:?}");
        assert_eq!(machine.table().hosts.keys().map(|name| &**name).collect::<Vec<_>>(), ["h1", "h2"]);
    }
}
