//! The machine of one namespace: events and time in, commands out.
//!
//! Events only change what is known; [`Dissemination::step`] then lets the round advance as far as it
//! can. Rounds are never preempted: what arrives during one waits for its end. A table is fixed when
//! the last LOCK acknowledgement arrives, from the streams and holds of that instant.
//!
//! While hosts are held (their replica was lost, they may still run actors by their last table), the
//! table may shrink but no host may gain actors: that keeps two hosts from owning one actor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::coalesce::Adaptive;
use super::command::{Command, EndReason};
use super::event::{Event, Message, Operation};
use super::host::{Entry, Generation, Host};
use super::ledger::{Ledger, Settled};
use super::moment::Moment;
use super::resume::Hosts;
use super::round::{Phase, Round};
use super::settings::Settings;
use super::stream::{Leftovers, Stage, Stream, StreamId};
use super::table::Table;

/// Most op-less messages remembered ahead of the phase they acknowledge; a round has three.
const MOST_EARLY_ACKS: u32 = 64;
/// Up to so many streams debug builds check every step.
const ALWAYS_CHECKED: usize = 128;

/// A difference between the last fixed table and what it should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub since: Moment,
    /// Since when the table names actor types that the host does not run any more.
    pub left: Option<Moment>,
    /// The host gains actor types.
    pub grows: bool,
}

/// A host kept in the table after its replica was lost.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub entry: Entry,
    pub until: Moment,
}

/// Dissemination of one namespace.
#[derive(Clone, Debug)]
pub struct Dissemination {
    pub(super) settings: Settings,
    pub(super) version: u64,
    pub(super) round: Round,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    pub(super) queued: BTreeSet<StreamId>,
    /// Queued streams whose hosts may act by another table than the fixed one.
    pub(super) stale: BTreeSet<StreamId>,
    /// 1.16 sidecars that were locked by a round which unlocks nobody any more, and since when.
    pub(super) owed_unlocks: BTreeMap<StreamId, Moment>,
    /// Streams that take actors over from 1.16 sidecars, and when they may be unlocked.
    pub(super) takers: BTreeMap<StreamId, Moment>,
    /// The same for held hosts, for when they are back.
    pub(super) absent_takers: BTreeMap<Arc<str>, Moment>,
    /// Actor types that a 1.16 sidecar gave up, and until when it may run turns of them.
    pub(super) given_up: BTreeMap<Arc<str>, Moment>,
    /// The next round's version is above this.
    pub(super) version_floor: u64,
    /// Streams by host name, oldest first; usually one each.
    pub(super) by_name: BTreeMap<Arc<str>, Vec<StreamId>>,
    pub(super) holds: BTreeMap<Arc<str>, Hold>,
    pub(super) fixed: Arc<Table>,
    pub(super) settled: Settled,
    /// While the fixed table is not settled, and this leader fixed it: what all tables before it that
    /// some may still act by have in common.
    pub(super) before: Option<Hosts>,
    pub(super) changes: BTreeMap<Arc<str>, Change>,
    /// A round is due although the table may stay the same.
    pub(super) forced: bool,
    /// The next round does not wait for the configured window.
    pub(super) bypass: bool,
    pub(super) adaptive: Adaptive,
    /// The configured window's end, if it is armed.
    pub(super) window: Option<Moment>,
}

/// Counts of a namespace, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Streams that take part in rounds.
    pub admitted: usize,
    /// Of those, the ones that host actor types.
    pub hosting: usize,
    /// Streams that wait for their first table.
    pub queued: usize,
    /// Hosts in the table whose stream is not back yet.
    pub held: usize,
}

impl Dissemination {
    /// A namespace nobody knows of.
    pub fn new(settings: Settings) -> Self {
        Self::restore(settings, &Ledger::default(), Moment::default())
    }

    /// A namespace as the replicated ledger remembers it: its hosts are held until they are back.
    pub fn restore(settings: Settings, ledger: &Ledger, now: Moment) -> Self {
        let until = now + settings.hold;
        let hold = |(name, entry): (&Arc<str>, &Arc<Entry>)| (name.clone(), Hold { entry: (**entry).clone(), until });
        Self {
            settings,
            version: ledger.version,
            round: Round::default(),
            streams: BTreeMap::new(),
            queued: BTreeSet::new(),
            stale: BTreeSet::new(),
            owed_unlocks: BTreeMap::new(),
            takers: BTreeMap::new(),
            absent_takers: BTreeMap::new(),
            given_up: BTreeMap::new(),
            version_floor: 0,
            by_name: BTreeMap::new(),
            holds: ledger.hosts.iter().map(hold).collect(),
            fixed: Arc::new(Table { version: ledger.version, hosts: ledger.hosts.clone() }),
            settled: ledger.settled,
            before: None,
            changes: BTreeMap::new(),
            forced: false,
            bypass: false,
            adaptive: Adaptive::default(),
            window: None,
        }
    }

    /// Takes in one event at `now` and says what to do. Time must not run backwards between calls.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        let before = self.round.phase;
        self.round.excuse(now, &self.settings.limits);
        match event {
            Event::Opened { stream, host, generation } => self.open(now, stream, (host, generation), &mut out),
            Event::Received { stream, message } => self.receive(now, stream, message),
            Event::Closed { stream } => self.close(now, stream),
            Event::Lost { replica } => self.lose(now, replica),
            Event::Resumed { streams } => self.resume(now, streams, &mut out),
            Event::Committed { version } => self.committed(now, version, &mut out),
            Event::Tick => {}
        }
        self.advance(now, &mut out);
        // With many streams checking dominates: then once a phase is enough.
        if self.streams.len() <= ALWAYS_CHECKED || self.round.phase != before {
            debug_assert_eq!(self.check(), Ok(()));
        }
        out
    }

    /// When to call with [`Event::Tick`] if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Moment> {
        let hold = self.holds.values().map(|h| h.until).min();
        let next = match self.round.phase {
            Phase::Idle => self.idle_deadline(),
            _ => self.round.deadline(&self.settings.limits),
        };
        [hold, next, self.owed_unlock_deadline(), self.taker_deadline()].into_iter().flatten().min()
    }

    /// The round version: of the running round, else of the last one.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The phase of the running round.
    pub fn phase(&self) -> Phase {
        self.round.phase
    }

    /// The table fixed last.
    pub fn table(&self) -> &Arc<Table> {
        &self.fixed
    }

    /// Whether there is neither a stream, nor a hold, nor a round.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.holds.is_empty() && self.round.phase == Phase::Idle
    }

    /// Counts for metrics.
    pub fn census(&self) -> Census {
        let admitted = self.streams.values().filter(|s| s.stage == Stage::Admitted);
        let hosting = admitted.clone().filter(|s| !s.host.entities.is_empty()).count();
        Census { admitted: admitted.count(), hosting, queued: self.queued.len(), held: self.holds.len() }
    }

    /// Hosts with actor types whose streams take part in rounds, and held ones: what the state endpoint lists.
    pub fn hosts(&self) -> Vec<(Host, Option<Generation>)> {
        let live = self.streams.values().filter(|s| s.stage == Stage::Admitted && !s.host.entities.is_empty());
        let live = live.map(|s| (s.host.clone(), Some(s.generation)));
        let held = self.holds.iter().map(|(name, h)| {
            let Entry { id, port, api_level, entities } = h.entry.clone();
            (Host { name: name.clone(), id, port, api_level, entities }, None)
        });
        live.chain(held).collect()
    }

    fn receive(&mut self, now: Moment, id: StreamId, message: Message) {
        let Some(stream) = self.streams.get(&id) else { return };
        let acknowledges = match message.operation {
            Operation::Lock => Phase::Lock,
            Operation::Update => Phase::Update,
            Operation::Unlock => Phase::Unlock,
            Operation::Other => return,
            Operation::Report => Phase::Idle,
            Operation::Unknown if stream.generation == Generation::V116 => Phase::Idle,
            Operation::Unknown => return self.receive_op_less(now, id, message),
        };
        if acknowledges != Phase::Idle {
            self.acknowledge(now, id, (acknowledges, message.version));
        } else if message.version.is_none_or(|v| v >= self.version) {
            self.report(now, id, message.entities);
        }
    }

    /// A message without an operation acknowledges the running phase, if there is one.
    fn receive_op_less(&mut self, now: Moment, id: StreamId, message: Message) {
        let phase = self.round.phase;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.stage == Stage::Queued || (stream.in_round && phase == Phase::Commit) {
            stream.early_acks = (stream.early_acks + 1).min(MOST_EARLY_ACKS);
        } else if stream.in_round {
            self.acknowledge(now, id, (phase, None));
        } else if phase == Phase::Idle {
            self.report(now, id, message.entities);
        }
    }

    /// An acknowledgement counts for the running phase of the running round only.
    fn acknowledge(&mut self, now: Moment, id: StreamId, ack: (Phase, Option<u64>)) {
        let (phase, version) = ack;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if version.is_some() && version == stream.one_shot {
            if phase == Phase::Unlock {
                stream.one_shot = None;
            }
            return;
        }
        let current = version.is_none_or(|v| v == self.version) && phase == self.round.phase;
        if current && phase == Phase::Update && stream.leftovers == Leftovers::Sent {
            stream.leftovers = Leftovers::Changed;
            return;
        }
        if current && self.round.acked(id, stream.generation, (&stream.host.name, now)) && phase == Phase::Lock {
            stream.lock_acked = self.version;
        }
    }

    pub(super) fn end(&mut self, now: Moment, stream: StreamId, reason: EndReason, out: &mut Vec<Command>) {
        self.close(now, stream);
        out.push(Command::End { stream, reason });
    }
}
