//! The scheduler of a simulated cluster: a queue of happenings in virtual time, beside the replicas'
//! own tasks in the same runtime.
//!
//! Streams deliver in order, each message after its own delay. A replica that dies takes its streams
//! with it; sidecars notice at once or after keepalive, deactivate everything and come back elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use placement::core::{Generation, Operation, Order, StreamId};
use placement::raft::{Ledgers, NodeStatus, Store};
use proto::placement::v1::Host as WireHost;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::chance::{between, roll};
use super::plan::Plan;
use super::replica::Process;
use super::sleep::Doomed;
use super::stream::{Up, acknowledgement, carry, report};
use super::wire::Network;
use super::{CHAOS, Chaos, END, Fault, REPLICAS};
use crate::sidecar::Sidecar;
use crate::world::ms;

const TYPES: [&str; 3] = ["a", "b", "c"];
/// How often the ledgers are compared.
const LOOK: Duration = Duration::from_millis(500);
/// How long a replica parks a stream that it may not take, and a little.
const PARKED: Duration = Duration::from_secs(1);
/// A dead replica's sidecars notice by keepalive at the latest.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// What the scheduler does at a time.
#[derive(Clone, Debug)]
pub enum Happening {
    Connect(usize),
    ToServer(StreamId, WireHost),
    ToSidecar(usize, StreamId, Order),
    /// The sidecar sees the end, and whether its replica is to blame.
    EndSeen(usize, StreamId, bool),
    Gone(StreamId),
    Heartbeat(usize),
    Crash(usize),
    Restart(usize),
    Reset(usize),
    Freeze(usize, Duration),
    Retype(usize, Vec<bool>),
    ReplicaCrash(usize),
    ReplicaLeave(usize),
    DiskLost(usize),
    ReplicaStart(usize),
    Cut(usize, usize),
    Mend(usize, usize),
    /// Every cut is undone.
    Uncut,
    /// A replica does not run, until it wakes.
    Sleep(usize),
    Wake(usize),
    Look,
}

/// What replicas and streams tell the scheduler.
#[derive(Debug)]
pub enum Report {
    Ordered(StreamId, Order),
    /// The stream is over; true: because the replica lost its right to it.
    Ended(StreamId, bool),
    Led(usize, bool),
    Left(usize),
    Failed(String),
}

/// What invariants are told, beside the world as it is then.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Nothing that concerns them.
    Nothing,
    /// A table was given to a stream.
    Given { namespace: &'static str, version: u64 },
    /// A replica began or ceased to act as the leader.
    Led,
    /// What sidecars run may have changed.
    Moved,
    /// Time to compare ledgers.
    Look,
    /// A replica lost its disk.
    Forgot(usize),
}

/// One sidecar and where it connects.
pub struct Member {
    pub sidecar: Sidecar,
    pub namespace: &'static str,
    /// It lost its stream because its replica had slept; since when that had no lease.
    pub overslept: Option<Duration>,
    streams: u64,
}

/// A stream that is open at the sidecar's end, the replica's, or both.
struct Line {
    who: usize,
    replica: usize,
    up: Option<Up>,
    pump: AbortHandle,
    /// When the last message arrives: up, down.
    arrivals: [Duration; 2],
    messages: u64,
    opened: Duration,
    /// Its replica ended it.
    ended: bool,
}

/// Everything there is.
pub struct Cluster {
    seed: u64,
    fault: Fault,
    chaos: Chaos,
    start: Instant,
    queue: BTreeMap<(Duration, u64), Happening>,
    queued: u64,
    pub members: Vec<Member>,
    pub replicas: Vec<Option<Process>>,
    disks: Vec<Store>,
    pub network: Arc<Network>,
    /// When each replica fell asleep, and woke, the last time.
    slept: BTreeMap<usize, Duration>,
    leading: BTreeSet<usize>,
    woke: BTreeMap<usize, Duration>,
    lines: BTreeMap<StreamId, Line>,
    pumps: JoinSet<()>,
    pub(super) doomed: Doomed,
    /// Replicas that hand over before they stop.
    leaving: BTreeSet<usize>,
    /// Under [`Chaos::Elections`]: the leader that is cut off.
    deposed: Option<usize>,
    reports: (mpsc::UnboundedSender<Report>, mpsc::UnboundedReceiver<Report>),
    pub failure: Option<String>,
    history: Vec<String>,
}

impl Cluster {
    pub fn start(seed: u64, fault: Fault, chaos: Chaos) -> Self {
        let start = Instant::now();
        let mut cluster = Self {
            seed,
            fault,
            chaos,
            start,
            queue: BTreeMap::new(),
            queued: 0,
            members: Vec::new(),
            replicas: (0..REPLICAS).map(|_| None).collect(),
            disks: (0..REPLICAS).map(|_| blank()).collect(),
            network: Network::new(seed, fault, start),
            slept: BTreeMap::new(),
            leading: BTreeSet::new(),
            woke: BTreeMap::new(),
            lines: BTreeMap::new(),
            pumps: JoinSet::new(),
            doomed: Doomed::default(),
            leaving: BTreeSet::new(),
            deposed: None,
            reports: mpsc::unbounded_channel(),
            failure: None,
            history: Vec::new(),
        };
        let sidecars = match chaos {
            Chaos::Elections => 0,
            Chaos::Isolation => 6,
            Chaos::Everything | Chaos::Forgetful | Chaos::Sleep => 2 + cluster.roll(&[1]) % 4,
        };
        for index in 0..usize::try_from(sidecars).expect("a few") {
            cluster.add_sidecar(index);
        }
        for (at, step) in Plan::draw(seed, chaos, cluster.members.len()) {
            cluster.schedule(at, step);
        }
        for index in 0..REPLICAS {
            let at = between(cluster.roll(&[2, index as u64]), Duration::ZERO, ms(400));
            cluster.schedule(at, Happening::ReplicaStart(index));
        }
        cluster.schedule(LOOK, Happening::Look);
        cluster
    }

    fn add_sidecar(&mut self, index: usize) {
        let draw = |what: u64| roll(self.seed, &[3, index as u64, what]);
        let generations = [Generation::V116, Generation::V117, Generation::V118];
        let generation = generations[usize::try_from(draw(1) % 3).expect("small")];
        // Isolated hosts are alike, so that each has something to lose to the others.
        let alike = self.chaos == Chaos::Isolation;
        let generation = if alike { Generation::V118 } else { generation };
        let types = types(if alike { u64::MAX } else { draw(2) });
        let drain = between(draw(3), ms(1), ms(4000));
        let sidecar = Sidecar::new(index, generation, types, drain);
        let namespace = if index % 3 == 2 && !alike { "other" } else { "default" };
        let at = between(draw(4), ms(0), ms(6000));
        self.members.push(Member { sidecar, namespace, overslept: None, streams: 0 });
        self.schedule(at, Happening::Connect(index));
        self.schedule(ms(500), Happening::Heartbeat(index));
    }

    fn roll(&self, key: &[u64]) -> u64 {
        roll(self.seed, key)
    }

    /// Since the beginning.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// What happened, line by line.
    pub fn history(&self) -> &[String] {
        &self.history
    }

    /// Statuses of the replicas that are up.
    pub fn statuses(&self) -> Vec<NodeStatus> {
        self.replicas.iter().flatten().map(Process::status).collect()
    }

    /// Ledgers of the replicas that are up, with their numbers.
    pub fn ledgers(&self) -> Vec<(usize, Ledgers)> {
        self.replicas.iter().flatten().map(|p| (p.index, p.ledgers())).collect()
    }

    fn note(&mut self, what: &impl Debug) {
        self.history.push(format!("{:>9.3} {what:?}", self.now().as_secs_f64()));
    }

    pub(super) fn schedule(&mut self, at: Duration, what: Happening) {
        self.queued += 1;
        self.queue.insert((at.max(self.now()), self.queued), what);
    }

    /// The next thing that happens or is reported; nothing at the end.
    pub async fn advance(&mut self) -> Option<Seen> {
        let next = self.queue.first_key_value().map_or(END, |((at, _), _)| *at);
        let seen = tokio::select! {
            biased;
            Some(report) = self.reports.1.recv() => self.reported(report).await,
            () = tokio::time::sleep_until(self.start + next) => {
                let (_, what) = self.queue.pop_first()?;
                self.happen(what).await
            }
        };
        (self.now() < END).then_some(seen)
    }

    async fn reported(&mut self, report: Report) -> Seen {
        match report {
            Report::Ordered(stream, order) => self.ordered(stream, &order),
            Report::Ended(stream, lost) => self.ended(stream, lost),
            Report::Led(index, leads) => {
                self.note(&Report::Led(index, leads));
                self.network.look_at(index);
                self.note_lead(index, leads);
                if leads && self.chaos == Chaos::Elections {
                    self.contest(index);
                }
                Seen::Led
            }
            Report::Left(index) => self.stop(index).await,
            Report::Failed(text) => {
                self.note(&text);
                self.failure.get_or_insert(text);
                Seen::Nothing
            }
        }
    }

    async fn happen(&mut self, what: Happening) -> Seen {
        if !matches!(what, Happening::Heartbeat(_) | Happening::Look | Happening::ToServer(..)) {
            self.note(&what);
        }
        match what {
            Happening::Connect(who) => self.connect(who),
            Happening::ToServer(stream, message) => self.hear(stream, message),
            Happening::ToSidecar(who, stream, order) => return self.deliver(who, stream, &order),
            Happening::EndSeen(who, stream, lost) => return self.end_seen(who, stream, lost),
            Happening::Gone(stream) => self.gone(stream),
            Happening::Heartbeat(who) => self.heartbeat(who),
            Happening::Crash(who) => return self.crash(who),
            Happening::Restart(who) => self.restart(who),
            Happening::Reset(who) => return self.reset(who),
            Happening::Freeze(who, length) => self.freeze(who, length),
            Happening::Retype(who, types) => return self.retype(who, &types),
            Happening::ReplicaCrash(index) if self.fault == Fault::EveryDiskLost => return self.lose_disk(index).await,
            Happening::ReplicaCrash(index) => return self.stop(index).await,
            Happening::ReplicaLeave(index) => self.leave(index),
            Happening::DiskLost(index) => return self.lose_disk(index).await,
            Happening::ReplicaStart(index) => self.start_replica(index).await,
            Happening::Cut(from, to) => self.network.cut(from, to),
            Happening::Mend(from, to) if self.fault != Fault::UnmendedCut => self.network.mend(from, to),
            Happening::Mend(..) => {}
            Happening::Sleep(index) => self.sleep(index),
            Happening::Wake(index) => self.wake(index).await,
            Happening::Uncut => self.network.mend_all(),
            Happening::Look => {
                self.schedule(self.now() + LOOK, Happening::Look);
                return Seen::Look;
            }
        }
        Seen::Nothing
    }
}

fn types(draw: u64) -> Vec<Arc<str>> {
    let named = TYPES.iter().enumerate().filter(|(bit, _)| draw >> bit & 1 == 1);
    named.map(|(_, name)| Arc::from(*name)).collect()
}

fn blank() -> Store {
    Store::open(None).expect("a store in memory")
}

/// Replicas.
impl Cluster {
    async fn start_replica(&mut self, index: usize) {
        if self.leaving.contains(&index) {
            return self.schedule(self.now() + ms(500), Happening::ReplicaStart(index));
        }
        if self.replicas[index].is_none() {
            let store = self.disks[index].clone();
            let process = Process::start(index, &store, &self.network, (self.fault, &self.reports.0)).await;
            self.replicas[index] = Some(process);
        }
    }

    /// A leader is cut off. As soon as another one leads by the vote of the third replica, that one
    /// crashes, comes back at once, and hears of the old leader instead of the new one.
    fn contest(&mut self, leader: usize) {
        let now = self.now();
        let draw = self.roll(&[9, u64::try_from(now.as_micros()).expect("a minute")]);
        if now > CHAOS {
            return;
        }
        let Some(old) = self.deposed.filter(|old| *old != leader) else {
            self.deposed = Some(leader);
            return self.isolate(leader, now + between(draw, ms(500), ms(2000)));
        };
        let voter = (0..REPLICAS).find(|i| *i != leader && *i != old).expect("the third");
        self.schedule(now, Happening::ReplicaCrash(voter));
        self.schedule(now + between(draw, ms(1), ms(40)), Happening::ReplicaStart(voter));
        self.rejoin(old, now);
        self.deposed = Some(leader);
        self.isolate(leader, now);
    }

    fn isolate(&mut self, index: usize, at: Duration) {
        for other in (0..REPLICAS).filter(|other| *other != index) {
            self.schedule(at, Happening::Cut(index, other));
            self.schedule(at, Happening::Cut(other, index));
        }
        // The last one is let back in by the end.
        self.schedule(CHAOS + ms(1000), Happening::Uncut);
    }

    fn rejoin(&mut self, index: usize, at: Duration) {
        for other in (0..REPLICAS).filter(|other| *other != index) {
            self.schedule(at, Happening::Mend(index, other));
            self.schedule(at, Happening::Mend(other, index));
        }
    }

    fn leave(&mut self, index: usize) {
        let reports = self.reports.0.clone();
        if let Some(process) = &mut self.replicas[index] {
            process.leave(reports);
            self.leaving.insert(index);
        }
    }

    /// A leader's streams have a lease from when it ceased to lead, unless it slept.
    fn note_lead(&mut self, index: usize, leads: bool) {
        let led = if leads { !self.leading.insert(index) } else { self.leading.remove(&index) };
        if (leads || led) && self.acts(index) {
            self.network.lease(index, self.now());
        }
    }

    fn sleep(&mut self, index: usize) {
        let now = self.now();
        if let Some(process) = &mut self.replicas[index] {
            if process.leads() {
                self.network.lease(index, now);
            }
            process.sleep(now);
            self.network.sleep(index);
            self.slept.insert(index, now);
        }
    }

    async fn wake(&mut self, index: usize) {
        let now = self.now();
        self.doom(index);
        self.network.wake(index);
        self.woke.insert(index, now);
        let backwards = self.roll(&[10, index as u64]) % 2 == 1;
        if let Some(process) = &mut self.replicas[index] {
            process.wake(now, backwards).await;
        }
    }

    /// What a replica carries that slept too long must end at once.
    fn doom(&mut self, index: usize) {
        let Some(leased) = self.overslept(index) else { return };
        let by = self.now() + ms(100);
        // Those that came just before may be parked, and be taken under a new lease.
        let taken = self.slept[&index].saturating_sub(PARKED);
        let carried = self.lines.iter().filter(|(_, l)| l.replica == index && !l.ended && l.opened < taken);
        self.doomed.streams.extend(carried.map(|(stream, _)| (*stream, (by, leased))));
    }

    /// Whether the replica runs, and did so an instant ago.
    pub fn acts(&self, index: usize) -> bool {
        !self.network.sleeps(index) && self.woke.get(&index).is_none_or(|woke| *woke + ms(1) < self.now())
    }

    /// Whether the replica has not ended it.
    pub fn is_open(&self, stream: StreamId) -> bool {
        self.lines.get(&stream).is_some_and(|line| !line.ended && line.up.is_some())
    }

    async fn stop(&mut self, index: usize) -> Seen {
        self.leaving.remove(&index);
        self.leading.remove(&index);
        self.doom(index);
        let Some(process) = self.replicas[index].take() else { return Seen::Nothing };
        process.stop(&self.network).await;
        let dead: Vec<_> = self.lines.iter().filter(|(_, line)| line.replica == index).map(|(id, _)| *id).collect();
        for stream in dead {
            let Some(line) = self.lines.get_mut(&stream) else { continue };
            line.pump.abort();
            line.up = None;
            let (who, wait) = (line.who, between(roll(self.seed, &[4, stream.seq]), ms(1), KEEPALIVE));
            self.schedule(self.now() + wait, Happening::EndSeen(who, stream, true));
        }
        Seen::Led
    }

    /// Only while the others remember everything: without a majority's memory there is nothing to keep.
    async fn lose_disk(&mut self, index: usize) -> Seen {
        let statuses = self.statuses();
        let whole = statuses.len() == REPLICAS && statuses.iter().all(|s| s.voters == REPLICAS && s.leader.is_some());
        let seen = self.stop(index).await;
        if !whole && self.chaos != Chaos::Forgetful && self.fault != Fault::EveryDiskLost {
            return seen;
        }
        self.disks[index] = blank();
        Seen::Forgot(index)
    }
}

/// Streams.
impl Cluster {
    /// When a message sent now arrives: never before an earlier one of the same stream and direction.
    fn arrival(&mut self, stream: StreamId, down: bool, after: Duration) -> Option<Duration> {
        let (seed, now) = (self.seed, self.now());
        let line = self.lines.get_mut(&stream)?;
        line.messages += 1;
        let delay = between(roll(seed, &[5, stream.seq, line.messages]), ms(1), ms(20));
        let last = &mut line.arrivals[usize::from(down)];
        *last = (now + after + delay).max(*last + Duration::from_micros(1));
        Some(*last)
    }

    fn connect(&mut self, who: usize) {
        let (now, seed) = (self.now(), self.seed);
        let member = &mut self.members[who];
        if !member.sidecar.alive || member.sidecar.stream.is_some() {
            return;
        }
        member.streams += 1;
        let seq = (who as u64) << 32 | member.streams;
        let index = usize::try_from((who as u64 + member.streams) % REPLICAS as u64).expect("small");
        let Some(process) = self.replicas[index].as_ref().filter(|_| now >= member.sidecar.frozen_until) else {
            let again = now + between(roll(seed, &[6, seq]), ms(250), ms(750));
            return self.schedule(again, Happening::Connect(who));
        };
        let stream = StreamId { replica: index as u64, seq };
        let (up, messages) = mpsc::unbounded_channel();
        drop(up.send(report(&member.sidecar, member.namespace)));
        member.sidecar.stream = Some(stream);
        member.overslept = None;
        // While hosts are held a newcomer's first table may lack it (ADR 2), so this is not checked here.
        member.sidecar.as_introduced = false;
        let peer = (member.sidecar.generation == Generation::V118).then(crate::peer::of_v118);
        let pump = self.pumps.spawn(carry(process.service.clone(), (stream, peer), messages, self.reports.0.clone()));
        let line = Line {
            who,
            replica: index,
            up: Some(up),
            pump,
            arrivals: [now; 2],
            messages: 0,
            opened: now,
            ended: false,
        };
        self.lines.insert(stream, line);
    }

    fn ordered(&mut self, stream: StreamId, order: &Order) -> Seen {
        let Some(who) = self.lines.get(&stream).map(|line| line.who) else { return Seen::Nothing };
        let given = if let Order::Update(table) = order {
            Seen::Given { namespace: self.members[who].namespace, version: table.version }
        } else {
            Seen::Nothing
        };
        let twice = self.fault == Fault::SecondLock
            && matches!(order, Order::Lock(_))
            && self.members[who].sidecar.generation == Generation::V116;
        for _ in 0..=usize::from(twice) {
            if let Some(at) = self.arrival(stream, true, Duration::ZERO) {
                self.schedule(at, Happening::ToSidecar(who, stream, order.clone()));
            }
        }
        given
    }

    fn ended(&mut self, stream: StreamId, lost: bool) -> Seen {
        let Some(at) = self.arrival(stream, true, Duration::ZERO) else { return Seen::Nothing };
        let Some(line) = self.lines.get_mut(&stream) else { return Seen::Nothing };
        line.ended = true;
        let who = line.who;
        self.schedule(at, Happening::EndSeen(who, stream, lost));
        Seen::Nothing
    }

    fn hear(&mut self, stream: StreamId, message: WireHost) {
        if let Some(up) = self.lines.get(&stream).and_then(|line| line.up.as_ref()) {
            // The replica may have ended it.
            drop(up.send(message));
        }
    }

    /// The replica sees the sidecar's end.
    fn gone(&mut self, stream: StreamId) {
        self.lines.remove(&stream);
    }
}

/// Sidecars.
impl Cluster {
    /// Whether the stream is the one this sidecar has; a frozen one gets to it later.
    fn concerns(&mut self, who: usize, stream: StreamId, what: &Happening) -> bool {
        let sidecar = &self.members[who].sidecar;
        if sidecar.stream != Some(stream) || !sidecar.alive {
            return false;
        }
        let thawed = sidecar.frozen_until;
        if self.now() < thawed {
            self.schedule(thawed, what.clone());
            return false;
        }
        true
    }

    fn deliver(&mut self, who: usize, stream: StreamId, order: &Order) -> Seen {
        if !self.concerns(who, stream, &Happening::ToSidecar(who, stream, order.clone())) {
            return Seen::Nothing;
        }
        let now = self.now();
        let member = &mut self.members[who];
        let Some(reply) = member.sidecar.obey(now, order) else { return Seen::Moved };
        let message = acknowledgement(&member.sidecar, member.namespace, (reply.operation, reply.version));
        debug_assert_ne!(reply.operation, Operation::Report);
        if let Some(at) = self.arrival(stream, false, reply.after) {
            self.schedule(at, Happening::ToServer(stream, message));
        }
        Seen::Moved
    }

    fn end_seen(&mut self, who: usize, stream: StreamId, lost: bool) -> Seen {
        if !self.concerns(who, stream, &Happening::EndSeen(who, stream, lost)) {
            return Seen::Nothing;
        }
        self.lines.remove(&stream);
        self.come_back(who, stream, lost)
    }

    /// Deactivates everything, drains, connects elsewhere.
    fn come_back(&mut self, who: usize, stream: StreamId, lost: bool) -> Seen {
        let now = self.now();
        self.members[who].overslept = self.doomed.streams.get(&stream).map(|(_, leased)| *leased);
        let sidecar = &mut self.members[who].sidecar;
        let drain = if sidecar.table.is_some() { sidecar.drain } else { Duration::ZERO };
        if lost {
            sidecar.lose_replica(now);
        } else {
            sidecar.lose_stream();
        }
        let wait = between(self.roll(&[7, stream.seq]), ms(250), ms(750));
        self.schedule(self.now() + drain + wait, Happening::Connect(who));
        Seen::Moved
    }

    /// Its end of the stream is gone; the replica sees that a little later.
    fn hang_up(&mut self, who: usize) {
        if let Some(stream) = self.members[who].sidecar.stream
            && let Some(at) = self.arrival(stream, false, Duration::ZERO)
        {
            self.schedule(at, Happening::Gone(stream));
        }
    }

    fn crash(&mut self, who: usize) -> Seen {
        self.hang_up(who);
        let sidecar = &mut self.members[who].sidecar;
        sidecar.die();
        Seen::Moved
    }

    fn restart(&mut self, who: usize) {
        let sidecar = &mut self.members[who].sidecar;
        if !sidecar.alive {
            sidecar.alive = true;
            sidecar.frozen_until = Duration::ZERO;
            self.schedule(self.now(), Happening::Connect(who));
        }
    }

    /// The connection breaks. The sidecar notices first: what runs until then is the protocol's gap.
    fn reset(&mut self, who: usize) -> Seen {
        let sidecar = &self.members[who].sidecar;
        let Some(stream) = sidecar.stream.filter(|_| self.now() >= sidecar.frozen_until) else {
            return Seen::Nothing;
        };
        self.hang_up(who);
        self.come_back(who, stream, false)
    }

    fn freeze(&mut self, who: usize, length: Duration) {
        let now = self.now();
        let sidecar = &mut self.members[who].sidecar;
        if now >= sidecar.frozen_until {
            sidecar.frozen_until = now + length;
            sidecar.was_frozen = true;
        }
    }

    fn retype(&mut self, who: usize, chosen: &[bool]) -> Seen {
        let types = TYPES.iter().zip(chosen).filter(|(_, is)| **is).map(|(name, _)| Arc::from(*name)).collect();
        let now = self.now();
        let sidecar = &mut self.members[who].sidecar;
        sidecar.types = types;
        sidecar.as_introduced = false;
        if sidecar.alive && now >= sidecar.frozen_until {
            self.report(who);
        }
        Seen::Moved
    }

    fn report(&mut self, who: usize) {
        let member = &self.members[who];
        let message = report(&member.sidecar, member.namespace);
        if let Some(stream) = member.sidecar.stream
            && let Some(at) = self.arrival(stream, false, Duration::ZERO)
        {
            self.schedule(at, Happening::ToServer(stream, message));
        }
    }

    /// 1.16 reports every second; the others say so again, should a freeze have swallowed it.
    fn heartbeat(&mut self, who: usize) {
        let sidecar = &self.members[who].sidecar;
        let connected = sidecar.alive && self.now() >= sidecar.frozen_until && sidecar.stream.is_some();
        if connected && (sidecar.generation == Generation::V116 || sidecar.was_frozen) {
            self.report(who);
        }
        self.schedule(self.now() + ms(1000), Happening::Heartbeat(who));
    }
}
