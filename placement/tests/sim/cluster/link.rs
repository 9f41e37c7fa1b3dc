//! Links of followers in the simulation: what `placement::link` does over gRPC, over two pipes that keep
//! order, delay, stall at a cut and break when it lasts.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use placement::hub::{HubHandle, Input, Uplink};
use placement::link::messages::{Down, Said, Told, Up};
use placement::raft::{Leadership, Replica};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::Fault;
use super::chance::{between, roll};
use super::wire::Network;
use crate::world::ms;

const DIAL_LIMIT: Duration = Duration::from_secs(1);
const PARKING: Duration = Duration::from_secs(1);
const FIRST_MESSAGE: Duration = Duration::from_secs(5);
/// A connection over a cut breaks after this.
const KEEPALIVE: Duration = Duration::from_secs(5);
const QUEUE: usize = 1 << 10;

/// How long a clock stood still, and the link that is open with the time of its lease.
#[derive(Clone, Default)]
pub struct Dozed(pub Arc<Mutex<Doze>>);

/// The time, and the link with when its lease was asked for.
type Doze = (Duration, Option<(u64, u64)>);

pub type Ups = mpsc::Receiver<Up>;
pub type Downs = mpsc::Sender<Result<Down, Status>>;

/// Two ends of a connection, as the follower holds them.
pub struct Line {
    pub ups: mpsc::Sender<Up>,
    pub downs: mpsc::Receiver<Result<Down, Status>>,
    pub leader: usize,
}

/// The follower's side: keeps a link to whoever leads.
pub struct Uplinks {
    pub index: usize,
    pub replica: Replica,
    pub hub: HubHandle,
    pub network: Arc<Network>,
    pub fault: Fault,
    /// When its clock began, and for how long that stood still (the fault).
    pub began: Duration,
    pub dozed: Dozed,
}

impl Uplinks {
    pub async fn run(self) {
        for number in 1.. {
            if let Some(leader) = self.replica.leader()
                && let Ok(Some(line)) = timeout(DIAL_LIMIT, self.network.dial(self.index, &leader)).await
            {
                self.follow(number, &leader, line).await;
            }
            let draw = roll(self.network.seed(), &[20, self.index as u64, number]);
            tokio::time::sleep(between(draw, ms(50), ms(150))).await;
        }
    }

    async fn follow(&self, number: u64, leader: &str, line: Line) {
        let (ups, queue) = mpsc::channel(16 << 10);
        let (open, mut closed) = oneshot::channel();
        self.hub.send(Input::Uplinked(Uplink::new(number, ups, open))).await;
        let Line { ups, mut downs, leader: to } = line;
        let (shipped, ships) = mpsc::channel(16 << 10);
        let stubborn = self.fault == Fault::FollowerWithoutLease;
        let mut upward = std::pin::pin!(async {
            tokio::join!(self.forward(number, queue, shipped), self.network.clone().pipe((self.index, to), ships, ups));
            if stubborn {
                std::future::pending::<()>().await;
            }
        });
        loop {
            tokio::select! {
                biased;
                _ = &mut closed => break,
                () = self.until_another_leads(leader), if !stubborn => break,
                () = &mut upward => break,
                down = downs.recv(), if !stubborn || !downs.is_closed() => match down {
                    Some(Ok(Down { told: Some(told) })) => {
                        let told = self.look_at(number, told);
                        self.hub.send(Input::Told { link: number, told }).await;
                    }
                    Some(Ok(Down { told: None })) => {}
                    None | Some(Err(_)) if !stubborn => break,
                    None | Some(Err(_)) => tokio::time::sleep(ms(50)).await,
                },
            }
        }
        self.hub.send(Input::Downlinked { link: number }).await;
    }

    /// Notes leases. The fault: the clock they are of is behind.
    fn look_at(&self, number: u64, told: Told) -> Told {
        let Told::Granted(asked) = told else { return told };
        let mut dozed = self.dozed.0.lock();
        dozed.1 = Some((number, asked));
        // A hub's clock begins at one second.
        let at = (self.began + Duration::from_micros(asked)).saturating_sub(Duration::from_secs(1));
        self.network.lease(self.index, at);
        Told::Granted(asked + u64::try_from(dozed.0.as_micros()).expect("a minute"))
    }

    /// Passes on what the hub says. The fault: leases are granted here instead of by the leader.
    async fn forward(&self, number: u64, mut queue: Ups, shipped: mpsc::Sender<Up>) {
        while let Some(up) = queue.recv().await {
            if let (Fault::FollowerWithoutLease, Some(Said::Ask(time))) = (self.fault, &up.said) {
                self.hub.send(Input::Told { link: number, told: Told::Granted(*time) }).await;
            }
            if shipped.send(up).await.is_err() && self.fault != Fault::FollowerWithoutLease {
                return;
            }
        }
    }

    async fn until_another_leads(&self, leader: &str) {
        while self.replica.leader().as_deref() == Some(leader) {
            tokio::time::sleep(ms(50)).await;
        }
    }
}

/// The leader's side: reads one link.
pub async fn serve(hub: HubHandle, replica: Replica, number: u64, (mut ups, downs): (Ups, Downs)) {
    let mut leadership = replica.leadership();
    drop(timeout(PARKING, leadership.wait_for(Leadership::is_leading)).await);
    if !leadership.borrow().is_leading() {
        return;
    }
    let Ok(Some(Up { said: Some(Said::Announce(announce)) })) = timeout(FIRST_MESSAGE, ups.recv()).await else {
        return;
    };
    let from = announce.replica;
    hub.send(Input::Linked { link: number, announce, downs }).await;
    while let Some(up) = ups.recv().await {
        if let Some(said) = up.said {
            hub.send(Input::Said { replica: from, link: number, said }).await;
        }
    }
    hub.send(Input::Unlinked { replica: from, link: number }).await;
}

impl Network {
    /// Carries messages in order until either end is gone or a cut lasts.
    pub async fn pipe<T>(self: Arc<Self>, ends: (usize, usize), mut source: mpsc::Receiver<T>, sink: mpsc::Sender<T>) {
        let (sent, mut sending) = mpsc::unbounded_channel();
        let network = self.clone();
        let stamp = async move {
            while let Some(item) = source.recv().await {
                drop(sent.send((Instant::now() + network.link_delay(ends), item)));
            }
        };
        let ship = async move {
            while let Some((at, item)) = sending.recv().await {
                tokio::time::sleep_until(at).await;
                if !self.passes(ends).await || sink.send(item).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = ship => {}
            () = async { stamp.await; std::future::pending().await } => {}
        }
    }

    async fn passes(&self, (from, to): (usize, usize)) -> bool {
        let since = Instant::now();
        while self.is_cut(from, to) {
            if since.elapsed() > KEEPALIVE {
                return false;
            }
            tokio::time::sleep(ms(50)).await;
        }
        true
    }
}

type Ends = ((mpsc::Sender<Up>, Ups), (Downs, mpsc::Receiver<Result<Down, Status>>));

/// The queues of a new connection: the follower's ends, and the leader's.
pub fn queues() -> Ends {
    (mpsc::channel(QUEUE), mpsc::channel(QUEUE))
}
