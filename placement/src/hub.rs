//! The owner of every namespace's machine: one task that feeds events in and carries commands out.
//!
//! It never waits for a peer: orders go to bounded outboxes, facts to tasks of their own. All state
//! here belongs to one leadership; when that ends, every stream ends and the state is dropped, to be
//! restored from the replicated ledgers by whoever leads next.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use runtime::{BoxError, CancellationToken};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::core::{
    Census, Command, Dissemination, EndReason, Event, Generation, Host, Message, Moment, Order, Record, RoundSummary,
    Settings, StreamId,
};
use crate::metrics::{HostNamespace, Metrics, OfReason};
use crate::outbox::Outbox;
use crate::raft::{Fact, Leadership, Ledgers, Replica};
use crate::status::Ending;
use crate::wire;

/// Readers wait when the hub is this far behind; it handles an input in microseconds.
const INBOX: usize = 1024;
/// How often gauges are brought up to date.
const GAUGES: Duration = Duration::from_millis(250);
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
}

impl HubHandle {
    /// Gives the hub an input. During shutdown nobody listens any more, and nobody needs to.
    pub async fn send(&self, input: Input) {
        drop(self.inbox.send(input).await);
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
    namespaces: BTreeMap<Arc<str>, Namespace>,
    streams: HashMap<StreamId, (Arc<str>, Outbox)>,
    deadlines: BTreeSet<(Moment, Arc<str>)>,
    proposals: JoinSet<Proposed>,
}

impl Hub {
    /// A hub and the handle to feed it with.
    pub fn new(options: HubOptions, metrics: Metrics, replica: Replica) -> (Self, HubHandle) {
        let (tx, inbox) = mpsc::channel(INBOX);
        let hub = Self {
            options,
            clock: Clock::start(),
            metrics,
            leadership: replica.leadership(),
            replica,
            inbox,
            term: None,
            leaving: false,
            namespaces: BTreeMap::new(),
            streams: HashMap::new(),
            deadlines: BTreeSet::new(),
            proposals: JoinSet::new(),
        };
        (hub, HubHandle { inbox: tx })
    }

    /// Runs until stopped; then ends every stream.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut gauges = tokio::time::interval(GAUGES);
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
                _ = gauges.tick() => self.show_gauges(),
            }
        }
        self.end_all(&Ending::Stopped);
        self.metrics.set_leader(false);
        Ok(())
    }

    fn follow_leadership(&mut self) {
        let now = self.leadership.borrow_and_update().clone();
        let term = if let Leadership::Leading { term, .. } = &now { Some(*term) } else { None };
        if term != self.term {
            self.end_all(&Ending::LostLeadership);
        }
        self.metrics.set_leader(term.is_some());
        let began = term != self.term;
        // Restoring proposes facts already: they belong to the new term.
        self.term = term;
        if let Leadership::Leading { ledgers, .. } = now
            && began
        {
            self.restore(&ledgers);
        }
    }

    fn restore(&mut self, ledgers: &Ledgers) {
        let now = self.clock.now();
        for (namespace, ledger) in ledgers {
            let machine = Dissemination::restore(self.options.settings, ledger, now);
            self.namespaces.insert(namespace.clone(), Namespace { machine, deadline: None });
            self.step(namespace.clone(), Event::Tick);
        }
    }

    /// Ends what belongs to the leadership that is over.
    fn end_all(&mut self, ending: &Ending) {
        for (_, (_, outbox)) in self.streams.drain() {
            outbox.end(ending);
        }
        self.proposals.abort_all();
        self.proposals = JoinSet::new();
        self.deadlines.clear();
        self.show_gauges();
        for namespace in self.namespaces.keys() {
            self.set_runtimes(namespace, Census::default());
        }
        self.namespaces.clear();
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Opened { stream, namespace, host, generation, outbox } => {
                if self.leaving {
                    return outbox.end(&Ending::ShuttingDown);
                }
                if self.term.is_none() {
                    return outbox.end(&Ending::NotLeader { node: self.replica.id().to_owned() });
                }
                self.streams.insert(stream, (namespace.clone(), outbox));
                self.step(namespace, Event::Opened { stream, host, generation });
            }
            Input::Received { stream, message } => {
                let namespace = self.streams.get(&stream).map(|(namespace, _)| namespace.clone());
                if let Some(namespace) = namespace.filter(|_| !self.leaving) {
                    self.step(namespace, Event::Received { stream, message });
                }
            }
            Input::Closed { stream, ending } => self.close(stream, &ending),
            Input::Show(reply) => drop(reply.send(self.shown())),
            Input::Leave => self.leaving = true,
        }
    }

    fn close(&mut self, stream: StreamId, ending: &Ending) {
        let Some((namespace, outbox)) = self.streams.remove(&stream) else { return };
        outbox.end(ending);
        if !self.leaving {
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
                if let Some((_, outbox)) = self.streams.remove(&stream) {
                    self.count_end(&reason);
                    tracing::info!(%namespace, ?stream, ?reason, "stream ended");
                    outbox.end(&Ending::Machine(reason));
                }
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
        for stream in streams {
            let Some((_, outbox)) = self.streams.get(stream) else { continue };
            if outbox.send(frame.clone()).is_err()
                && let Some((_, outbox)) = self.streams.remove(stream)
            {
                self.metrics.ended.get_or_create(&OfReason { reason: "overflow" }).inc();
                tracing::info!(%namespace, ?stream, "stream ended: its client does not read");
                outbox.end(&Ending::Overflow);
                events.push_back(Event::Closed { stream: *stream });
            }
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
        self.metrics.streams.set(gauge(self.streams.len()));
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
