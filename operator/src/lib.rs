//! The Dapr operator: serves Dapr resources to sidecars, converts Subscriptions, and gives
//! Dapr-enabled workloads their Services.
//!
//! Kubernetes watches feed one index ([`hub`], decided by [`core`]); lists and streams read
//! it. Every replica serves; only the leader changes Services and pods.
//!
//! | task | owns | receives from | sends to | ends |
//! |---|---|---|---|---|
//! | operator.health, operator.metrics | listeners | HTTP | HTTP | stop |
//! | operator.identity | own SVID, trust anchors | sentry, anchor file | by watch | stop, or a refused first SVID |
//! | operator.watch.* (one per kind, and pods) | a watch | API server | hub | stop |
//! | operator.secrets | fetches and watches of Secrets | hub, API server | hub | stop |
//! | operator.api | connections of sidecars | gRPC | hub | stop, 5 s later at most |
//! | operator.webhook | connections of the API server | HTTPS | HTTPS | stop, 5 s later at most |
//! | operator.crd | – | trust anchors, API server | the CRD | stop |
//! | operator.lease | the leader lease | API server | by watch | stop |
//! | operator.services.*, operator.watchdog | – | lease, API server | API server | stop |
//! | operator.ready | two health targets | identity, hub | health | stop |

pub mod args;
pub mod core;
mod dynamic_resource;
pub mod grpc;
pub mod hub;
pub mod metrics;
pub mod raw_object;
pub mod reconcile;
pub mod secrets;
pub mod status;
pub mod system;
pub mod watches;
pub mod webhook;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::Router;
use identity::{
    Alpn, ControlPlaneService, Workload,
    server::Incoming,
    workload::{AnchorSource, WorkloadOptions},
};
use kube::{Api, Client};
use runtime::{CancellationToken, TaskSet, admin, health::Health, lease::Lease};
use tokio::sync::watch;

use crate::{
    args::{Config, WatchdogPeriod},
    core::api_kind::ApiKind,
    hub::Hub,
    metrics::{Metrics, Sizes},
    reconcile::{
        services::{self, WorkloadKind},
        watchdog::Watchdog,
        while_leading,
    },
    secrets::Secrets,
    system::System,
    webhook::crd::Patcher,
};

/// Upstream's: streams and conversions take 5 s of it at most.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);
/// The lease upstream's operators hold too.
const LEASE: &str = "operator.dapr.io";
/// The namespace of the pod's service account.
const POD_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Everything the tasks share.
struct Operator {
    config: Config,
    client: Client,
    hub: Arc<Hub>,
    metrics: Metrics,
    health: Health,
    tasks: TaskSet,
}

/// Runs the operator until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    tracing::info!("Starting Dapr Operator -- version {}", runtime::VERSION);
    refuse_root(&config)?;
    let mut registry = runtime::metrics::registry();
    let metrics = Metrics::register(&mut registry);
    let hub = Hub::new(metrics.clone());
    registry.register_collector(Box::new(Sizes::of(&hub)));
    let client = runtime::kube_client(&config.args.kube).await.context("error creating operator")?;
    let mut operator = Operator { config, client, hub, metrics, health: Health::new(), tasks: TaskSet::new() };
    let targets = Targets::of(&operator.health);
    operator.serve_admin(registry).await?;
    let name = operator.config.args.config.clone();
    let system = system::load(operator.client.clone(), operator.config.namespace.as_str(), &name)
        .await
        .context("error creating operator")?;
    operator.start(system, targets).await?;
    operator.tasks.until_shutdown(SHUTDOWN_LIMIT).await.context("error running operator")?;
    tracing::info!("operator shut down gracefully");
    Ok(())
}

/// Upstream's health targets that its parts set.
struct Targets {
    provider: runtime::health::Target,
    security: runtime::health::Target,
    api: runtime::health::Target,
    webhook: runtime::health::Target,
    cache: runtime::health::Target,
}

impl Targets {
    fn of(health: &Health) -> Self {
        Self {
            provider: health.target("security-provider"),
            security: health.target("operator-security"),
            api: health.target("operator-api-server"),
            webhook: health.target("operator-webhook"),
            cache: health.target("operator-cache"),
        }
    }
}

impl Operator {
    async fn serve_admin(&mut self, registry: runtime::metrics::Registry) -> anyhow::Result<()> {
        let (health, registry) = (self.health.clone(), Arc::new(registry));
        let args = &self.config.args;
        let listener = admin::listen(&args.health.healthz_listen_address, args.health.healthz_port).await?;
        self.tasks.spawn("operator.health", |stop| admin::serve_health(listener, health, Router::new(), stop));
        if args.metrics.enable_metrics {
            let listener = admin::listen(&args.metrics.metrics_listen_address, args.metrics.metrics_port).await?;
            self.tasks.spawn("operator.metrics", |stop| admin::serve_metrics(listener, registry, stop));
        }
        Ok(())
    }

    async fn start(&mut self, system: System, targets: Targets) -> anyhow::Result<()> {
        let workload = self.start_identity(system)?;
        let api = admin::listen(&self.config.args.listen_address, self.config.args.port).await?;
        self.start_watches();
        self.start_api(Incoming::new(api, Some(workload.server_mtls())));
        if self.config.webhooks {
            self.start_webhook(&workload, targets.webhook).await?;
        } else {
            targets.webhook.ready();
            self.tasks.spawn("operator.webhook", |stop| hold(targets.webhook, stop));
        }
        self.start_leader_work();
        let hub = Arc::clone(&self.hub);
        self.tasks.spawn("operator.ready", |stop| async move {
            let become_ready = async {
                workload.ready().await?;
                for target in [&targets.provider, &targets.security, &targets.api] {
                    target.ready();
                }
                tracing::info!("Dapr Operator started");
                hub.until_all_synced().await;
                targets.cache.ready();
                tracing::info!("caches synced");
                Ok(())
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                outcome = become_ready => outcome.map_err(|error: identity::workload::Stopped| error)?,
            }
            stop.cancelled().await;
            Ok(())
        });
        Ok(())
    }

    fn start_identity(&mut self, system: System) -> anyhow::Result<Workload> {
        let config = &self.config;
        let anchors = AnchorSource::File(config.args.trust_anchors_file.clone());
        let mut options = WorkloadOptions::control_plane(
            ControlPlaneService::Operator,
            system.trust_domain,
            config.namespace.clone(),
            system.sentry_address,
            (anchors, config.token.clone()),
        );
        if let Some(id) = &config.local_identity {
            options.app_id = id.clone();
        }
        let (workload, task) = Workload::start(options).context("error creating operator")?;
        self.tasks.spawn("operator.identity", |stop| async move { task.run(stop).await.map_err(Into::into) });
        Ok(workload)
    }

    fn start_watches(&mut self) {
        let namespace = self.config.watch_namespace.clone();
        let namespace = namespace.as_ref().map(identity::Namespace::as_str);
        for kind in ApiKind::ALL {
            let api = watches::api_of(self.client.clone(), kind, namespace);
            let (hub, metrics) = (Arc::clone(&self.hub), self.metrics.clone());
            self.tasks.spawn(watch_name(kind), |stop| watches::follow_kind(api, kind, hub, metrics, stop));
        }
        let pods = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let (hub, metrics) = (Arc::clone(&self.hub), self.metrics.clone());
        self.tasks.spawn("operator.watch.pods", |stop| watches::follow_pods(pods, hub, metrics, stop));
        let secrets = Secrets::new(self.client.clone(), Arc::clone(&self.hub));
        self.tasks.spawn("operator.secrets", |stop| secrets.run(stop));
    }

    fn start_api(&mut self, incoming: Incoming) {
        if let Ok(address) = incoming.local_addr() {
            tracing::info!("Starting gRPC server on {address}");
        }
        let (hub, watched) = (Arc::clone(&self.hub), self.config.watch_namespace.clone());
        self.tasks.spawn("operator.api", |stop| grpc::serve(incoming, hub, watched, stop));
    }

    async fn start_webhook(&mut self, workload: &Workload, target: runtime::health::Target) -> anyhow::Result<()> {
        let args = &self.config.args;
        let listener = admin::listen(&args.webhook_server_listen_address, args.webhook_server_port).await?;
        let incoming = Incoming::new(listener, Some(workload.server_auth_only(Alpn::H2OrHttp11)));
        self.tasks.spawn("operator.webhook", |stop| webhook::serve(incoming, stop));
        let anchors = workload.trust_anchors_rx();
        let patcher = Patcher::new(self.client.clone(), self.config.namespace.clone(), anchors);
        self.tasks.spawn("operator.crd", |stop| patcher.run(target, stop));
        Ok(())
    }

    fn start_leader_work(&mut self) {
        let leading = self.start_lease();
        let namespace = self.config.watch_namespace.as_ref().map(ToString::to_string);
        let mut kinds = Vec::new();
        if !self.config.args.disable_service_reconciler {
            kinds.push(("operator.services.deployments", WorkloadKind::Deployment));
            kinds.push(("operator.services.statefulsets", WorkloadKind::StatefulSet));
            if self.config.args.enable_argo_rollout_service_reconciler {
                kinds.push(("operator.services.rollouts", WorkloadKind::Rollout));
            }
        }
        for (name, kind) in kinds {
            let (client, metrics) = (self.client.clone(), self.metrics.clone());
            let (leading, namespace) = (leading.clone(), namespace.clone());
            self.tasks.spawn(name, |stop| async move {
                let work = |term| services::run(client.clone(), kind, namespace.clone(), metrics.clone(), term);
                while_leading(leading, stop, work).await;
                Ok(())
            });
        }
        let period = self.config.watchdog;
        if period == WatchdogPeriod::Off {
            tracing::info!("Dapr Watchdog is not enabled");
            return;
        }
        let (client, labelling) = (self.client.clone(), self.config.labelling);
        let per_minute = self.config.args.max_pod_restarts_per_minute;
        self.tasks.spawn("operator.watchdog", |stop| async move {
            let work = |term| Watchdog::new(client.clone(), namespace.clone(), labelling, per_minute).run(period, term);
            while_leading(leading, stop, work).await;
            Ok(())
        });
    }

    fn start_lease(&mut self) -> watch::Receiver<bool> {
        if self.config.args.disable_leader_election {
            // The receiver keeps the last value although the sender is gone.
            return watch::channel(true).1;
        }
        let namespace =
            std::fs::read_to_string(POD_NAMESPACE).unwrap_or_else(|_not_in_a_pod| self.config.namespace.to_string());
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let identity = format!("{}_{}", host.trim(), uuid::Uuid::new_v4());
        let (lease, leading) = Lease::new(self.client.clone(), namespace.trim(), LEASE, &identity);
        self.tasks.spawn("operator.lease", |stop| lease.run(stop));
        leading
    }
}

/// Keeps a health target until `stop`.
async fn hold(_target: runtime::health::Target, stop: CancellationToken) -> Result<(), runtime::BoxError> {
    stop.cancelled().await;
    Ok(())
}

const fn watch_name(kind: ApiKind) -> &'static str {
    match kind {
        ApiKind::Component => "operator.watch.components",
        ApiKind::Configuration => "operator.watch.configurations",
        ApiKind::HttpEndpoint => "operator.watch.httpendpoints",
        ApiKind::McpServer => "operator.watch.mcpservers",
        ApiKind::Resiliency => "operator.watch.resiliencies",
        ApiKind::Subscription => "operator.watch.subscriptions",
        ApiKind::WorkflowAccessPolicy => "operator.watch.workflowaccesspolicies",
    }
}

fn refuse_root(config: &Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        config.root_allowed || !runtime::is_root(),
        "running as root is refused: give the container a user, or set DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK=true"
    );
    Ok(())
}
