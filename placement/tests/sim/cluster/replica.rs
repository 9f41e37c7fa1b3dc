//! One replica that is up: everything `placement::start` wires together, without its sockets.

use std::sync::Arc;
use std::time::Duration;

use identity::{ControlPlaneService, Namespace, SpiffeId, TrustDomain};
use placement::core::Settings;
use placement::grpc::{PlacementService, ServiceOptions};
use placement::hub::{Hub, HubHandle, HubOptions, Input};
use placement::link::messages::Told;
use placement::metrics::Metrics;
use placement::raft::{Leadership, Ledgers, NodeStatus, Peers, Replica, ReplicaOptions, Store, node_id};
use prometheus_client::registry::Registry;
use runtime::{BoxError, CancellationToken};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::disk::Log;
use super::link::{Dozed, Uplinks};
use super::sleep::Gate;
use super::wire::{Network, address, id};
use super::world::Report;
use super::{Fault, HOLD, REPLICAS};

/// The process.
pub struct Process {
    pub index: usize,
    replica: Replica,
    hub: HubHandle,
    pub service: PlacementService,
    tasks: JoinSet<()>,
    gate: Gate,
    slept: Option<Duration>,
    dozed: Dozed,
    fault: Fault,
}

fn options(index: usize) -> ReplicaOptions {
    let domain = TrustDomain::parse("cluster.local").expect("a trust domain");
    let namespace = Namespace::parse("dapr-system").expect("a namespace");
    ReplicaOptions {
        id: id(index),
        members: (0..REPLICAS).map(|i| (id(i), address(i))).collect(),
        log_path: None,
        identity: SpiffeId::control_plane(domain, namespace, ControlPlaneService::Placement),
    }
}

impl Process {
    /// Starts on this disk.
    pub async fn start(
        index: usize,
        store: &Store,
        network: &Arc<Network>,
        (fault, reports): (Fault, &mpsc::UnboundedSender<Report>),
    ) -> Self {
        let log = Log::new(store.clone(), index, fault);
        let peers = Peers::over(network.wire(index));
        let (replica, parts) =
            Replica::start_on(options(index), (store.clone(), log), peers).await.expect("the replica starts");
        let hold = if fault == Fault::SkippedHold { Duration::ZERO } else { HOLD };
        let settings = Settings { hold, ..Settings::default() };
        let metrics = Metrics::register(&mut Registry::default());
        let (hub, handle) = Hub::new(HubOptions { settings, replication_factor: 100 }, metrics, replica.clone());
        let service = ServiceOptions { node: id(index), replica: node_id(&id(index)), mtls: false };
        let (service, readers) = PlacementService::new(service, handle.clone());
        network.up(index, parts.server, (replica.clone(), handle.clone()));
        let (gate, dozed) = (Gate::default(), Dozed::default());
        let began = network.now();
        let mut process = Self {
            index,
            replica,
            hub: handle,
            service,
            tasks: JoinSet::new(),
            gate,
            slept: None,
            dozed: dozed.clone(),
            fault,
        };
        process.run(reports, |stop| parts.leadership.run(stop));
        process.run(reports, |stop| parts.membership.run(stop));
        process.run(reports, |stop| hub.run(stop));
        process.run(reports, |stop| readers.run(stop));
        process.report_leadership(reports.clone());
        let (replica, hub, network) = (process.replica.clone(), process.hub.clone(), network.clone());
        let uplinks = Uplinks { index, replica, hub, network, fault, began, dozed };
        process.tasks.spawn(process.gate.guard(uplinks.run()));
        process
    }

    /// A task that ends by itself is a failure.
    fn run<F>(&mut self, reports: &mpsc::UnboundedSender<Report>, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let (task, reports, index) = (task(CancellationToken::new()), reports.clone(), self.index);
        self.tasks.spawn(self.gate.guard(async move {
            let ended = task.await;
            drop(reports.send(Report::Failed(format!("a task of replica {index} ended: {ended:?}"))));
        }));
    }

    fn report_leadership(&mut self, reports: mpsc::UnboundedSender<Report>) {
        let (mut leadership, index) = (self.replica.leadership(), self.index);
        self.tasks.spawn(async move {
            while leadership.changed().await.is_ok() {
                drop(reports.send(Report::Led(index, leadership.borrow_and_update().is_leading())));
            }
        });
    }

    /// SIGTERM: leadership goes first; the caller is told when the process may stop.
    pub fn leave(&mut self, reports: mpsc::UnboundedSender<Report>) {
        let (service, hub, replica, index) = (self.service.clone(), self.hub.clone(), self.replica.clone(), self.index);
        self.tasks.spawn(self.gate.guard(async move {
            service.leave();
            hub.send(Input::Leave).await;
            replica.hand_over().await;
            drop(reports.send(Report::Left(index)));
        }));
    }

    /// None of its tasks runs any more.
    pub fn sleep(&mut self, now: Duration) {
        self.gate.close();
        self.slept.get_or_insert(now);
    }

    /// All go on, in one order or the other.
    pub async fn wake(&mut self, now: Duration, backwards: bool) {
        let Some(since) = self.slept.take() else { return };
        if self.fault == Fault::DozingClock {
            self.doze(now.saturating_sub(since)).await;
        }
        self.gate.open(backwards);
    }

    /// The fault: by its clock no time passed, so the lease it has is good for as long as it was before.
    async fn doze(&self, length: Duration) {
        let (dozed, lease) = {
            let mut dozed = self.dozed.0.lock();
            dozed.0 += length;
            *dozed
        };
        if let Some((link, asked)) = lease {
            let told = Told::Granted(asked + u64::try_from(dozed.as_micros()).expect("a minute"));
            self.hub.send(Input::Told { link, told }).await;
        }
    }

    /// The process is gone; what it wrote stays.
    pub async fn stop(mut self, network: &Network) {
        network.down(self.index);
        self.tasks.abort_all();
        self.replica.shutdown().await;
        while self.tasks.join_next().await.is_some() {}
    }

    /// Whether it acts as the leader.
    pub fn leads(&self) -> bool {
        matches!(&*self.replica.leadership().borrow(), Leadership::Leading { .. })
    }

    pub fn ledgers(&self) -> Ledgers {
        self.replica.ledgers()
    }

    pub fn status(&self) -> NodeStatus {
        self.replica.status()
    }
}
