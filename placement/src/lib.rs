//! Actor placement: every sidecar keeps one stream to the leader, says which actor types it hosts, and
//! is told, in rounds, which hosts run which types.
//!
//! Read [`core`] first: it decides everything and does no I/O.
//!
//! | task | owns | receives from | sends to | ends when |
//! |---|---|---|---|---|
//! | `placement.identity` | SVID, anchors | sentry | everyone with TLS | stop |
//! | `placement.raft-leadership` | who leads | Raft | hub, service | stop, Raft fails |
//! | `placement.raft-membership` | first start, rejoin | peers | Raft | stop |
//! | `placement.raft-former` | removal of members | flag, Raft | Raft | stop |
//! | `placement.raft-server` | raft port | peers | Raft | stop |
//! | `placement.links` | links of followers | followers | hub | stop |
//! | `placement.uplink` | the link to the leader | the leader | hub | stop |
//! | `placement.hub` | every namespace's machine, every stream | readers, links, Raft, time | streams, links, Raft | stop; ends all streams |
//! | `placement.readers` | reading side of streams | sidecars | hub | stop |
//! | `placement.grpc` | gRPC port | sidecars | readers | stop, then at most 2 s |
//! | `placement.health`, `placement.metrics` | their ports | probes, scrapes | hub | stop |

pub mod args;
pub mod clock;
pub mod core;
pub mod grpc;
mod handed;
pub mod hub;
pub mod link;
pub mod metrics;
pub mod outbox;
pub mod raft;
pub mod state;
pub mod status;
pub mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::server::Incoming;
use identity::{PeerRule, Security};
use rand::Rng;
use runtime::health::{Health, Target};
use runtime::{BoxError, CancellationToken, TaskSet, admin};
use tokio::net::TcpListener;

use crate::args::Config;
use crate::grpc::{PlacementService, ServiceOptions};
use crate::hub::{Hub, HubHandle, Input};
use crate::link::{LinksTask, UplinkTask};
use crate::metrics::Metrics;
use crate::raft::{FormerTask, Replica, ReplicaTasks, node_id};

/// Handover, resignation, streams' ends and Raft's stop fit well below Kubernetes' 30 s.
const SHUTDOWN: Duration = Duration::from_secs(20);
/// How long open connections may take to close once their streams ended.
const GRPC_GRACE: Duration = Duration::from_secs(2);
/// Upstream tries this often to resolve and bind its own raft address.
const BIND_TRIES: u32 = 240;
const BIND_WAIT_MS: std::ops::RangeInclusive<u64> = 250..=750;

/// A service that runs; tests use its parts.
pub struct Placement {
    /// Its tasks.
    pub tasks: TaskSet,
    /// Where the gRPC server listens.
    pub address: SocketAddr,
    /// Where the health server listens.
    pub health_address: SocketAddr,
    /// Its raft node.
    pub replica: Replica,
    hub: HubHandle,
    service: PlacementService,
}

/// Runs placement until a signal.
pub async fn run(config: Config) -> Result<(), BoxError> {
    tracing::info!("Starting Dapr Placement Service -- version {} -- commit unknown", runtime::VERSION);
    let placement = start(config).await?;
    let Placement { tasks, replica, hub, service, .. } = placement;
    let leave = hand_over(hub, service, replica.clone());
    let outcome = tasks.until_shutdown_after(leave, SHUTDOWN).await;
    replica.shutdown().await;
    Ok(outcome?)
}

/// Leadership goes to another replica before any stream ends, and the vote where it can be spared.
async fn hand_over(hub: HubHandle, service: PlacementService, replica: Replica) {
    service.leave();
    hub.send(Input::Leave).await;
    replica.hand_over().await;
    replica.resign().await;
}

/// Binds everything and starts every task.
pub async fn start(config: Config) -> Result<Placement, BoxError> {
    let mut tasks = TaskSet::new();
    let health = Health::new();
    let mut registry = runtime::metrics::registry();
    let metrics = Metrics::register(&mut registry);
    serve_metrics(&config, &health, &mut tasks, registry).await?;

    let health_listener = admin::listen("", config.healthz_port).await?;
    let health_address = health_listener.local_addr()?;
    let (security, identity_task) = Security::start(config.workload.clone())?;
    tasks.spawn("placement.identity", |stop| async move { Ok(identity_task.run(stop).await?) });
    let (replica, replica_tasks) = Replica::start(config.replica.clone(), security.clone()).await?;
    let (hub, handle) = Hub::new(config.hub.clone(), metrics, replica.clone());
    let routes = state::routes(handle.clone(), replica.clone(), config.metadata_enabled);
    let (server_up, secure) = (health.target("healthz-server"), health.target("security-provider"));
    tasks.spawn("placement.health", |stop| {
        server_up.ready();
        let serve = admin::serve_health(health_listener, health.clone(), routes, stop);
        async move {
            let _up = server_up;
            serve.await
        }
    });

    let raft_up = health.target("placement-raft-leadership");
    let grpc_up = health.target("placement-grpc-server");
    let listener = admin::listen(&config.listen_address, config.port).await?;
    let address = listener.local_addr()?;
    tasks.spawn("placement.hub", |stop| hub.run(stop));
    let (links_task, links) = LinksTask::new(handle.clone(), replica.leadership());
    tasks.spawn("placement.links", |stop| links_task.run(stop));
    let identity = config.replica.identity.clone();
    let uplink = UplinkTask::new(replica.clone(), (security.clone(), identity), handle.clone());
    tasks.spawn("placement.uplink", |stop| uplink.run(stop));
    let former = FormerTask::new(replica.clone(), &config.former_members);
    tasks.spawn("placement.raft-former", |stop| former.run(stop));
    let replica_tasks = ReplicaTasks { server: replica_tasks.server.with_links(links), ..replica_tasks };
    spawn_raft(&mut tasks, (&replica, replica_tasks), (&security, &config), (raft_up, secure));
    let service = spawn_grpc(&mut tasks, listener, (&config, &security), &handle, grpc_up);
    Ok(Placement { tasks, address, health_address, replica, hub: handle, service })
}

async fn serve_metrics(
    config: &Config,
    health: &Health,
    tasks: &mut TaskSet,
    registry: runtime::metrics::Registry,
) -> Result<(), BoxError> {
    let up = health.target("metrics-exporter");
    up.ready();
    let listener = match config.metrics_port {
        Some(port) => Some(admin::listen(&config.listen_address, port).await?),
        None => None,
    };
    tasks.spawn("placement.metrics", |stop| async move {
        let _up = up;
        if let Some(listener) = listener {
            return admin::serve_metrics(listener, Arc::new(registry), stop).await;
        }
        stop.cancelled().await;
        Ok(())
    });
    Ok(())
}

/// Raft starts to talk once the identity is there.
fn spawn_raft(
    tasks: &mut TaskSet,
    node: (&Replica, ReplicaTasks),
    net: (&Security, &Config),
    targets: (Target, Target),
) {
    let (replica, parts) = (node.0.clone(), node.1);
    let (security, identity) = (net.0.clone(), net.1.replica.identity.clone());
    let ReplicaTasks { leadership, membership, server } = parts;
    tasks.spawn("placement.raft-leadership", |stop| leadership.run(stop));
    let waiting = security.clone();
    tasks.spawn("placement.raft-membership", |stop| async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            ready = waiting.ready() => ready?,
        }
        membership.run(stop).await
    });
    tasks.spawn("placement.raft-server", |stop| async move {
        let (raft_up, secure) = targets;
        let listener = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            listener = async { security.ready().await?; bind(replica.address()).await } => listener?,
        };
        secure.ready();
        raft_up.ready();
        let tls = security.server(PeerRule::Exactly(identity));
        server.run(Incoming::new(listener, tls), stop).await
    });
}

/// Resolves and binds the node's own raft address; the name may take a while to exist.
async fn bind(address: &str) -> Result<TcpListener, BoxError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if tries == BIND_TRIES => {
                return Err(format!("cannot listen on raft address {address}: {error}").into());
            }
            Err(error) => tracing::debug!(%error, address, "raft address is not usable yet"),
        }
        let wait = rand::rng().random_range(BIND_WAIT_MS);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}

fn spawn_grpc(
    tasks: &mut TaskSet,
    listener: TcpListener,
    net: (&Config, &Security),
    hub: &HubHandle,
    up: Target,
) -> PlacementService {
    let (config, security) = net;
    let options = ServiceOptions {
        node: config.replica.id.clone(),
        replica: node_id(&config.replica.id),
        mtls: config.workload.is_some(),
    };
    let (service, readers) = PlacementService::new(options, hub.clone());
    tasks.spawn("placement.readers", |stop| readers.run(stop));
    let (served, security, keepalive) = (service.clone(), security.clone(), config.keepalive);
    tasks.spawn("placement.grpc", |stop| async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            ready = security.ready() => ready?,
        }
        up.ready();
        let incoming = Incoming::new(listener, security.server(PeerRule::AnySpiffeId));
        serve(served, incoming, keepalive, stop).await
    });
    service
}

async fn serve(
    service: PlacementService,
    incoming: Incoming,
    keepalive: (Duration, Duration),
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let graceful = stop.clone();
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(keepalive.0))
        .http2_keepalive_timeout(Some(keepalive.1))
        .serve_with_incoming_shutdown(service, incoming, async move { graceful.cancelled().await });
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(GRPC_GRACE).await;
    };
    tokio::select! {
        served = server => served.map_err(Into::into),
        () = overdue => Ok(()),
    }
}
