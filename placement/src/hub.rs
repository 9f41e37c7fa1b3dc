//! The owner of every namespace's machine: one task that feeds events in and carries commands out.
//!
//! It never waits for a peer: orders go to bounded outboxes, facts to tasks of their own. Streams
//! belong to the replica that carries them and outlive leaders; the machines belong to one leadership
//! and are restored from the replicated ledgers by whoever leads next. While another replica leads,
//! what streams say goes to it over a link, see `links`.

mod lead;
mod links;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runtime::{BoxError, CancellationToken};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tonic::Status;

use self::lead::Lead;
use self::links::Link;
pub use self::links::Uplink;
use crate::clock::Clock;
use crate::core::{
    Carried, Carrier, Census, Command, Dissemination, EndReason, Event, Generation, Heard, Host, Message, Moment,
    Order, OrderKind, Record, RoundSummary, Settings, StreamId,
};
use crate::link::messages::{Announce, Down, Said, Told};
use crate::metrics::{HostNamespace, Metrics, OfReason};
use crate::outbox::{NotQueued, Outbox};
use crate::raft::{Fact, Leadership, Ledgers, Replica};
use crate::status::Ending;
use crate::wire;

/// Readers wait when the hub is this far behind; it handles an input in microseconds.
const INBOX: usize = 1024;
/// How often leases are asked for and looked at, and gauges brought up to date.
const BEAT: Duration = Duration::from_millis(250);
/// Rounds longer than this are worth a line that names who was slow.
const SLOW_ROUND: Duration = Duration::from_secs(1);
/// grpc's default limit on a received message, which every sidecar has.
const CLIENT_LIMIT: usize = 4 << 20;

/// What the hub is told.
#[derive(Debug)]
pub enum Input {
    /// A stream's first message was accepted.
    Opened {
        /// The stream.
        stream: StreamId,
        /// Its namespace, for good.
        namespace: Arc<str>,
        /// Who it is.
        host: Host,
        /// What it runs.
        generation: Generation,
        /// Where its orders go.
        outbox: Outbox,
    },
    /// A later message was accepted.
    Received {
        /// The stream.
        stream: StreamId,
        /// What it says.
        message: Message,
    },
    /// The stream's reader ended.
    Closed {
        /// The stream.
        stream: StreamId,
        /// Why.
        ending: Ending,
    },
    /// A follower linked itself to this replica.
    Linked {
        /// Counts links.
        link: u64,
        /// Who it is and what it carries.
        announce: Announce,
        /// Where its orders go.
        downs: mpsc::Sender<Result<Down, Status>>,
    },
    /// A follower said something.
    Said {
        /// Who.
        replica: u64,
        /// On which link.
        link: u64,
        /// What.
        said: Said,
    },
    /// A follower's link is gone.
    Unlinked {
        /// Whose.
        replica: u64,
        /// Which one.
        link: u64,
    },
    /// This replica is linked to the leader.
    Uplinked(Uplink),
    /// The leader told something.
    Told {
        /// On which link.
        link: u64,
        /// What.
        told: Told,
    },
    /// The link to the leader is gone.
    Downlinked {
        /// Which one.
        link: u64,
    },
    /// Someone wants to see the state.
    Show(oneshot::Sender<Option<Vec<Shown>>>),
    /// Leadership is being handed over: begin nothing new.
    Leave,
}

/// A namespace as the state endpoint shows it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The round version.
    pub version: u64,
    /// Hosts with actor types.
    pub hosts: Vec<(Host, Option<Generation>)>,
}

/// Sends inputs; clones share the hub.
#[derive(Clone, Debug)]
pub struct HubHandle {
    inbox: mpsc::Sender<Input>,
    accepts: watch::Receiver<bool>,
}

impl HubHandle {
    /// Gives the hub an input. During shutdown nobody listens any more, and nobody needs to.
    pub async fn send(&self, input: Input) {
        // A place first: a future that waits to send would carry the input twice.
        if let Ok(place) = self.inbox.reserve().await {
            place.send(input);
        }
    }

    /// Whether streams are taken here: this replica leads, or has a lease of the one that does.
    pub fn accepts(&self) -> watch::Receiver<bool> {
        self.accepts.clone()
    }

    /// The state as the state endpoint shows it; nothing on a replica that does not lead.
    pub async fn show(&self) -> Option<Vec<Shown>> {
        let (reply, shown) = oneshot::channel();
        self.send(Input::Show(reply)).await;
        shown.await.ok().flatten()
    }
}

struct Namespace {
    machine: Dissemination,
    deadline: Option<Moment>,
}

/// What the hub needs to know.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Settings of every namespace.
    pub settings: Settings,
    /// `--replicationFactor`.
    pub replication_factor: i64,
}

type Proposed = (u64, Arc<str>, Record, bool);

/// The task.
pub struct Hub {
    options: HubOptions,
    clock: Clock,
    metrics: Metrics,
    replica: Replica,
    leadership: watch::Receiver<Leadership>,
    inbox: mpsc::Receiver<Input>,
    /// The term this node leads in.
    term: Option<u64>,
    leaving: bool,
    lead: Lead,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    /// What this replica carries, and where it sends what.
    carrier: Carrier,
    outboxes: HashMap<StreamId, Outbox>,
    accepts: watch::Sender<bool>,
    /// The links of followers, while this node leads.
    links: BTreeMap<u64, Link>,
    /// The link to the leader, while another node leads.
    uplink: Option<Uplink>,
    deadlines: BTreeSet<(Moment, Arc<str>)>,
    proposals: JoinSet<Proposed>,
}

impl Hub {
    /// A hub and the handle to feed it with.
    pub fn new(options: HubOptions, metrics: Metrics, replica: Replica) -> (Self, HubHandle) {
        let (tx, inbox) = mpsc::channel(INBOX);
        let (accepts, accepted) = watch::channel(false);
        let hub = Self {
            options,
            clock: Clock::start(),
            metrics,
            leadership: replica.leadership(),
            replica,
            inbox,
            term: None,
            leaving: false,
            lead: Lead::default(),
            namespaces: BTreeMap::new(),
            carrier: Carrier::default(),
            outboxes: HashMap::new(),
            accepts,
            links: BTreeMap::new(),
            uplink: None,
            deadlines: BTreeSet::new(),
            proposals: JoinSet::new(),
        };
        (hub, HubHandle { inbox: tx, accepts: accepted })
    }

    /// Runs until stopped; then ends every stream.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut beat = tokio::time::interval(BEAT);
        self.leadership.mark_changed();
        loop {
            let deadline = self.deadlines.first().map(|(at, _)| self.clock.instant(*at));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = self.leadership.changed() => {
                    changed?;
                    self.follow_leadership();
                }
                Some(done) = self.proposals.join_next() => self.proposed(done?),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => {
                    self.tick();
                }
                Some(input) = self.inbox.recv() => self.take(input),
                _ = beat.tick() => self.beat(),
            }
        }
        self.step_down();
        self.uplink = None;
        self.end_streams(&Ending::Stopped);
        self.metrics.set_leader(false);
        Ok(())
    }

    fn beat(&mut self) {
        let now = self.clock.now();
        self.lead.look(now, self.term.is_some());
        self.look_at_links(now);
        if self.term.is_none() {
            self.ask(now);
        }
        self.end_without_lease(now);
        self.publish(now);
        self.show_gauges();
    }

    /// What is carried under neither leadership nor a lease ends.
    fn end_without_lease(&mut self, now: Moment) {
        if self.term.is_none() && self.carrier.is_over(now) && !self.outboxes.is_empty() {
            self.end_streams(&Ending::LostLeadership);
        }
    }

    /// Says whether streams are taken.
    fn publish(&self, now: Moment) {
        let accepts = self.term.is_some() || self.carrier.accepts(now);
        self.accepts.send_if_modified(|known| std::mem::replace(known, accepts) != accepts);
    }

    fn follow_leadership(&mut self) {
        let now = self.leadership.borrow_and_update().clone();
        let term = if let Leadership::Leading { term, .. } = &now { Some(*term) } else { None };
        if term != self.term {
            self.step_down();
        }
        self.metrics.set_leader(term.is_some());
        let began = term != self.term;
        // Restoring proposes facts already: they belong to the new term.
        self.term = term;
        if let Leadership::Leading { ledgers, .. } = now
            && began
        {
            self.uplink = None;
            self.lead.began(self.clock.now());
            self.restore(&ledgers);
        }
        let now = self.clock.now();
        self.end_without_lease(now);
        self.publish(now);
    }

    /// Begins with what is replicated and with the streams this replica carries itself.
    fn restore(&mut self, ledgers: &Ledgers) {
        let now = self.clock.now();
        let mut own = self.carrier.announce();
        for (namespace, ledger) in ledgers {
            let machine = Dissemination::restore(self.options.settings, ledger, now);
            self.namespaces.insert(namespace.clone(), Namespace { machine, deadline: None });
            own.entry(namespace.clone()).or_default();
        }
        for (namespace, streams) in own {
            self.step(namespace, Event::Resumed { streams });
        }
    }

    /// Drops what belongs to the leadership that is over. Streams stay open for a while: whoever leads
    /// next goes on with them.
    fn step_down(&mut self) {
        if self.term.is_some() {
            self.carrier.granted(self.lead.until());
        }
        self.links.clear();
        self.proposals.abort_all();
        self.proposals = JoinSet::new();
        self.deadlines.clear();
        for namespace in self.namespaces.keys() {
            self.set_runtimes(namespace, Census::default());
        }
        self.namespaces.clear();
    }

    fn end_streams(&mut self, ending: &Ending) {
        for (_, outbox) in self.outboxes.drain() {
            outbox.end(ending);
        }
        self.carrier.clear();
        self.show_gauges();
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Opened { stream, namespace, host, generation, outbox } => {
                self.open(namespace, Carried::new(stream, host, generation), outbox);
            }
            Input::Received { stream, message } => self.receive(stream, message),
            Input::Closed { stream, ending } => self.close(stream, &ending),
            Input::Linked { link, announce, downs } => self.linked(link, announce, downs),
            Input::Said { replica, link, said } => self.said((replica, link), said),
            Input::Unlinked { replica, link } => self.unlinked(replica, link),
            Input::Uplinked(uplink) => self.uplinked(uplink),
            Input::Told { link, told } => self.told(link, told),
            Input::Downlinked { link } => self.downlinked(link),
            Input::Show(reply) => drop(reply.send(self.shown())),
            Input::Leave => self.leaving = true,
        }
    }

    /// Whether this node decides. One that hands leadership over begins nothing new.
    fn decides(&self) -> bool {
        self.term.is_some() && !self.leaving
    }

    fn open(&mut self, namespace: Arc<str>, carried: Carried, outbox: Outbox) {
        if self.leaving {
            return outbox.end(&Ending::ShuttingDown);
        }
        if self.term.is_none() && !self.carrier.accepts(self.clock.now()) {
            return outbox.end(&Ending::NotLeader { node: self.replica.id().to_owned() });
        }
        let Carried { stream, host, generation, .. } = carried.clone();
        self.outboxes.insert(stream, outbox);
        if self.term.is_none() {
            self.pass_opened(&namespace, &carried);
        }
        self.carrier.opened(namespace.clone(), carried);
        if self.decides() {
            self.step(namespace, Event::Opened { stream, host, generation });
        }
    }

    fn receive(&mut self, stream: StreamId, message: Message) {
        if !self.carrier.received(stream, &message) {
            return;
        }
        if self.term.is_none() {
            self.pass_received(stream, &message);
        } else if let Some(namespace) = self.carrier.namespace(stream).filter(|_| !self.leaving) {
            self.step(namespace.clone(), Event::Received { stream, message });
        }
    }

    fn close(&mut self, stream: StreamId, ending: &Ending) {
        let Some(outbox) = self.outboxes.remove(&stream) else { return };
        outbox.end(ending);
        self.gone(stream);
    }

    /// The end of a stream's host was seen here.
    fn gone(&mut self, stream: StreamId) {
        let Some(namespace) = self.carrier.namespace(stream).cloned() else { return };
        let heard = if self.decides() || self.pass_closed(stream) { Heard::Yes } else { Heard::No };
        self.carrier.closed(stream, heard);
        if self.decides() {
            self.step(namespace, Event::Closed { stream });
        }
    }

    fn proposed(&mut self, done: Proposed) {
        let (term, namespace, record, replicated) = done;
        if Some(term) != self.term || self.leaving {
            return;
        }
        match record {
            Record::Fixed { version, .. } if replicated => self.step(namespace, Event::Committed { version }),
            record if !replicated => self.propose(namespace, record),
            Record::Fixed { .. } | Record::Settled { .. } => {}
        }
    }

    fn propose(&mut self, namespace: Arc<str>, record: Record) {
        let Some(term) = self.term else { return };
        let replica = self.replica.clone();
        self.proposals.spawn(async move {
            let fact = Fact { namespace: namespace.clone(), record: record.clone() };
            let outcome = replica.propose(fact).await;
            if let Err(error) = &outcome {
                // Leadership is usually lost by now; if not, the fact is proposed again.
                tracing::debug!(%error, %namespace, "a fact was not replicated");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (term, namespace, record, outcome.is_ok())
        });
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        self.look_before_limits(now);
        while let Some((at, namespace)) = self.deadlines.first().cloned() {
            if at > now {
                return;
            }
            self.deadlines.pop_first();
            if let Some(state) = self.namespaces.get_mut(&namespace) {
                state.deadline = None;
            }
            if !self.leaving {
                self.step(namespace, Event::Tick);
            }
        }
    }

    /// Feeds an event to its namespace, carries the commands out, and feeds back what came of that.
    fn step(&mut self, namespace: Arc<str>, event: Event) {
        let settings = self.options.settings;
        self.look_before_limits(self.clock.now());
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.clock.now();
            let state = self
                .namespaces
                .entry(namespace.clone())
                .or_insert_with(|| Namespace { machine: Dissemination::new(settings), deadline: None });
            for command in state.machine.step(now, event) {
                self.carry_out(&namespace, command, &mut events);
            }
        }
        self.rearm(namespace);
    }

    fn rearm(&mut self, namespace: Arc<str>) {
        let Some(state) = self.namespaces.get_mut(&namespace) else { return };
        let deadline = state.machine.next_deadline();
        if deadline != state.deadline {
            if let Some(old) = state.deadline {
                self.deadlines.remove(&(old, namespace.clone()));
            }
            state.deadline = deadline;
            if let Some(new) = deadline {
                self.deadlines.insert((new, namespace));
            }
        }
    }

    fn carry_out(&mut self, namespace: &Arc<str>, command: Command, events: &mut VecDeque<Event>) {
        match command {
            Command::Send { streams, order } => self.send(namespace, &streams, &order, events),
            Command::End { stream, reason } => {
                self.count_end(&reason);
                tracing::info!(%namespace, ?stream, ?reason, "stream ended");
                self.end(stream, &Ending::Machine(reason));
            }
            Command::Propose(record) => self.propose(namespace.clone(), record),
            Command::Finished(round) => self.finished(namespace, &round),
        }
    }

    fn send(&mut self, namespace: &Arc<str>, streams: &[StreamId], order: &Order, events: &mut VecDeque<Event>) {
        let frame = wire::frame(order, self.options.replication_factor);
        if let Order::Update(table) = order {
            self.metrics.table_bytes.set(i64::try_from(frame.len()).unwrap_or(i64::MAX));
            if frame.len() > CLIENT_LIMIT / 4 * 3 {
                let (bytes, hosts) = (frame.len(), table.hosts.len());
                tracing::warn!(%namespace, bytes, hosts, "table comes near the 4 MiB that sidecars accept");
            }
        }
        let order = (order.kind(), order.version());
        let mut elsewhere: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for stream in streams {
            if self.outboxes.contains_key(stream) {
                if let Err(NotQueued) = self.deliver(*stream, order, &frame) {
                    self.carrier.closed(*stream, Heard::Yes);
                    events.push_back(Event::Closed { stream: *stream });
                }
            } else {
                elsewhere.entry(stream.replica).or_default().push(stream.seq);
            }
        }
        for (replica, seqs) in elsewhere {
            self.ship(replica, seqs, (order, &frame));
        }
    }

    /// Queues an order on a stream that this replica carries; one that does not read is ended.
    fn deliver(&mut self, stream: StreamId, order: (OrderKind, u64), frame: &Bytes) -> Result<(), NotQueued> {
        let Some(outbox) = self.outboxes.get(&stream) else { return Ok(()) };
        if outbox.send(frame.clone()).is_ok() {
            self.carrier.sent(self.clock.now(), stream, order);
            return Ok(());
        }
        self.metrics.ended.get_or_create(&OfReason { reason: "overflow" }).inc();
        tracing::info!(?stream, "stream ended: its client does not read");
        if let Some(outbox) = self.outboxes.remove(&stream) {
            outbox.end(&Ending::Overflow);
        }
        Err(NotQueued)
    }

    /// Ends a stream that the machine has forgotten already.
    fn end(&mut self, stream: StreamId, ending: &Ending) {
        if let Some(outbox) = self.outboxes.remove(&stream) {
            self.carrier.closed(stream, Heard::Yes);
            outbox.end(ending);
        } else {
            self.ship_end(stream, ending);
        }
    }

    fn count_end(&self, reason: &EndReason) {
        let reason = match reason {
            EndReason::DisseminationTimeout { .. } => "timeout",
            EndReason::Superseded => "superseded",
            EndReason::UnlockOverdue { .. } => "unlock_overdue",
        };
        self.metrics.ended.get_or_create(&OfReason { reason }).inc();
    }

    fn finished(&self, namespace: &Arc<str>, round: &RoundSummary) {
        self.metrics.finished(round);
        let (version, streams, total) = (round.version, round.streams, round.total());
        if total > SLOW_ROUND {
            let (host, waited) = round.slowest.as_ref().map_or(("none", Duration::ZERO), |(h, t)| (&**h, *t));
            tracing::info!(%namespace, version, streams, ?total, slowest = host, ?waited, "slow round");
        } else {
            tracing::debug!(%namespace, version, streams, ?total, "round finished");
        }
    }

    fn shown(&self) -> Option<Vec<Shown>> {
        self.term?;
        let known = self.namespaces.iter().filter(|(_, state)| !state.machine.is_empty());
        let shown = known.map(|(namespace, state)| Shown {
            namespace: namespace.clone(),
            version: state.machine.version(),
            hosts: state.machine.hosts(),
        });
        Some(shown.collect())
    }

    fn show_gauges(&self) {
        let (mut queued, mut held) = (0, 0);
        for (namespace, state) in &self.namespaces {
            let census = state.machine.census();
            queued += census.queued;
            held += census.held;
            self.set_runtimes(namespace, census);
        }
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.streams.set(gauge(self.outboxes.len()));
        self.metrics.queued.set(gauge(queued));
        self.metrics.held.set(gauge(held));
        let status = self.replica.status();
        self.metrics.replication_lag.set(status.lag);
        self.metrics.quorum.set(i64::from(status.quorum));
    }

    fn set_runtimes(&self, namespace: &Arc<str>, census: Census) {
        let label = HostNamespace { host_namespace: namespace.to_string() };
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.runtimes.get_or_create(&label).set(gauge(census.admitted));
        self.metrics.actor_runtimes.get_or_create(&label).set(gauge(census.hosting));
    }
}
