//! What a replica remembers of the streams it carries, and how long it may carry them.
//!
//! The leader decides about every stream; the replica that holds the sidecar's connection passes
//! messages on. It remembers just enough for another leader to go on: who the host is now, whether it
//! was sent a LOCK and no UNLOCK yet, and the table it was last unlocked with. Acknowledgements need
//! not be remembered: a leader sends UNLOCK only once the table is settled.
//!
//! A lease counts from the moment the leader was *asked* for it, by this replica's clock alone. New
//! streams are taken only under a lease; open ones end within [`GRACE`] of losing it. A leader that
//! answered nothing for [`SILENCE`] therefore knows that the replica's streams are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::command::OrderKind;
use super::event::{Message, Operation};
use super::host::{Generation, Host};
use super::moment::Moment;
use super::stream::StreamId;

/// What an answer of the leader is good for. A lost leader is replaced within it and [`GRACE`].
pub const LEASE: Duration = Duration::from_secs(3);
/// How long streams stay open without a lease: RULINGS 18 says 3 s, and whoever looks does so four
/// times a second.
pub const GRACE: Duration = Duration::from_millis(2700);
/// After this long without an answer to a replica all of its streams have ended.
pub const SILENCE: Duration = Duration::from_secs(6);

/// A stream as the replica that carries it describes it to a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The stream.
    pub stream: StreamId,
    /// Who it is, with the actor types reported last.
    pub host: Host,
    /// What it runs.
    pub generation: Generation,
    /// Version of the last LOCK it was sent; 0 if none.
    pub lock: u64,
    /// Since when it is locked, if it is.
    pub locked: Option<Moment>,
    /// Version of the table it was last unlocked with.
    pub table: Option<u64>,
    /// The host's own end was seen, and no leader told of it.
    pub ended: bool,
}

impl Carried {
    /// A stream that was sent nothing yet.
    pub fn new(stream: StreamId, host: Host, generation: Generation) -> Self {
        Self { stream, host, generation, lock: 0, locked: None, table: None, ended: false }
    }
}

/// Whether a leader hears what this replica says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was passed on.
    Yes,
    /// There is nobody to tell.
    No,
}

/// The streams of one replica, and its lease.
#[derive(Clone, Debug, Default)]
pub struct Carrier {
    streams: BTreeMap<StreamId, (Arc<str>, Carried)>,
    lease: Option<Moment>,
}

impl Carrier {
    /// A stream's first message was accepted.
    pub fn opened(&mut self, namespace: Arc<str>, stream: Carried) {
        self.streams.insert(stream.stream, (namespace, stream));
    }

    /// A later message was accepted: true if the stream is open.
    pub fn received(&mut self, stream: StreamId, message: &Message) -> bool {
        let Some((_, carried)) = self.streams.get_mut(&stream).filter(|(_, s)| !s.ended) else { return false };
        let reports = match message.operation {
            Operation::Report => true,
            Operation::Unknown => carried.generation == Generation::V116,
            Operation::Lock | Operation::Update | Operation::Unlock | Operation::Other => false,
        };
        if reports {
            carried.host.entities.clone_from(&message.entities);
        }
        true
    }

    /// An order was queued on the stream.
    pub fn sent(&mut self, now: Moment, stream: StreamId, order: (OrderKind, u64)) {
        let Some((_, carried)) = self.streams.get_mut(&stream) else { return };
        match order {
            (OrderKind::Lock, version) => {
                carried.lock = version;
                carried.locked = Some(now);
            }
            (OrderKind::Update, _) => {}
            (OrderKind::Unlock, version) => {
                carried.locked = None;
                carried.table = Some(version);
            }
        }
    }

    /// The host's own end was seen. If nobody heard of it, the next leader is told.
    pub fn closed(&mut self, stream: StreamId, heard: Heard) {
        match self.streams.get_mut(&stream) {
            Some((_, carried)) if heard == Heard::No => carried.ended = true,
            _ => drop(self.streams.remove(&stream)),
        }
    }

    /// The namespace of an open stream.
    pub fn namespace(&self, stream: StreamId) -> Option<&Arc<str>> {
        self.streams.get(&stream).filter(|(_, s)| !s.ended).map(|(namespace, _)| namespace)
    }

    /// Everything a leader must know, by namespace. What has ended is told once.
    pub fn announce(&mut self) -> BTreeMap<Arc<str>, Vec<Carried>> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (namespace, carried) in self.streams.values() {
            all.entry(namespace.clone()).or_default().push(carried.clone());
        }
        self.streams.retain(|_, (_, carried)| !carried.ended);
        all
    }

    /// The leader answered what it was asked at `asked`; or this replica itself led until then.
    pub fn granted(&mut self, asked: Moment) {
        let until = asked + LEASE;
        self.lease = Some(self.lease.map_or(until, |lease| lease.max(until)));
    }

    /// Whether new streams may be taken.
    pub fn accepts(&self, now: Moment) -> bool {
        self.lease.is_some_and(|until| now < until)
    }

    /// Whether what is open must end.
    pub fn is_over(&self, now: Moment) -> bool {
        self.lease.is_none_or(|until| until + GRACE <= now)
    }

    /// Forgets every stream.
    pub fn clear(&mut self) {
        self.streams.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms))
    }

    fn carried(seq: u64, generation: Generation) -> Carried {
        let name: Arc<str> = format!("h{seq}").into();
        let host = Host { id: name.clone(), name, port: 0, api_level: 20, entities: vec!["a".into()] };
        Carried::new(StreamId { replica: 1, seq }, host, generation)
    }

    fn one(generation: Generation) -> (Carrier, StreamId) {
        let (mut carrier, stream) = (Carrier::default(), carried(1, generation));
        let id = stream.stream;
        carrier.opened("ns".into(), stream);
        (carrier, id)
    }

    fn told(carrier: &mut Carrier) -> Vec<Carried> {
        carrier.announce().into_values().flatten().collect()
    }

    #[test]
    fn a_lease_counts_from_the_question_and_streams_end_within_three_seconds_of_its_loss() {
        let (mut carrier, _) = one(Generation::V118);
        assert!(!carrier.accepts(at(0)) && carrier.is_over(at(0)), "nobody granted anything");
        carrier.granted(at(1000));
        assert!(carrier.accepts(at(3999)) && !carrier.accepts(at(4000)));
        assert!(!carrier.is_over(at(6699)) && carrier.is_over(at(6700)));
        assert!(LEASE + GRACE < SILENCE && GRACE < Duration::from_secs(3));
    }

    #[test]
    fn an_answer_that_comes_late_does_not_shorten_the_lease() {
        let (mut carrier, _) = one(Generation::V118);
        carrier.granted(at(2000));
        carrier.granted(at(1000));
        assert!(carrier.accepts(at(4999)));
    }

    #[test]
    fn a_leader_is_told_of_the_lock_and_of_the_table_before_it() {
        let (mut carrier, id) = one(Generation::V118);
        for order in [(OrderKind::Lock, 1), (OrderKind::Update, 1), (OrderKind::Unlock, 1), (OrderKind::Lock, 2)] {
            carrier.sent(at(order.1), id, order);
        }
        carrier.sent(at(3), id, (OrderKind::Update, 2));
        let stream = &told(&mut carrier)[0];
        assert_eq!((stream.lock, stream.locked, stream.table), (2, Some(at(2)), Some(1)));
    }

    #[test]
    fn a_leader_is_told_of_the_types_reported_last_and_acknowledgements_change_none() {
        let (mut carrier, id) = one(Generation::V118);
        let say = |operation, entities: &[&str]| Message {
            operation,
            version: None,
            entities: entities.iter().map(|e| Arc::from(*e)).collect(),
        };
        assert!(carrier.received(id, &say(Operation::Report, &["b"])));
        assert!(carrier.received(id, &say(Operation::Lock, &[])));
        assert_eq!(told(&mut carrier)[0].host.entities, [Arc::from("b")]);
    }

    #[test]
    fn an_end_that_nobody_heard_of_is_told_once() {
        let (mut carrier, id) = one(Generation::V117);
        carrier.closed(id, Heard::No);
        assert_eq!(carrier.namespace(id), None);
        assert!(told(&mut carrier)[0].ended);
        assert!(told(&mut carrier).is_empty());
        let (mut carrier, id) = one(Generation::V117);
        carrier.closed(id, Heard::Yes);
        assert!(told(&mut carrier).is_empty());
    }
}
