//! The network between replicas: seeded delay, which reorders, loss, and cuts in either direction.
//!
//! A call that is lost brings no answer, ever; its caller has a limit. A replica that is down refuses at
//! once. What a replica was asked it goes on with, also when the caller has given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use placement::hub::HubHandle;
use placement::raft::{Envelope, Method, NodeId, PeerService, Replica, Wire, node_id};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

use super::chance::{between, per_mille, roll};
use super::link::{Line, queues, serve};
use super::{CHAOS, Fault, REPLICAS};
use crate::world::ms;

/// Calls in a thousand that are lost while there is chaos.
const LOST: u64 = 10;
/// Calls in a thousand that take long.
const SLOW: u64 = 20;

pub fn address(index: usize) -> String {
    format!("replica-{index}:1")
}

pub fn id(index: usize) -> String {
    format!("replica-{index}")
}

fn index(address: &str) -> usize {
    (0..REPLICAS).find(|i| self::address(*i) == address).expect("a member's address")
}

/// A replica that is up, as its peers reach it.
struct Station {
    service: PeerService,
    replica: Replica,
    hub: HubHandle,
    calls: JoinSet<()>,
    links: u64,
}

#[derive(Default)]
struct State {
    stations: BTreeMap<usize, Station>,
    /// From, to: how many cuts are in force.
    cuts: BTreeMap<(usize, usize), u32>,
    sent: BTreeMap<(usize, usize), u64>,
    /// Replicas that sleep, and when that changes.
    asleep: BTreeSet<usize>,
    /// When each replica's lease began, or it led: the last time.
    leased: BTreeMap<usize, Duration>,
    /// Who was seen to lead: term, number.
    leaders: BTreeSet<(u64, NodeId)>,
    disorder: Option<String>,
}

/// The one network of a simulated cluster.
pub struct Network {
    seed: u64,
    fault: Fault,
    start: Instant,
    state: Mutex<State>,
    woken: Notify,
}

impl Network {
    pub fn new(seed: u64, fault: Fault, start: Instant) -> Arc<Self> {
        Arc::new(Self { seed, fault, start, state: Mutex::default(), woken: Notify::new() })
    }

    /// The end of the network that a replica holds.
    pub fn wire(self: &Arc<Self>, from: usize) -> Arc<dyn Wire> {
        Arc::new(End { from, network: self.clone() })
    }

    /// Since the beginning.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn up(&self, index: usize, service: PeerService, (replica, hub): (Replica, HubHandle)) {
        let station = Station { service, replica, hub, calls: JoinSet::new(), links: 0 };
        self.state.lock().stations.insert(index, station);
    }

    /// A connection for a link: nothing if nobody listens. It may take forever.
    pub async fn dial(self: &Arc<Self>, from: usize, address: &str) -> Option<Line> {
        let to = index(address);
        self.travel(from, to).await;
        let ((ups, taken), (downs, shipped)) = queues();
        let (arriving, arrived) = tokio::sync::mpsc::channel(1);
        {
            let mut state = self.state.lock();
            let station = state.stations.get_mut(&to)?;
            station.links += 1;
            station.calls.spawn(serve(station.hub.clone(), station.replica.clone(), station.links, (taken, downs)));
            station.calls.spawn(self.clone().pipe((to, from), shipped, arriving));
        }
        self.travel(to, from).await;
        Some(Line { ups, downs: arrived, leader: to })
    }

    /// Links are like other messages, without loss: TCP repeats.
    pub fn link_delay(&self, (from, to): (usize, usize)) -> Duration {
        let count = self.count(from, to);
        between(roll(self.seed, &[4, from as u64, to as u64, count]), Duration::from_micros(200), ms(15))
    }

    pub fn down(&self, index: usize) {
        let mut state = self.state.lock();
        state.stations.remove(&index);
        state.leased.remove(&index);
        drop(state);
        self.wake(index);
    }

    pub fn sleep(&self, index: usize) {
        self.state.lock().asleep.insert(index);
    }

    pub fn wake(&self, index: usize) {
        self.state.lock().asleep.remove(&index);
        self.woken.notify_waiters();
    }

    pub fn sleeps(&self, index: usize) -> bool {
        self.state.lock().asleep.contains(&index)
    }

    /// The replica has a lease of this time.
    pub fn lease(&self, index: usize, at: Duration) {
        let mut state = self.state.lock();
        let leased = state.leased.entry(index).or_default();
        *leased = at.max(*leased);
    }

    pub fn leased(&self, index: usize) -> Option<Duration> {
        self.state.lock().leased.get(&index).copied()
    }

    /// Waits for both to be awake.
    async fn awake(&self, ends: [usize; 2]) {
        loop {
            let woken = self.woken.notified();
            if !ends.iter().any(|index| self.sleeps(*index)) {
                return;
            }
            woken.await;
        }
    }

    pub fn cut(&self, from: usize, to: usize) {
        *self.state.lock().cuts.entry((from, to)).or_default() += 1;
    }

    pub fn mend(&self, from: usize, to: usize) {
        if let Some(cuts) = self.state.lock().cuts.get_mut(&(from, to)) {
            *cuts = cuts.saturating_sub(1);
        }
    }

    pub fn mend_all(&self) {
        self.state.lock().cuts.clear();
    }

    /// A replica that was elected although a later leader had been.
    pub fn disorder(&self) -> Option<String> {
        self.state.lock().disorder.clone()
    }

    /// A leader shows itself by what it sends and by what it says of itself.
    pub fn look_at(&self, index: usize) {
        let mut state = self.state.lock();
        let Some(station) = state.stations.get(&index) else { return };
        let status = station.replica.status();
        let me = node_id(&id(index));
        if status.leader != Some(me) || !state.leaders.insert((status.term, me)) {
            return;
        }
        let last = state.leaders.last().copied();
        if let Some((term, other)) = last.filter(|last| *last != (status.term, me)) {
            let here = status.term;
            state.disorder = Some(format!("replica {index} became leader of term {here} after {other} of term {term}"));
        }
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.state.lock().cuts.get(&(from, to)).is_some_and(|cuts| *cuts > 0)
    }

    fn count(&self, from: usize, to: usize) -> u64 {
        let mut state = self.state.lock();
        let count = state.sent.entry((from, to)).or_default();
        *count += 1;
        *count
    }

    /// How long this message travels; nothing when it is lost.
    fn fate(&self, from: usize, to: usize) -> Option<Duration> {
        let count = self.count(from, to);
        let draw = |what: u64| roll(self.seed, &[what, from as u64, to as u64, count]);
        let chaos = self.start.elapsed() < CHAOS;
        if self.is_cut(from, to) || (chaos && per_mille(draw(1), LOST)) {
            return None;
        }
        let slow = chaos && per_mille(draw(2), SLOW);
        Some(between(draw(3), Duration::from_micros(200), if slow { ms(400) } else { ms(15) }))
    }

    async fn travel(&self, from: usize, to: usize) {
        let fate = self.fate(from, to);
        if let Some(time) = fate {
            tokio::time::sleep(time).await;
            self.awake([from, to]).await;
        }
        if fate.is_none() || self.is_cut(from, to) {
            std::future::pending::<()>().await;
        }
    }

    fn deliver(&self, to: usize, method: Method, envelope: Envelope) -> Option<oneshot::Receiver<Answer>> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.state.lock();
        let station = state.stations.get_mut(&to)?;
        let service = station.service.clone();
        while station.calls.try_join_next().is_some() {}
        // The caller may have given up by then.
        station.calls.spawn(async move { drop(reply.send(service.answer(method, envelope).await)) });
        Some(answer)
    }
}

type Answer = Result<Envelope, Status>;

struct End {
    from: usize,
    network: Arc<Network>,
}

impl End {
    /// An acknowledgement that nobody gave.
    fn forged(&self, to: usize, method: Method) -> Option<Answer> {
        let forges = self.network.fault == Fault::ForgedAcknowledgement && method == Method::Append;
        let forged = Envelope { payload: br#"{"Ok":"Success"}"#.as_slice().into() };
        (forges && self.network.is_cut(self.from, to)).then_some(Ok(forged))
    }
}

impl Wire for End {
    fn carry(&self, address: &str, method: Method, envelope: Envelope) -> BoxFuture<'_, Answer> {
        let to = index(address);
        Box::pin(async move {
            let (from, network) = (self.from, &self.network);
            if method == Method::Append {
                network.look_at(from);
            }
            if let Some(forged) = self.forged(to, method) {
                return forged;
            }
            network.travel(from, to).await;
            let refused = || Status::unavailable("nobody listens");
            let answer = network.deliver(to, method, envelope).ok_or_else(refused)?;
            let answer = answer.await.map_err(|_| Status::unavailable("the peer went down"))?;
            network.travel(to, from).await;
            answer
        })
    }
}
