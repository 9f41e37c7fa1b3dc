//! The decisions of placement, free of I/O: events and the time go in, commands come out.
//!
//! [`Dissemination`] is one namespace. It owns who is connected, which table was fixed last and the
//! LOCK → UPDATE → UNLOCK round that is running. The shell owns sockets, Raft and the clock.
//! Start reading at [`Dissemination::step`].

mod authorize;
mod carrier;
mod coalesce;
mod command;
mod dissemination;
mod event;
mod host;
mod invariants;
mod ledger;
mod members;
mod moment;
mod resume;
mod round;
mod rounds;
mod settings;
mod stream;
mod table;
mod takers;

pub use authorize::{Caller, Claim, Refusal, authorize};
pub use carrier::{Carried, Carrier, GRACE, Heard, LEASE, SILENCE};
pub use coalesce::Adaptive;
pub use command::{Command, EndReason, Order, OrderKind, Record, RoundSummary};
pub use dissemination::{Census, Dissemination};
pub use event::{Event, Message, Operation};
pub use host::{Entry, Generation, Host};
pub use invariants::Violation;
pub use ledger::{Ledger, Settled};
pub use moment::Moment;
pub use round::{OVERSLEPT, Phase};
pub use settings::{Limits, Settings};
pub use stream::StreamId;
pub use table::Table;
