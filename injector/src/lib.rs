//! The sidecar injector: a mutating admission webhook that adds `daprd` to pods.
//!
//! What a pod gets is decided in [`core`], without I/O; everything here brings requests to
//! it and answers back. Replicas share nothing and each writes the same bytes into the
//! webhook configuration.
//!
//! | task | owns | receives from | sends to | ends when |
//! |---|---|---|---|---|
//! | `identity` | SVID, trust anchors | sentry, the anchors file | `webhook`, `ca-bundle` (watch) | stop, or sentry refuses the first SVID |
//! | `webhook` | connections of the API server | API server | answers | stop, after draining |
//! | `ca-bundle` | nothing | `identity` (watch), API server (watch) | API server (patch) | stop |
//! | `health`, `metrics` | their listeners | kubelet, Prometheus | answers | stop |

pub mod args;
pub mod ca_bundle;
pub mod cluster;
pub mod core;
pub mod departure;
pub mod metrics;
pub mod sidecar_defaults;
pub mod status;
pub mod webhook;

use std::{sync::Arc, time::Duration};

use identity::{
    Alpn, ControlPlaneService, Workload,
    server::Incoming,
    workload::{AnchorSource, WorkloadOptions},
};
use runtime::{
    BoxError, TaskSet,
    admin::{listen, serve_health, serve_metrics},
    health::{Health, Target},
};

use crate::{
    args::Config, ca_bundle::CaBundle, cluster::Cluster, core::callers::Callers, departure::Arrivals, metrics::Metrics,
    webhook::Webhook,
};

/// From the signal to the end: leaving the endpoints (15 s at most), draining (5 s), and slack.
const SHUTDOWN: Duration = Duration::from_secs(25);

/// The process may not run as it does.
#[derive(Debug, thiserror::Error)]
#[error(
    "the injector must not run as user 0; run it as another user, or set DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK=true"
)]
pub struct RunsAsRoot;

/// Runs the injector until it is told to stop.
pub async fn run(config: Config) -> Result<(), BoxError> {
    for warning in &config.warnings {
        tracing::warn!(warning, "configuration");
    }
    let client = runtime::kube_client(&config.args.kube).await?;
    let cluster = Cluster::new(client.clone(), config.install.namespace.clone());
    let callers = callers(&config, &cluster).await;
    if runtime::is_root() && !config.root_allowed {
        return Err(RunsAsRoot.into());
    }
    let health = Health::new();
    let mut registry = runtime::metrics::registry();
    let metrics = Metrics::register(&mut registry);
    let (workload, identity) = Workload::start(workload_options(&config))?;
    let mut tasks = TaskSet::new();
    let args = &config.args;

    let bundle_target = health.target("webhook-configuration");
    let security_target = health.target("security-provider");
    let service_target = Arc::new(health.target("injector-service"));
    let (health_target, metrics_target) = (health.target("healthz-server"), health.target("metrics-exporter"));
    let listener = listen(&args.health.healthz_listen_address, args.health.healthz_port).await?;
    health_target.ready();
    tasks.spawn("health", |stop| serve_health(listener, health.clone(), axum::Router::new(), stop));
    if args.metrics.enable_metrics {
        let listener = listen(&args.metrics.metrics_listen_address, args.metrics.metrics_port).await?;
        tasks.spawn("metrics", |stop| serve_metrics(listener, Arc::new(registry), stop));
    }
    metrics_target.ready();
    tasks.spawn("identity", |stop| async { Ok(identity.run(stop).await?) });
    let bundle = CaBundle::new(client, workload.trust_anchors_rx(), bundle_target, metrics.clone());
    tasks.spawn("ca-bundle", |stop| after_identity(workload.clone(), stop, |stop| bundle.run(stop)));

    let arrivals = Arrivals::default();
    let door = Door { workload: workload.clone(), security_target, service_target: service_target.clone() };
    let address = (args.listen_address.clone(), args.port);
    let webhook = Arc::new(Webhook {
        install: config.install.clone(),
        callers,
        anchors: workload.trust_anchors_rx(),
        cluster,
        metrics,
        tokens: webhook::TOKENS.map(Into::into).to_vec(),
    });
    let noted = arrivals.clone();
    tasks.spawn("webhook", |stop| after_identity(workload, stop, |stop| door.open(address, webhook, noted, stop)));
    let hand_over = async { departure::until_endpoints_moved(&service_target, &arrivals).await };
    tasks.until_shutdown_after(hand_over, SHUTDOWN).await?;
    drop((health_target, metrics_target));
    tracing::info!("sidecar injector shut down gracefully");
    Ok(())
}

/// Runs `task` once there is an identity, unless stopped before.
async fn after_identity<F: Future<Output = Result<(), BoxError>>>(
    workload: Workload,
    stop: runtime::CancellationToken,
    task: impl FnOnce(runtime::CancellationToken) -> F,
) -> Result<(), BoxError> {
    match stop.run_until_cancelled(workload.ready()).await {
        Some(Ok(())) => task(stop.clone()).await,
        // The identity's own task says why it ended; until then there is nothing to do here.
        Some(Err(_)) => {
            stop.cancelled().await;
            Ok(())
        }
        None => Ok(()),
    }
}

/// What opening the webhook needs.
struct Door {
    workload: Workload,
    security_target: Target,
    service_target: Arc<Target>,
}

impl Door {
    async fn open(
        self,
        (address, port): (String, u16),
        webhook: Arc<Webhook>,
        arrivals: Arrivals,
        stop: runtime::CancellationToken,
    ) -> Result<(), BoxError> {
        self.security_target.ready();
        let listener = listen(&address, port).await?;
        let bound = listener.local_addr()?;
        let incoming = Incoming::new(listener, Some(self.workload.server_auth_only(Alpn::H2OrHttp11)));
        self.service_target.ready();
        tracing::info!(address = %bound, "sidecar injector is listening, patching Dapr-enabled pods");
        webhook::serve(incoming, webhook::router(webhook), arrivals, stop).await
    }
}

/// The requesters that are accepted. Without the list of accounts names alone decide, which
/// covers the same accounts.
async fn callers(config: &Config, cluster: &Cluster) -> Callers {
    let callers = Callers::new(config.patterns.clone());
    match cluster.uids(&config.accounts).await {
        Ok(uids) => callers.with_uids(uids),
        Err(error) => {
            tracing::warn!(%error, "service accounts cannot be listed, requesters are recognised by name only");
            callers
        }
    }
}

fn workload_options(config: &Config) -> WorkloadOptions {
    let anchors = AnchorSource::File(config.trust_anchors_file.clone());
    let options = WorkloadOptions::control_plane(
        ControlPlaneService::Injector,
        config.trust_domain.clone(),
        config.namespace.clone(),
        config.sentry_address.clone(),
        (anchors, config.token.clone()),
    );
    match &config.local_identity {
        Some(app_id) => WorkloadOptions { app_id: app_id.clone(), ..options },
        None => options,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use identity::workload::KeyKind;

    use super::*;
    use crate::args::{Args, Given};

    fn config(more: &'static [(&'static str, &'static str)]) -> Config {
        let variable = |name: &str| {
            let pairs = [("NAMESPACE", "dapr-system"), ("SIDECAR_IMAGE", "daprd")];
            let found = pairs.iter().chain(more).find(|(found, _)| *found == name)?;
            Some(found.1.to_owned())
        };
        let given = Given { variable: &variable, resolv_conf: &|| Ok(String::new()) };
        Config::new(Args::parse_from(["injector"]), &given).unwrap()
    }

    #[test]
    fn the_injector_asks_for_an_rsa_certificate_of_its_own_name() {
        let options = workload_options(&config(&[]));
        assert_eq!(options.key, KeyKind::Rsa2048);
        assert_eq!(options.app_id.as_str(), "dapr-injector");
        assert_eq!(options.sentry_id().to_string(), "spiffe://cluster.local/ns/dapr-system/dapr-sentry");
        let renamed = workload_options(&config(&[("SENTRY_LOCAL_IDENTITY", "other")]));
        assert_eq!(renamed.app_id.as_str(), "other");
    }
}
