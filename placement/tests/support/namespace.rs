//! One namespace's machine, fed by hand: what it sends, by stream.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;
use std::time::Duration;

use placement::core::{
    Command, Dissemination, Event, Generation, Host, Message, Moment, Operation, Order, OrderKind, Record, Settings,
    StreamId,
};

/// One namespace and what it sent, by stream.
pub struct Namespace {
    pub machine: Dissemination,
    pub now: Duration,
    sent: Vec<(u64, Order)>,
}

/// A stream; number 9 is another replica's.
pub fn id(seq: u64) -> StreamId {
    StreamId { replica: if seq == 9 { 2 } else { 1 }, seq }
}

pub fn host(seq: u64, types: &[&str], api_level: u32) -> Host {
    let name: Arc<str> = format!("10.0.0.{seq}:50002").into();
    Host { id: name.clone(), name, port: 0, api_level, entities: types.iter().map(|t| Arc::from(*t)).collect() }
}

impl Namespace {
    pub fn new() -> Self {
        Self { machine: Dissemination::new(Settings::default()), now: Duration::from_secs(1), sent: Vec::new() }
    }

    /// Steps, and replicates at once what is proposed.
    pub fn step(&mut self, event: Event) {
        self.now += Duration::from_millis(1);
        for command in self.machine.step(Moment::at(self.now), event) {
            match command {
                Command::Send { streams, order } => {
                    self.sent.extend(streams.iter().map(|stream| (stream.seq, order.clone())));
                }
                Command::Propose(Record::Fixed { version, .. }) => self.step(Event::Committed { version }),
                _ => {}
            }
        }
        assert_eq!(self.machine.check(), Ok(()));
    }

    /// Lets time pass, with a tick whenever the machine asked for one.
    pub fn wait(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        while let Some(due) = self.machine.next_deadline().map(Moment::since_origin).filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.step(Event::Tick);
        }
        self.now = self.now.max(until);
    }

    /// Opens a stream when nothing has changed for a while.
    pub fn open(&mut self, seq: u64, types: &[&str], (generation, api_level): (Generation, u32)) {
        self.wait(3000);
        let host = host(seq, types, api_level);
        self.step(Event::Opened { stream: id(seq), host, generation });
    }

    pub fn ack(&mut self, seq: u64, operation: Operation) {
        let message = Message { operation, version: Some(self.machine.version()), entities: Vec::new() };
        self.step(Event::Received { stream: id(seq), message });
    }

    /// What was sent on a stream since it was last asked for.
    pub fn sent(&mut self, seq: u64) -> Vec<&'static str> {
        let name = |order: &Order| match order {
            Order::Types(_) => "types",
            Order::Update(_) => "update",
            Order::Lock(_) => "lock",
            Order::Unlock(_) => "unlock",
        };
        let names = self.sent.iter().filter(|(to, _)| *to == seq).map(|(_, order)| name(order)).collect();
        self.sent.retain(|(to, _)| *to != seq);
        names
    }

    /// Acknowledges everything that these streams were sent until nothing comes any more.
    pub fn settle(&mut self, seqs: &[u64]) {
        loop {
            let owed: Vec<_> = self.sent.iter().filter(|(to, _)| seqs.contains(to)).cloned().collect();
            self.sent.retain(|(to, _)| !seqs.contains(to));
            if owed.is_empty() {
                return;
            }
            for (seq, order) in owed {
                self.ack(
                    seq,
                    match order.kind() {
                        OrderKind::Lock => Operation::Lock,
                        OrderKind::Update => Operation::Update,
                        OrderKind::Unlock => Operation::Unlock,
                    },
                );
            }
        }
    }
}
