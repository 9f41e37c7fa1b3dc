//! The scheduler: one queue of timed happenings, one seeded source of chance.
//!
//! Streams deliver in order, each message after its own delay. A lost leader takes its machine and its
//! uncommitted facts with it; the ledger stays, and the next leader starts from it.
//!
//! The machine has a clock of its own. It never goes back, but it may *leap* against that of the sidecars
//! (a virtual machine that is moved), and the leader's process may *stall*: it gets no time for a while,
//! and what comes meanwhile waits, behind the limits that ran out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use placement::core::{
    Command, Dissemination, EndReason, Event, Generation, Ledger, Message, Moment, Operation, Order, Record, Settings,
    StreamId,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::sidecar::Sidecar;

const TYPES: [&str; 3] = ["a", "b", "c"];
/// Faults happen until here; then everything heals.
pub const CHAOS: Duration = Duration::from_mins(1);
/// And here everything must be in order again: hold, limits and reconnects have passed.
pub const END: Duration = Duration::from_secs(150);

/// More than a message travels.
const TRAVEL: Duration = Duration::from_millis(25);

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A defect put between the machine and the world, to show that an observer notices it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// LOCKs are acknowledged by the server on behalf of sidecars that still drain.
    SkippedAckCheck,
    /// A new leader does not hold the hosts of the lost one.
    SkippedHold,
    /// A 1.16 sidecar gets each LOCK twice.
    SecondLock,
    /// A half-closed stream is not told to the machine.
    UnnoticedEnd,
    /// UPDATEs without hosts are acknowledged by the server on behalf of the sidecars.
    SkippedTypes,
    /// Whoever takes actors from 1.16 sidecars is unlocked at once.
    SkippedDrain,
    /// UNLOCKs to one sidecar in ten get lost.
    LostUnlock,
    /// A limit that healthy sidecars need nearly all of is a little shorter.
    HastyLimit,
}

#[derive(Clone, Debug)]
enum Happening {
    Connect(usize),
    ToServer(StreamId, Message),
    ToSidecar(usize, StreamId, Order),
    /// The sidecar sees its stream end.
    EndSeen(usize, StreamId),
    /// The server sees the stream end.
    Gone(StreamId),
    Committed(u64, Record),
    Tick,
    LeaderLost,
    LeaderElected,
    Crash(usize),
    Restart(usize),
    Reset(usize),
    Freeze(usize, Duration),
    Retype(usize),
    Heartbeat(usize),
    /// The machine's clock goes forward by so much at once.
    Leap(Duration),
    /// The leader's process gets no time for so long.
    Stall(Duration),
    Wake,
}

impl Happening {
    /// Whether the leader's process has a part in it.
    fn needs_leader(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ToServer(..) | Self::Gone(_) | Self::Committed(..) | Self::Tick)
    }
}

/// Once the machine's clock and the sidecars' did not agree, or the leader's process did not run.
#[derive(Clone, Copy, Debug)]
struct Disturbance {
    at: Duration,
    leapt: Duration,
    stalled: Duration,
}

fn settings(fault: Fault) -> Settings {
    let mut settings = Settings::default();
    match fault {
        Fault::SkippedHold => settings.hold = Duration::ZERO,
        Fault::SkippedDrain => settings.limits.v116_drain = Duration::ZERO,
        Fault::HastyLimit => settings.limits.disseminate = ms(1900),
        _ => {}
    }
    settings
}

/// Everything there is.
pub struct World {
    rng: StdRng,
    fault: Fault,
    verbose: bool,
    now: Duration,
    seq: u64,
    queue: BTreeMap<(Duration, u64), Happening>,
    pub sidecars: Vec<Sidecar>,
    machine: Option<Dissemination>,
    ledger: Ledger,
    leadership: u64,
    next_stream: u64,
    tick_at: Option<Duration>,
    owners: BTreeMap<StreamId, usize>,
    /// When the last message on each stream arrives, by direction: FIFO.
    arrivals: BTreeMap<(StreamId, bool), Duration>,
    /// LOCK acknowledgements sent, by stream.
    lock_acks: BTreeMap<StreamId, u64>,
    /// Hosts whose end the server saw and that have no newer stream.
    departed: BTreeMap<Arc<str>, Duration>,
    pub rounds: u64,
    pub timeouts: u64,
    /// By how much the machine's clock is ahead.
    ahead: Duration,
    stalled_until: Duration,
    disturbances: Vec<Disturbance>,
    /// When the last leader was lost.
    leader_lost: Duration,
    /// A sidecar that was never frozen and lost its stream to a limit.
    pub punished: Option<String>,
    violation: Option<String>,
    history: Vec<String>,
    moved: bool,
}

impl World {
    pub fn new(seed: u64, fault: Fault, verbose: bool) -> Self {
        let mut world = Self::empty(seed, fault, verbose);
        let count = world.rng.random_range(2..7);
        for index in 0..count {
            let sidecar = world.random_sidecar(index);
            world.sidecars.push(sidecar);
            let at = ms(world.rng.random_range(0..3000));
            world.schedule(at, Happening::Connect(index));
            world.schedule(ms(500), Happening::Heartbeat(index));
        }
        world.plan_chaos(count);
        world
    }

    /// Healthy 1.18 sidecars that connect when told to.
    pub fn of_v118(seed: u64, count: usize) -> Self {
        let mut world = Self::empty(seed, Fault::None, false);
        for index in 0..count {
            let mut sidecar = world.random_sidecar(index);
            (sidecar.generation, sidecar.types, sidecar.drain) = (Generation::V118, vec!["a".into()], ms(20));
            world.sidecars.push(sidecar);
        }
        world
    }

    fn empty(seed: u64, fault: Fault, verbose: bool) -> Self {
        let ledger = Ledger::default();
        let settings = settings(fault);
        Self {
            rng: StdRng::seed_from_u64(seed),
            fault,
            verbose,
            now: Duration::ZERO,
            seq: 0,
            queue: BTreeMap::new(),
            sidecars: Vec::new(),
            machine: Some(Dissemination::new(settings)),
            ledger,
            leadership: 0,
            next_stream: 0,
            tick_at: None,
            owners: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            lock_acks: BTreeMap::new(),
            departed: BTreeMap::new(),
            rounds: 0,
            timeouts: 0,
            ahead: Duration::ZERO,
            stalled_until: Duration::ZERO,
            disturbances: Vec::new(),
            leader_lost: Duration::ZERO,
            punished: None,
            violation: None,
            history: Vec::new(),
            moved: true,
        }
    }

    pub fn now(&self) -> Duration {
        self.now
    }

    /// The machine's clock.
    fn clock(&self) -> Moment {
        Moment::at(self.now + self.ahead)
    }

    fn disturbed_since(&self, then: Duration) -> impl Iterator<Item = &Disturbance> {
        self.disturbances.iter().filter(move |d| d.at + d.stalled >= then)
    }

    /// How often the machine could not tell since then how much time passed, and how long it did not run.
    pub fn stalls_since(&self, then: Duration) -> (u32, Duration) {
        let all = self.disturbed_since(then);
        all.fold((0, Duration::ZERO), |(count, sum), d| (count + 1, sum + d.stalled))
    }

    /// Whether so much time passed since then by the machine's clock alone.
    fn is_early(&self, then: Duration, span: Duration) -> bool {
        let leapt: Duration = self.disturbed_since(then).map(|d| d.leapt).sum();
        let real = self.now.saturating_sub(then);
        real < span && span <= real + leapt
    }

    /// What a leap takes back of the promise of single owners. Two spans protect it that no message ends:
    /// the hold of a host whose leader was lost, and the drain of 1.16. The machine can only measure them,
    /// and a clock that is wrong by more than a few per cent measures them wrong (ADR 2, 5).
    pub fn cut_short(&self, sidecar: &Sidecar) -> bool {
        let settings = Settings::default();
        let lost = sidecar.stream.is_some_and(|s| s.replica != self.leadership);
        let drains = sidecar.draining_since();
        (lost && self.is_early(self.leader_lost, settings.hold))
            || drains.is_some_and(|since| self.is_early(since.saturating_sub(TRAVEL), settings.limits.v116_drain))
    }

    pub fn history(&self) -> Vec<String> {
        self.history.clone()
    }

    pub fn machine(&self) -> Option<&Dissemination> {
        self.machine.as_ref()
    }

    /// A rule of the wire or of the machine that was broken in the last step.
    pub fn violation(&self) -> Option<&String> {
        self.violation.as_ref()
    }

    /// Whether the last happening could change what a sidecar does.
    pub fn moved(&self) -> bool {
        self.moved
    }

    pub fn departed(&self) -> &BTreeMap<Arc<str>, Duration> {
        &self.departed
    }

    pub fn connect_at(&mut self, at: Duration, index: usize) {
        self.schedule(at, Happening::Connect(index));
    }

    pub fn crash_at(&mut self, at: Duration, index: usize) {
        self.schedule(at, Happening::Crash(index));
    }

    fn random_sidecar(&mut self, index: usize) -> Sidecar {
        let generation = [Generation::V116, Generation::V117, Generation::V118][self.rng.random_range(0..3)];
        let types = TYPES.iter().filter(|_| self.rng.random_bool(0.6)).map(|t| Arc::from(*t)).collect();
        let drain = ms(self.rng.random_range(0..2000));
        Sidecar::new(index, generation, types, drain)
    }

    fn plan_chaos(&mut self, count: usize) {
        for _ in 0..self.rng.random_range(3..14) {
            let at = ms(self.rng.random_range(1000..1000 * CHAOS.as_secs()));
            let who = self.rng.random_range(0..count);
            let length = ms(self.rng.random_range(200..12_000));
            match self.rng.random_range(0..6) {
                0 => {
                    self.schedule(at, Happening::Crash(who));
                    self.schedule(at + length, Happening::Restart(who));
                }
                1 => self.schedule(at, Happening::Reset(who)),
                2 => self.schedule(at, Happening::Freeze(who, length)),
                3 => self.schedule(at, Happening::LeaderLost),
                _ => self.schedule(at, Happening::Retype(who)),
            }
        }
        self.plan_disturbances();
    }

    /// Half of the seeds have a leap or a stall; each is as likely at a busy moment as anything else.
    fn plan_disturbances(&mut self) {
        for _ in 0..self.rng.random_range(0_u32..4).saturating_sub(1) {
            let at = ms(self.rng.random_range(1000..1000 * CHAOS.as_secs()));
            if self.rng.random_bool(0.5) {
                let length = [2000, 60_000][self.rng.random_range(0..2)];
                let length = ms(self.rng.random_range(100..=length));
                self.schedule(at, Happening::Leap(length));
            } else {
                let length = ms(self.rng.random_range(100..8000));
                self.schedule(at, Happening::Stall(length));
            }
        }
    }

    fn schedule(&mut self, at: Duration, what: Happening) {
        self.seq += 1;
        self.queue.insert((at.max(self.now), self.seq), what);
    }

    /// One happening; false at the end.
    pub fn advance(&mut self) -> bool {
        let Some(((at, _), what)) = self.queue.pop_first() else { return false };
        if at > END {
            return false;
        }
        self.now = at;
        self.moved = !matches!(what, Happening::Heartbeat(_) | Happening::Tick | Happening::ToServer(..));
        if self.moved || self.verbose {
            let line = format!("{:>9.3} {what:?}", at.as_secs_f64());
            if self.verbose {
                println!("{line}");
            }
            self.history.push(line);
        }
        self.happen(what);
        if let Some(violation) = self.sidecars.iter().find_map(|s| s.violation.clone()) {
            self.violation.get_or_insert(violation);
        }
        true
    }

    fn happen(&mut self, what: Happening) {
        if self.now < self.stalled_until && what.needs_leader() {
            // A tick is made up for when the process wakes.
            if !matches!(what, Happening::Tick) {
                self.schedule(self.stalled_until, what);
            }
            return;
        }
        match what {
            Happening::Connect(who) => self.connect(who),
            Happening::ToServer(stream, message) => self.step(Event::Received { stream, message }),
            Happening::ToSidecar(who, stream, order) => self.deliver(who, stream, order),
            Happening::EndSeen(who, stream) => self.end_seen(who, stream),
            Happening::Gone(stream) => self.gone(stream),
            Happening::Committed(leadership, record) if leadership == self.leadership => self.committed(&record),
            Happening::Committed(..) => {}
            Happening::Tick => self.tick(),
            Happening::LeaderLost => self.lose_leader(),
            Happening::LeaderElected => self.elect(),
            Happening::Crash(who) => self.crash(who),
            Happening::Restart(who) => self.restart(who),
            Happening::Reset(who) => self.reset(who),
            Happening::Freeze(who, length) => self.freeze(who, length),
            Happening::Retype(who) => self.retype(who),
            Happening::Heartbeat(who) => self.heartbeat(who),
            Happening::Leap(length) => self.leap(length),
            Happening::Stall(length) => self.stall(length),
            Happening::Wake => self.wake(),
        }
    }

    fn leap(&mut self, length: Duration) {
        self.ahead += length;
        self.disturbances.push(Disturbance { at: self.now, leapt: length, stalled: Duration::ZERO });
        let deadline = self.machine.as_ref().and_then(Dissemination::next_deadline);
        self.arm(deadline);
    }

    fn stall(&mut self, length: Duration) {
        if self.machine.is_none() || self.now < self.stalled_until {
            return;
        }
        self.disturbances.push(Disturbance { at: self.now, leapt: Duration::ZERO, stalled: length });
        self.stalled_until = self.now + length;
        // Before anything that arrives meanwhile: the hub looks at its limits first.
        self.schedule(self.stalled_until, Happening::Wake);
    }

    fn wake(&mut self) {
        self.tick_at = None;
        self.step(Event::Tick);
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(self.rng.random_range(100..20_000))
    }

    /// When a message sent now arrives: never before an earlier one of the same stream and direction.
    fn arrival(&mut self, stream: StreamId, upward: bool) -> Duration {
        let at = self.now + self.delay();
        let last = self.arrivals.entry((stream, upward)).or_default();
        *last = at.max(*last + Duration::from_micros(1));
        *last
    }

    fn connect(&mut self, who: usize) {
        if !self.sidecars[who].alive || self.sidecars[who].stream.is_some() {
            return;
        }
        if self.machine.is_none() || self.now < self.sidecars[who].frozen_until {
            let again = self.now + ms(self.rng.random_range(250..750));
            return self.schedule(again, Happening::Connect(who));
        }
        self.next_stream += 1;
        let stream = StreamId { replica: self.leadership, seq: self.next_stream };
        self.owners.insert(stream, who);
        self.sidecars[who].stream = Some(stream);
        self.sidecars[who].as_introduced = true;
        let (host, generation) = (self.sidecars[who].host(), self.sidecars[who].generation);
        self.departed.remove(&host.name);
        self.step(Event::Opened { stream, host, generation });
    }

    fn step(&mut self, event: Event) {
        let now = self.clock();
        let Some(machine) = &mut self.machine else { return };
        let commands = machine.step(now, event);
        // Debug builds check inside `step` already.
        if !cfg!(debug_assertions)
            && let Err(violation) = machine.check()
        {
            self.violation = Some(violation.to_string());
        }
        let deadline = machine.next_deadline();
        for command in commands {
            self.carry_out(command);
        }
        self.arm(deadline);
    }

    /// One pending tick at most: the earliest.
    fn arm(&mut self, deadline: Option<Moment>) {
        let Some(at) = deadline.map(|at| at.since_origin().saturating_sub(self.ahead).max(self.now)) else { return };
        if self.tick_at.is_none_or(|pending| at < pending) {
            self.tick_at = Some(at);
            self.schedule(at, Happening::Tick);
        }
    }

    fn tick(&mut self) {
        if self.tick_at.is_some_and(|at| at <= self.now) {
            self.tick_at = None;
            self.step(Event::Tick);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Send { streams, order } => self.send(&streams, &order),
            Command::End { stream, reason } => {
                self.timeouts += 1;
                self.note_punished(stream, &reason);
                if let Some(who) = self.owners.get(&stream).copied() {
                    self.note_departed(stream);
                    let at = self.arrival(stream, false);
                    self.schedule(at, Happening::EndSeen(who, stream));
                }
            }
            Command::Propose(record) => {
                let at = self.now + self.delay();
                self.schedule(at, Happening::Committed(self.leadership, record));
            }
            Command::Finished(_) => self.rounds += 1,
        }
    }

    fn note_punished(&mut self, stream: StreamId, reason: &EndReason) {
        let Some(sidecar) = self.owners.get(&stream).map(|who| &self.sidecars[*who]) else { return };
        if matches!(reason, EndReason::DisseminationTimeout { .. }) && !sidecar.was_frozen && sidecar.alive {
            self.punished = Some(format!("{} lost its stream: {reason:?}", sidecar.name));
        }
    }

    fn send(&mut self, streams: &[StreamId], order: &Order) {
        if let Order::Update(table) = order {
            self.check_table(streams, table);
        }
        for stream in streams {
            let Some(who) = self.owners.get(stream).copied() else { continue };
            let lost =
                self.fault == Fault::LostUnlock && matches!(order, Order::Unlock(_)) && self.rng.random_bool(0.1);
            let twice = self.fault == Fault::SecondLock
                && matches!(order, Order::Lock(_))
                && self.sidecars[who].generation == Generation::V116;
            let skipped = self.fault == Fault::SkippedTypes && matches!(order, Order::Types(_));
            for _ in 0..if lost || skipped { 0 } else { 1 + usize::from(twice) } {
                let at = self.arrival(*stream, false);
                self.schedule(at, Happening::ToSidecar(who, *stream, order.clone()));
            }
            let forged = match (order, self.fault) {
                (Order::Lock(_), Fault::SkippedAckCheck) => Operation::Lock,
                (Order::Types(_), Fault::SkippedTypes) => Operation::Update,
                _ => continue,
            };
            let message = Message { operation: forged, version: Some(order.version()), entities: vec![] };
            self.schedule(self.now, Happening::ToServer(*stream, message));
        }
    }

    /// What must be true at the instant a table is given out.
    fn check_table(&mut self, streams: &[StreamId], table: &placement::core::Table) {
        let in_round = self.machine.as_ref().is_some_and(|m| m.phase() == placement::core::Phase::Update);
        for stream in streams.iter().filter(|_| in_round) {
            let Some(who) = self.owners.get(stream) else { continue };
            let acks = self.sidecars[*who].generation != Generation::V116;
            if acks && self.lock_acks.get(stream) != Some(&table.version) {
                let name = &self.sidecars[*who].name;
                self.violation =
                    Some(format!("table {} was given out before {name} acknowledged its lock", table.version));
            }
        }
        let fresh = table.version > self.ledger.version || in_round;
        // The table is fixed one commit earlier than it is given out.
        let fixed_at = self.now.saturating_sub(TRAVEL);
        let ghost = table.hosts.keys().find(|name| self.departed.get(*name).is_some_and(|left| *left < fixed_at));
        if let Some(name) = ghost.filter(|_| fresh) {
            self.violation = Some(format!("table {} names {name}, whose end was seen", table.version));
        }
    }

    fn committed(&mut self, record: &Record) {
        self.ledger.apply(record);
        if let Record::Fixed { version, .. } = record {
            self.step(Event::Committed { version: *version });
        }
    }

    fn deliver(&mut self, who: usize, stream: StreamId, order: Order) {
        let sidecar = &mut self.sidecars[who];
        if sidecar.stream != Some(stream) || !sidecar.alive {
            return;
        }
        // Busy before frozen: what waits already must not be overtaken by what arrives in a freeze.
        let later = [sidecar.busy_until, sidecar.frozen_until].into_iter().find(|until| self.now < *until);
        if let Some(later) = later {
            return self.schedule(later, Happening::ToSidecar(who, stream, order));
        }
        let Some(reply) = sidecar.obey(self.now, &order) else { return };
        let at = self.arrival(stream, true).max(self.now + reply.after);
        self.arrivals.insert((stream, true), at);
        if reply.operation == Operation::Lock {
            self.lock_acks.insert(stream, reply.version);
        }
        let message = Message { operation: reply.operation, version: Some(reply.version), entities: vec![] };
        self.schedule(at, Happening::ToServer(stream, message));
    }

    fn end_seen(&mut self, who: usize, stream: StreamId) {
        let sidecar = &mut self.sidecars[who];
        if sidecar.stream != Some(stream) || !sidecar.alive {
            return;
        }
        if self.now < sidecar.frozen_until {
            let thawed = sidecar.frozen_until;
            return self.schedule(thawed, Happening::EndSeen(who, stream));
        }
        sidecar.lose_stream();
        let back = self.now + sidecar.drain + ms(self.rng.random_range(250..750));
        self.schedule(back, Happening::Connect(who));
    }

    fn note_departed(&mut self, stream: StreamId) {
        let Some(who) = self.owners.get(&stream) else { return };
        let name = self.sidecars[*who].name.clone();
        let newer = self.sidecars[*who].stream.is_some_and(|s| s > stream);
        if !newer {
            self.departed.insert(name, self.now);
        }
    }

    fn gone(&mut self, stream: StreamId) {
        if self.machine.is_none() || stream.replica != self.leadership {
            return;
        }
        self.note_departed(stream);
        if self.fault != Fault::UnnoticedEnd {
            self.step(Event::Closed { stream });
        }
    }

    fn lose_leader(&mut self) {
        if self.machine.take().is_none() {
            return;
        }
        self.leadership += 1;
        (self.leader_lost, self.stalled_until) = (self.now, self.now);
        self.departed.clear();
        let lost: Vec<_> = self.owners.iter().map(|(s, w)| (*w, *s)).collect();
        self.owners.clear();
        for (who, stream) in lost {
            // A reset is seen at once, a dead machine by keepalive.
            let at = self.now + ms(self.rng.random_range(1..5000));
            self.schedule(at, Happening::EndSeen(who, stream));
        }
        let at = self.now + ms(self.rng.random_range(500..4000));
        self.schedule(at, Happening::LeaderElected);
    }

    fn elect(&mut self) {
        self.machine = Some(Dissemination::restore(settings(self.fault), &self.ledger, self.clock()));
        self.step(Event::Tick);
    }

    fn crash(&mut self, who: usize) {
        let stream = self.sidecars[who].stream;
        let sidecar = &mut self.sidecars[who];
        sidecar.die();
        if let Some(stream) = stream {
            let at = self.arrival(stream, true);
            self.schedule(at, Happening::Gone(stream));
        }
    }

    fn restart(&mut self, who: usize) {
        let sidecar = &mut self.sidecars[who];
        if !sidecar.alive {
            sidecar.alive = true;
            sidecar.frozen_until = Duration::ZERO;
            self.schedule(self.now, Happening::Connect(who));
        }
    }

    /// The connection breaks; both ends notice.
    fn reset(&mut self, who: usize) {
        let Some(stream) = self.sidecars[who].stream.filter(|_| self.now >= self.sidecars[who].frozen_until) else {
            return;
        };
        // The sidecar notices first: what runs until then is the protocol's gap, not placement's.
        self.end_seen(who, stream);
        let at = self.arrival(stream, true);
        self.schedule(at, Happening::Gone(stream));
    }

    fn freeze(&mut self, who: usize, length: Duration) {
        // A freeze within a freeze would let orders that wait for the first one's end overtake later ones.
        if self.now >= self.sidecars[who].frozen_until {
            self.sidecars[who].frozen_until = self.now + length;
            self.sidecars[who].was_frozen = true;
        }
    }

    fn retype(&mut self, who: usize) {
        let types: Vec<Arc<str>> = TYPES.iter().filter(|_| self.rng.random_bool(0.6)).map(|t| Arc::from(*t)).collect();
        let sidecar = &mut self.sidecars[who];
        sidecar.types.clone_from(&types);
        sidecar.as_introduced = false;
        if sidecar.alive && self.now >= sidecar.frozen_until {
            self.report(who);
        }
    }

    fn report(&mut self, who: usize) {
        let (stream, generation) = (self.sidecars[who].stream, self.sidecars[who].generation);
        let Some(stream) = stream else { return };
        let operation = if generation == Generation::V116 { Operation::Unknown } else { Operation::Report };
        let message = Message { operation, version: None, entities: self.sidecars[who].types.clone() };
        let at = self.arrival(stream, true);
        self.schedule(at, Happening::ToServer(stream, message));
    }

    /// 1.16 reports every second; the others say so again once, should a freeze have swallowed it.
    fn heartbeat(&mut self, who: usize) {
        if self.sidecars[who].alive && self.now >= self.sidecars[who].frozen_until {
            self.report(who);
        }
        self.schedule(self.now + ms(1000), Happening::Heartbeat(who));
    }
}
