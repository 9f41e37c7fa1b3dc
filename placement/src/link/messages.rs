//! What followers and the leader say to each other on a link.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::core::{Carried, Generation, Host, Message, Moment, Operation, OrderKind, StreamId};

/// A message of a follower.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Up {
    /// What it says.
    #[prost(oneof = "Said", tags = "1, 2, 3, 4, 5")]
    pub said: Option<Said>,
}

/// What a follower says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Said {
    /// First on every link: who this is and what it carries.
    #[prost(message, tag = "1")]
    Announce(Announce),
    /// A stream was opened.
    #[prost(message, tag = "2")]
    Opened(Stream),
    /// A stream said something.
    #[prost(message, tag = "3")]
    Received(Received),
    /// The end of a stream's host was seen: its number.
    #[prost(uint64, tag = "4")]
    Closed(u64),
    /// Asks for a lease; the follower's own time in microseconds.
    #[prost(uint64, tag = "5")]
    Ask(u64),
}

/// First message on a link.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Announce {
    /// The follower's number.
    #[prost(uint64, tag = "1")]
    pub replica: u64,
    /// Its streams.
    #[prost(message, repeated, tag = "2")]
    pub streams: Vec<Stream>,
}

/// A stream as its replica describes it; see [`Carried`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stream {
    /// Number on its replica.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Host name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// App id.
    #[prost(string, tag = "4")]
    pub id: String,
    /// Echoed port.
    #[prost(int64, tag = "5")]
    pub port: i64,
    /// Api level.
    #[prost(uint32, tag = "6")]
    pub api_level: u32,
    /// Actor types.
    #[prost(string, repeated, tag = "7")]
    pub entities: Vec<String>,
    /// Place in [`Generation::ALL`].
    #[prost(uint32, tag = "8")]
    pub generation: u32,
    /// Version of its last LOCK.
    #[prost(uint64, tag = "9")]
    pub lock: u64,
    /// For how long it is locked, in milliseconds.
    #[prost(uint64, optional, tag = "10")]
    pub locked_ms: Option<u64>,
    /// Version of the table it was unlocked with.
    #[prost(uint64, optional, tag = "11")]
    pub table: Option<u64>,
    /// Its host's end was seen.
    #[prost(bool, tag = "12")]
    pub ended: bool,
}

/// A later message of a stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Received {
    /// The stream's number.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Place in `OPERATIONS`.
    #[prost(uint32, tag = "2")]
    pub operation: u32,
    /// Round version.
    #[prost(uint64, optional, tag = "3")]
    pub version: Option<u64>,
    /// Actor types.
    #[prost(string, repeated, tag = "4")]
    pub entities: Vec<String>,
}

/// A message of the leader.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Down {
    /// What it tells.
    #[prost(oneof = "Told", tags = "1, 2, 3")]
    pub told: Option<Told>,
}

/// What a leader tells.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Told {
    /// Orders for streams.
    #[prost(message, tag = "1")]
    Orders(Orders),
    /// End a stream.
    #[prost(message, tag = "2")]
    End(End),
    /// The answer to [`Said::Ask`], with what was asked.
    #[prost(uint64, tag = "3")]
    Granted(u64),
}

/// One order for many streams.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Orders {
    /// The streams' numbers.
    #[prost(uint64, repeated, tag = "1")]
    pub seqs: Vec<u64>,
    /// Place in `ORDERS`.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    /// Its version.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// The order as sidecars read it, encoded.
    #[prost(bytes = "bytes", tag = "4")]
    pub frame: Bytes,
}

/// The end of a stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct End {
    /// The stream's number.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// gRPC status code.
    #[prost(int32, tag = "2")]
    pub code: i32,
    /// gRPC status text.
    #[prost(string, tag = "3")]
    pub text: String,
}

/// Operations by their number on a link.
const OPERATIONS: [Operation; 6] =
    [Operation::Unknown, Operation::Report, Operation::Lock, Operation::Update, Operation::Unlock, Operation::Other];

/// Orders by their number on a link.
const ORDERS: [OrderKind; 3] = [OrderKind::Lock, OrderKind::Update, OrderKind::Unlock];

fn number<T: PartialEq>(of: &T, among: &[T]) -> u32 {
    among.iter().position(|one| one == of).and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX)
}

fn at<T: Copy>(number: u32, among: &[T]) -> Option<T> {
    usize::try_from(number).ok().and_then(|at| among.get(at).copied())
}

fn texts(entities: &[Arc<str>]) -> Vec<String> {
    entities.iter().map(ToString::to_string).collect()
}

impl Stream {
    /// Describes a stream at `now`.
    pub fn describe(now: Moment, namespace: &Arc<str>, carried: &Carried) -> Self {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            seq: carried.stream.seq,
            namespace: namespace.to_string(),
            name: carried.host.name.to_string(),
            id: carried.host.id.to_string(),
            port: carried.host.port,
            api_level: carried.host.api_level,
            entities: texts(&carried.host.entities),
            generation: number(&carried.generation, &Generation::ALL),
            lock: carried.lock,
            locked_ms: carried.locked.map(|since| millis(now - since)),
            table: carried.table,
            ended: carried.ended,
        }
    }

    /// What is described, by its namespace; nothing if its generation is not known here.
    pub fn understand(self, now: Moment, replica: u64) -> Option<(Arc<str>, Carried)> {
        let generation = at(self.generation, &Generation::ALL)?;
        let host = Host {
            name: self.name.into(),
            id: self.id.into(),
            port: self.port,
            api_level: self.api_level,
            entities: self.entities.into_iter().map(Arc::from).collect(),
        };
        let since = |ms| Moment::at(now.since_origin().saturating_sub(Duration::from_millis(ms)));
        let carried = Carried {
            stream: StreamId { replica, seq: self.seq },
            host,
            generation,
            lock: self.lock,
            locked: self.locked_ms.map(since),
            table: self.table,
            ended: self.ended,
        };
        Some((self.namespace.into(), carried))
    }
}

impl Announce {
    /// Announces streams by namespace.
    pub fn of(now: Moment, replica: u64, streams: &BTreeMap<Arc<str>, Vec<Carried>>) -> Self {
        let describe = |(namespace, streams): (&Arc<str>, &Vec<Carried>)| {
            streams.iter().map(|carried| Stream::describe(now, namespace, carried)).collect::<Vec<_>>()
        };
        Self { replica, streams: streams.iter().flat_map(describe).collect() }
    }

    /// The streams announced, by namespace.
    pub fn understand(self, now: Moment) -> BTreeMap<Arc<str>, Vec<Carried>> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (namespace, carried) in self.streams.into_iter().filter_map(|s| s.understand(now, self.replica)) {
            all.entry(namespace).or_default().push(carried);
        }
        all
    }
}

impl Received {
    /// Passes a message on.
    pub fn pass(seq: u64, message: &Message) -> Self {
        let operation = number(&message.operation, &OPERATIONS);
        Self { seq, operation, version: message.version, entities: texts(&message.entities) }
    }

    /// The message passed on.
    pub fn understand(self) -> Message {
        Message {
            operation: at(self.operation, &OPERATIONS).unwrap_or(Operation::Other),
            version: self.version,
            entities: self.entities.into_iter().map(Arc::from).collect(),
        }
    }
}

impl Orders {
    /// An order for these streams.
    pub fn new(seqs: Vec<u64>, order: (OrderKind, u64), frame: Bytes) -> Self {
        Self { seqs, kind: number(&order.0, &ORDERS), version: order.1, frame }
    }

    /// What is ordered; nothing if it is not known here.
    pub fn order(&self) -> Option<(OrderKind, u64)> {
        at(self.kind, &ORDERS).map(|kind| (kind, self.version))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_stream_arrives_as_it_was_described_whatever_the_clocks() {
        let (here, there) = (Moment::at(Duration::from_secs(90)), Moment::at(Duration::from_secs(7)));
        for generation in Generation::ALL {
            let host = Host {
                name: "10.0.0.5:50002".into(),
                id: "app".into(),
                port: 3,
                api_level: 20,
                entities: vec!["a".into(), "b".into()],
            };
            let carried = Carried {
                lock: 7,
                locked: Some(Moment::at(Duration::from_secs(88))),
                table: Some(6),
                ..Carried::new(StreamId { replica: 9, seq: 4 }, host, generation)
            };
            let announced = BTreeMap::from([(Arc::from("ns"), vec![carried.clone()])]);
            let bytes = Announce::of(here, 9, &announced).encode_to_vec();
            let heard = Announce::decode(bytes.as_slice()).expect("it was encoded").understand(there);
            let locked = Some(Moment::at(Duration::from_secs(5)));
            assert_eq!(heard, BTreeMap::from([(Arc::from("ns"), vec![Carried { locked, ..carried }])]));
        }
    }

    #[test]
    fn messages_and_orders_arrive_as_they_were_said() {
        for operation in OPERATIONS {
            let message = Message { operation, version: Some(0), entities: vec!["a".into()] };
            assert_eq!(Received::pass(1, &message).understand(), message);
        }
        for kind in ORDERS {
            assert_eq!(Orders::new(vec![1], (kind, 5), Bytes::new()).order(), Some((kind, 5)));
        }
        assert_eq!(Orders { kind: 9, ..Orders::default() }.order(), None);
    }
}
