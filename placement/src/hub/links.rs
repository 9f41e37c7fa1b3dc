//! The hub's two kinds of links: those of followers while this node leads, and its own to the leader
//! while another node does. A link that cannot keep up is dropped; its successor starts afresh.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::Hub;
use crate::core::{Carried, Event, Message, Moment, OVERSLEPT, OrderKind, StreamId};
use crate::link::messages::{Announce, Down, End, Orders, Received, Said, Stream, Told, Up};
use crate::outbox::NotQueued;
use crate::raft::node_id;
use crate::status::{Ending, status};

/// A link that is silent for this long is dropped. Followers ask four times a second.
const SILENT: Duration = Duration::from_millis(1500);
/// A link that is silent for this long is dropped when a limit runs out. Below the shortest limit, that
/// of LOCK for 1.18.
const QUIET: Duration = Duration::from_millis(700);

/// A follower's link, as the leader holds it. Dropping it ends it.
pub(super) struct Link {
    number: u64,
    /// Gone once the follower could not keep up: an order that was dropped must not be followed by another.
    downs: Option<mpsc::Sender<Result<Down, Status>>>,
    /// The namespaces of its streams.
    streams: HashMap<u64, Arc<str>>,
    heard: Moment,
}

/// The link to the leader, as a follower holds it. Dropping it ends it.
#[derive(Debug)]
pub struct Uplink {
    number: u64,
    ups: mpsc::Sender<Up>,
    /// Nothing until the hub has it.
    heard: Option<Moment>,
    _open: oneshot::Sender<()>,
}

impl Uplink {
    /// A link that was just opened; `open` is dropped with it.
    pub fn new(number: u64, ups: mpsc::Sender<Up>, open: oneshot::Sender<()>) -> Self {
        Self { number, ups, heard: None, _open: open }
    }
}

impl Hub {
    fn me(&self) -> u64 {
        node_id(self.replica.id())
    }

    /// A follower announces itself: whatever was known of its streams is over.
    pub(super) fn linked(&mut self, number: u64, announce: Announce, downs: mpsc::Sender<Result<Down, Status>>) {
        let replica = announce.replica;
        if !self.decides() || replica == self.me() {
            return;
        }
        self.unlink(replica);
        let now = self.clock.now();
        let announced = announce.understand(now);
        let home = |(namespace, streams): (&Arc<str>, &Vec<Carried>)| {
            let open = streams.iter().filter(|s| !s.ended);
            open.map(|s| (s.stream.seq, namespace.clone())).collect::<Vec<_>>()
        };
        let streams: HashMap<_, _> = announced.iter().flat_map(home).collect();
        tracing::info!(replica, streams = streams.len(), "a replica passes its streams on");
        self.links.insert(replica, Link { number, downs: Some(downs), streams, heard: now });
        for (namespace, streams) in announced {
            self.step(namespace, Event::Resumed { streams });
        }
    }

    fn link(&mut self, (replica, number): (u64, u64)) -> Option<&mut Link> {
        self.links.get_mut(&replica).filter(|link| link.number == number)
    }

    pub(super) fn said(&mut self, by: (u64, u64), said: Said) {
        let (now, decides, replica) = (self.clock.now(), self.decides(), by.0);
        let Some(link) = self.link(by) else { return };
        link.heard = now;
        let of = |seq| StreamId { replica, seq };
        match said {
            // What is asked is answered only by a node that leads now.
            Said::Ask(time) if decides => self.tell(replica, Told::Granted(time)),
            Said::Ask(_) | Said::Announce(_) => {}
            Said::Opened(stream) => {
                let Some((namespace, opened)) = stream.understand(now, replica) else { return };
                link.streams.insert(opened.stream.seq, namespace.clone());
                let Carried { stream, host, generation, .. } = opened;
                self.step(namespace, Event::Opened { stream, host, generation });
            }
            Said::Received(received) => {
                let stream = of(received.seq);
                if let Some(namespace) = link.streams.get(&received.seq).cloned() {
                    self.step(namespace, Event::Received { stream, message: received.understand() });
                }
            }
            Said::Closed(seq) => {
                if let Some(namespace) = link.streams.remove(&seq) {
                    self.step(namespace, Event::Closed { stream: of(seq) });
                }
            }
        }
    }

    pub(super) fn unlinked(&mut self, replica: u64, number: u64) {
        if self.link((replica, number)).is_some() {
            self.unlink(replica);
        }
    }

    /// Drops a follower's link: its streams may go on, its hosts keep their places for a while.
    fn unlink(&mut self, replica: u64) {
        let Some(link) = self.links.remove(&replica) else { return };
        tracing::info!(replica, streams = link.streams.len(), "a replica is not linked any more");
        let namespaces: BTreeSet<_> = link.streams.into_values().collect();
        for namespace in namespaces {
            self.step(namespace, Event::Lost { replica });
        }
    }

    /// Ships one order to all streams that a follower carries.
    pub(super) fn ship(&mut self, replica: u64, seqs: Vec<u64>, what: ((OrderKind, u64), &Bytes)) {
        self.tell(replica, Told::Orders(Orders::new(seqs, what.0, what.1.clone())));
    }

    pub(super) fn ship_end(&mut self, stream: StreamId, ending: &Ending) {
        if let Some(link) = self.links.get_mut(&stream.replica) {
            link.streams.remove(&stream.seq);
        }
        let status = status(ending);
        let end = End { seq: stream.seq, code: status.code().into(), text: status.message().to_owned() };
        self.tell(stream.replica, Told::End(end));
    }

    fn tell(&mut self, replica: u64, told: Told) {
        let Some(link) = self.links.get_mut(&replica) else { return };
        if let Some(downs) = &link.downs
            && downs.try_send(Ok(Down { told: Some(told) })).is_err()
        {
            tracing::warn!(replica, "a replica does not read its orders");
            link.downs = None;
        }
    }

    /// Drops quiet links before a limit is held against their streams: a replica that is cut off may not have
    /// heard what is waited for, nor will it hear that they are ended. A limit that ran out before this process
    /// looked is not held against anybody.
    pub(super) fn look_before_limits(&mut self, now: Moment) {
        let due = self.deadlines.first().is_some_and(|(at, _)| *at <= now && now <= *at + OVERSLEPT);
        let quiet = self.links.iter().filter(|(_, link)| due && now - link.heard > QUIET);
        for replica in quiet.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.unlink(replica);
        }
    }

    /// Drops links that are silent or cannot keep up.
    pub(super) fn look_at_links(&mut self, now: Moment) {
        let silent: Vec<_> =
            self.links.iter().filter(|(_, l)| l.downs.is_none() || now - l.heard > SILENT).map(|(id, _)| *id).collect();
        for replica in silent {
            self.unlink(replica);
        }
        if self.uplink.as_ref().is_some_and(|up| up.heard.is_some_and(|heard| now - heard > SILENT)) {
            self.uplink = None;
        }
    }

    /// The link to the leader is up: tells everything that is carried here.
    pub(super) fn uplinked(&mut self, mut uplink: Uplink) {
        if self.term.is_some() {
            return;
        }
        let now = self.clock.now();
        uplink.heard = Some(now);
        self.uplink = Some(uplink);
        let announced = self.carrier.announce();
        self.pass(Said::Announce(Announce::of(now, self.me(), &announced)));
        self.ask(now);
    }

    pub(super) fn downlinked(&mut self, number: u64) {
        self.uplink.take_if(|up| up.number == number);
    }

    /// Asks the leader for a lease.
    pub(super) fn ask(&mut self, now: Moment) {
        let micros = u64::try_from(now.since_origin().as_micros()).unwrap_or(u64::MAX);
        self.pass(Said::Ask(micros));
    }

    /// Passes something on to the leader: true if it will hear of it, or of the stream's end.
    fn pass(&mut self, said: Said) -> bool {
        let Some(uplink) = &self.uplink else { return false };
        let passed = uplink.ups.try_send(Up { said: Some(said) }).is_ok();
        if !passed {
            tracing::warn!("the link to the leader is full or gone");
            self.uplink = None;
        }
        passed
    }

    pub(super) fn pass_opened(&mut self, namespace: &Arc<str>, carried: &Carried) {
        let described = Stream::describe(self.clock.now(), namespace, carried);
        self.pass(Said::Opened(described));
    }

    pub(super) fn pass_received(&mut self, stream: StreamId, message: &Message) {
        self.pass(Said::Received(Received::pass(stream.seq, message)));
    }

    pub(super) fn pass_closed(&mut self, stream: StreamId) -> bool {
        self.term.is_none() && self.pass(Said::Closed(stream.seq))
    }

    /// Obeys the leader.
    pub(super) fn told(&mut self, number: u64, told: Told) {
        let now = self.clock.now();
        let me = self.me();
        let Some(uplink) = self.uplink.as_mut().filter(|up| up.number == number) else { return };
        uplink.heard = Some(now);
        match told {
            Told::Granted(asked) => {
                self.carrier.granted(Moment::at(Duration::from_micros(asked)));
                self.publish(now);
            }
            Told::Orders(orders) => self.obey(me, &orders),
            Told::End(End { seq, code, text }) => {
                let ending = Ending::Transport(code.into(), text);
                self.end(StreamId { replica: me, seq }, &ending);
            }
        }
    }

    fn obey(&mut self, me: u64, orders: &Orders) {
        let Some(order) = orders.order() else { return };
        for seq in &orders.seqs {
            let stream = StreamId { replica: me, seq: *seq };
            if let Err(NotQueued) = self.deliver(stream, order, &orders.frame) {
                self.gone(stream);
            }
        }
    }
}
