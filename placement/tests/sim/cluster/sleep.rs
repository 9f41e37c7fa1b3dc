//! A replica that sleeps: its process is stopped, or its machine is, and time goes on. None of its tasks
//! runs, nothing leaves or reaches it over Raft's network; what it is sent waits. Then it goes on with what
//! it believed: that it leads, that it may carry its streams.
//!
//! Its clock counts the time, as a monotonic clock does. Openraft's own tasks cannot be stopped here; only
//! what they send and receive is.
//!
//! While it sleeps it cannot end its streams, and sidecars send no pings. So an actor may run twice when
//! a replica sleeps for longer than a hold; [`Cluster::oversleeps`] leaves out just that. But once it is
//! awake its streams must end at once if its lease and grace were over, whatever it hears then.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use placement::core::{GRACE, LEASE, StreamId};

use super::world::{Cluster, Member, Seen};
use super::{Chaos, Fault, HOLD, Invariant, catches, holds, holds_under};
use crate::world::ms;

/// A replica that wakes looks at its lease at once; its streams' ends need a moment.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Lets the tasks of one process run, or not.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Gate {
    pub fn close(&self) {
        self.0.lock().0 = true;
    }

    /// All tasks go on: the one that was stopped last first if so wanted.
    pub fn open(&self, backwards: bool) {
        let mut wakers = {
            let mut state = self.0.lock();
            state.0 = false;
            std::mem::take(&mut state.1)
        };
        if backwards {
            wakers.reverse();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The task, which runs while the gate is open.
    pub fn guard<F: Future<Output = ()> + Send + 'static>(&self, task: F) -> Guarded {
        Guarded { gate: self.clone(), task: Box::pin(task) }
    }
}

/// A task behind a [`Gate`].
pub struct Guarded {
    gate: Gate,
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for Guarded {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = self.gate.0.lock();
            if state.0 {
                state.1.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.task.as_mut().poll(context)
    }
}

/// Streams whose replica slept beyond its lease and grace.
#[derive(Default)]
pub struct Doomed {
    /// Until when they must end, and since when their replica had no lease.
    pub streams: BTreeMap<StreamId, (Duration, Duration)>,
}

impl Cluster {
    /// Whether the replica has slept for longer than it may carry streams; since when it had no lease.
    pub(super) fn overslept(&self, index: usize) -> Option<Duration> {
        let leased = self.network.leased(index)?;
        (self.network.sleeps(index) && leased + LEASE + GRACE + AT_ONCE < self.now()).then_some(leased)
    }

    /// Whether this sidecar may run what others were given, because its replica could not end its stream in
    /// time: no host is held for longer.
    pub fn oversleeps(&self, member: &Member) -> bool {
        let stream = member.sidecar.stream;
        let doomed = stream.and_then(|stream| self.doomed.streams.get(&stream)).map(|(_, leased)| *leased);
        let asleep = stream.and_then(|stream| usize::try_from(stream.replica).ok()).and_then(|i| self.overslept(i));
        let leased = doomed.or(asleep).or(member.overslept);
        leased.is_some_and(|leased| leased + HOLD < self.now())
    }
}

pub struct EndsAtOnce;

impl Invariant for EndsAtOnce {
    fn check(&mut self, cluster: &Cluster, _: &Seen) -> Result<(), String> {
        let late = cluster
            .doomed
            .streams
            .iter()
            .find(|(stream, (by, _))| *by + ms(1) < cluster.now() && cluster.is_open(**stream));
        late.map_or(Ok(()), |(stream, (_, leased))| {
            Err(format!("{stream:?} goes on, although its replica slept; its lease was of {leased:?}"))
        })
    }
}

#[test]
fn a_replica_that_overslept_ends_its_streams_when_it_wakes() {
    holds("sleep");
}

#[test]
fn every_replica_may_sleep_beyond_its_lease() {
    holds_under(Chaos::Sleep, "sleep", 15);
    holds_under(Chaos::Sleep, "one owner", 15);
    holds_under(Chaos::Sleep, "heal", 15);
}

#[test]
fn a_lease_by_a_clock_that_stands_still_in_sleep_is_noticed() {
    catches("sleep", (Fault::DozingClock, Chaos::Sleep), 30);
}
