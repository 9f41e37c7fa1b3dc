//! The running round: phase, who still owes an acknowledgement, and until when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::command::RoundSummary;
use super::host::Generation;
use super::moment::Moment;
use super::settings::Limits;
use super::stream::StreamId;

/// A limit that ran out so long ago says more about this process than about those who are waited for.
pub const OVERSLEPT: Duration = Duration::from_millis(50);

/// Where a namespace is in its round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// No round.
    #[default]
    Idle,
    /// LOCK sent; waiting for every stream of the round.
    Lock,
    /// The table is fixed and being replicated.
    Commit,
    /// UPDATE sent; waiting for every stream of the round.
    Update,
    /// UNLOCK sent; waiting for every stream of the round.
    Unlock,
}

/// Bookkeeping of the running round; default when idle.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    pub phase: Phase,
    pub started: Moment,
    pub phase_started: Moment,
    /// Since when the limits of sidecars count.
    patient_since: Moment,
    pub streams: usize,
    /// Streams that owe the current phase's acknowledgement.
    waiting: BTreeMap<Generation, BTreeSet<StreamId>>,
    /// 1.16 sidecars of this round that were not unlocked yet.
    pub v116: BTreeSet<StreamId>,
    /// A replica was lost whose hosts must not lose actors to this round's table.
    pub doubtful: bool,
    took: [Duration; 4],
    slowest: Option<(Arc<str>, Duration)>,
}

impl Round {
    pub fn start(now: Moment, streams: usize) -> Self {
        Self { phase: Phase::Lock, started: now, phase_started: now, patient_since: now, streams, ..Self::default() }
    }

    /// Enters `phase`; nobody is waited for until `wait_for`.
    pub fn enter(&mut self, phase: Phase, now: Moment) {
        let slot = match self.phase {
            Phase::Idle | Phase::Lock => 0,
            Phase::Commit => 1,
            Phase::Update => 2,
            Phase::Unlock => 3,
        };
        self.took[slot] = now - self.phase_started;
        self.phase = phase;
        self.phase_started = now;
        self.patient_since = now;
        self.waiting.clear();
    }

    pub fn wait_for(&mut self, stream: StreamId, generation: Generation) {
        self.waiting.entry(generation).or_default().insert(stream);
    }

    /// The stream acknowledged: true if it owed it.
    pub fn acked(&mut self, stream: StreamId, generation: Generation, by: (&Arc<str>, Moment)) -> bool {
        let owed = self.forget(stream, generation);
        let took = by.1 - self.phase_started;
        if owed && self.slowest.as_ref().is_none_or(|(_, most)| took > *most) {
            self.slowest = Some((by.0.clone(), took));
        }
        owed
    }

    /// Stops waiting for a stream: true if it was waited for.
    pub fn forget(&mut self, stream: StreamId, generation: Generation) -> bool {
        self.waiting.get_mut(&generation).is_some_and(|set| set.remove(&stream))
    }

    /// Whether the stream is waited for.
    pub fn owes(&self, stream: StreamId, generation: Generation) -> bool {
        self.waiting.get(&generation).is_some_and(|set| set.contains(&stream))
    }

    pub fn nobody_owes(&self) -> bool {
        self.waiting.values().all(BTreeSet::is_empty)
    }

    /// When the first limit of the streams still waited for runs out.
    pub fn deadline(&self, limits: &Limits) -> Option<Moment> {
        let owed = Generation::ALL
            .into_iter()
            .filter(|g| self.waiting.get(g).is_some_and(|set| !set.is_empty()))
            .map(|g| self.deadline_of(g, limits))
            .min();
        let v116 = (!self.v116.is_empty()).then(|| self.started + limits.v116_unlock);
        [owed, v116].into_iter().flatten().min()
    }

    fn deadline_of(&self, generation: Generation, limits: &Limits) -> Moment {
        let from = if generation.is_sidecar() { self.patient_since } else { self.started };
        from + limits.of(self.phase, generation)
    }

    /// Begins the limits of sidecars anew if this process did not look at them in time: it did not run, or
    /// its clock leapt, and what they said meanwhile was not read yet.
    pub fn excuse(&mut self, now: Moment, limits: &Limits) {
        let owing = Generation::ALL.into_iter().filter(|g| g.is_sidecar());
        let owing = owing.filter(|g| self.waiting.get(g).is_some_and(|set| !set.is_empty()));
        if owing.map(|g| self.deadline_of(g, limits)).min().is_some_and(|at| at + OVERSLEPT < now) {
            self.patient_since = now;
        }
    }

    /// Streams whose limit has run out, with that limit.
    pub fn overdue(&self, now: Moment, limits: &Limits) -> Vec<(StreamId, Duration)> {
        self.waiting
            .iter()
            .filter(|(g, _)| self.deadline_of(**g, limits) <= now)
            .flat_map(|(g, set)| set.iter().map(|s| (*s, limits.of(self.phase, *g))))
            .collect()
    }

    pub fn summary(&self, version: u64) -> RoundSummary {
        RoundSummary {
            version,
            streams: self.streams,
            lock: self.took[0],
            commit: self.took[1],
            update: self.took[2],
            unlock: self.took[3],
            slowest: self.slowest.clone(),
        }
    }

    /// How long the LOCK phase took.
    pub fn lock_took(&self) -> Duration {
        self.took[0]
    }
}
