//! Wires sentry's parts together and runs them.

use std::{path::Path, sync::Arc, time::Duration};

use identity::{Alpn, server::Listener, tls};
use kube::Client;
use runtime::{TaskError, TaskSet, admin, health::Health};

use crate::{
    args::{Config, JwtConfig, Mode},
    cluster_domain,
    configuration::{self, ConfigurationError, Settings},
    connections,
    core::{dns_names::Home, oidc::Discovery, rotation},
    directory::Directory,
    events::Events,
    grpc::CaService,
    issuer::Issuer,
    keeper::{KeepError, Keeper, KeeperOptions},
    metrics::Metrics,
    oidc::OidcServer,
    rotation::{Rotation, Sidecars},
    serving::{Serving, ServingError},
    store::{FileStore, KubeStore, Store},
    validators::{
        Validators,
        jwks::{self, JwksOptionError},
        kubernetes::KubernetesValidator,
    },
};

/// The pod's own grace period is 30 s; calls take 3 s at most.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);
/// How often the Secret is looked at: two GETs, far below what probes cost.
const KUBERNETES_POLL: Duration = Duration::from_secs(10);
/// How often files are looked at.
const FILE_POLL: Duration = Duration::from_secs(1);

/// Why sentry did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// It runs as root.
    #[error(
        "effective user id is 0: sentry must not run as root in Kubernetes (DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK=true skips this check)"
    )]
    Root,
    /// There is no way to the API server.
    #[error(transparent)]
    Kube(#[from] runtime::KubeConfigError),
    /// The Configuration cannot be used.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// A token validator's options cannot be used.
    #[error(transparent)]
    Jwks(#[from] JwksOptionError),
    /// There is no bundle.
    #[error("error creating CA: failed to get CA bundle")]
    Bundle(#[from] KeepError),
    /// Sentry has no certificate of its own.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// A port cannot be opened.
    #[error(transparent)]
    Listen(#[from] admin::ListenError),
    /// A task ended.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Runs sentry until it is told to stop.
pub async fn run(config: Config) -> Result<(), Failed> {
    let health = Health::new();
    let mut registry = runtime::metrics::registry();
    let metrics = Metrics::register(&mut registry);
    let mut tasks = TaskSet::new();
    // Known before the endpoint answers: without targets a process counts as ready.
    let security = health.target("security-provider");
    let server = health.target("sentry-server");
    start_admin(&config, &health, registry, &mut tasks).await?;

    let client = match config.mode {
        Mode::Kubernetes => Some(runtime::kube_client(&config.kube).await?),
        Mode::Standalone => None,
    };
    let settings = settings(&config, client.as_ref()).await?;
    check_user(config.mode)?;
    let keeper = keeper(&config, &settings, client.as_ref(), &metrics);
    let first = keeper.first().await?;
    if !first.x509.has_room_for_successor() {
        tracing::warn!("the issuer's path length is under 2: a later change of the root cannot be seamless");
    }
    let issuer = Arc::new(Issuer::new(first, settings.lifetimes));
    let serving = Serving::start(Arc::clone(&issuer), config.sentry.clone(), metrics.clone())?;
    security.ready();

    let (mut validators, directory) = start_validators(&config, client.as_ref(), &health, &metrics, &mut tasks);
    let keeper = keeper.rotating(rotation(&config, &settings, directory, &metrics));
    start_jwks(&config, &settings, &health, &mut validators, &mut tasks).await?;
    start_oidc(&config, &issuer, &health, &mut tasks).await?;
    let service = CaService {
        validators,
        issuer: Arc::clone(&issuer),
        home: home(&config).await,
        jwt: config.jwt.clone(),
        metrics: metrics.clone(),
    };
    let listener = admin::listen(&config.address, config.port).await?;
    let listener = Listener::new(listener, Some(tls::server_auth_only(serving.svid_rx(), Alpn::H2)));
    tracing::info!(port = config.port, id = %config.sentry, "Sentry server is listening");
    tasks.spawn("sentry.keeper", |stop| keeper.run(issuer, stop));
    tasks.spawn("sentry.serving", |stop| serving.run(stop));
    tasks.spawn("sentry.grpc", move |stop| async move {
        // Dropped at the end of the server: no longer ready.
        let _security = security;
        server.ready();
        connections::serve(listener, service, stop).await;
        drop(server);
        Ok(())
    });
    Ok(tasks.until_shutdown(SHUTDOWN_DEADLINE).await?)
}

async fn start_admin(
    config: &Config,
    health: &Health,
    registry: runtime::metrics::Registry,
    tasks: &mut TaskSet,
) -> Result<(), Failed> {
    // Upstream binds both on all addresses whatever the flags say; ours honour them, and the
    // defaults are all addresses.
    let listener = admin::listen(&config.health.healthz_listen_address, config.health.healthz_port).await?;
    let served = health.clone();
    tasks.spawn("sentry.health", |stop| admin::serve_health(listener, served, axum::Router::new(), stop));
    if config.metrics.enable_metrics {
        let listener = admin::listen(&config.metrics.metrics_listen_address, config.metrics.metrics_port).await?;
        tasks.spawn("sentry.metrics", |stop| admin::serve_metrics(listener, Arc::new(registry), stop));
    }
    Ok(())
}

async fn settings(config: &Config, client: Option<&Client>) -> Result<Settings, Failed> {
    let Some(client) = client else {
        let path = Path::new(&config.configuration);
        return Ok(configuration::from_file(path, |name| std::env::var(name).ok()).await?);
    };
    if !config.namespace_is_set {
        return Err(ConfigurationError::NoNamespace.into());
    }
    let namespace = config.sentry.namespace().as_str();
    Ok(configuration::from_cluster(client, namespace, &config.configuration).await?)
}

fn check_user(mode: Mode) -> Result<(), Failed> {
    let skipped = std::env::var("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK").is_ok_and(|value| value == "true");
    if mode == Mode::Standalone || skipped {
        return Ok(());
    }
    if runtime::is_root() { Err(Failed::Root) } else { Ok(()) }
}

fn keeper(config: &Config, settings: &Settings, client: Option<&Client>, metrics: &Metrics) -> Keeper {
    let (store, every) = match client {
        Some(client) => {
            let namespace = config.sentry.namespace().as_str();
            (Store::Kubernetes(Box::new(KubeStore::new(client, namespace, config.names.clone()))), KUBERNETES_POLL)
        }
        None => (Store::Files(FileStore::new(&config.credentials, config.names.clone())), FILE_POLL),
    };
    let options = KeeperOptions {
        sentry: config.sentry.clone(),
        lifetimes: settings.lifetimes,
        jwt: config.jwt.as_ref().map(|jwt| jwt.algorithm),
        key_id: config.jwt.as_ref().and_then(|jwt: &JwtConfig| jwt.key_id.clone()),
        every,
    };
    let events = Events::new(client, config.sentry.namespace().as_str());
    Keeper::new(store, options, metrics.clone(), events)
}

fn rotation(config: &Config, settings: &Settings, directory: Option<Directory>, metrics: &Metrics) -> Rotation {
    // Callers that a key set vouches for need not be pods of this cluster; standalone there are none.
    let sidecars = match directory {
        Some(directory) if settings.jwks.is_empty() => Sidecars::Pods(directory),
        _ => Sidecars::Unseen,
    };
    Rotation {
        sentry: config.sentry.clone(),
        lifetimes: settings.lifetimes,
        settings: rotation::Settings {
            before: config.rotation.before,
            settle: config.rotation.settle,
            ttl: i64::try_from(settings.lifetimes.ttl().as_secs()).unwrap_or(i64::MAX),
        },
        sidecars,
        metrics: metrics.clone(),
        reminded: None,
    }
}

async fn home(config: &Config) -> Home {
    let found = match config.mode {
        Mode::Kubernetes => cluster_domain::find().await,
        Mode::Standalone => None,
    };
    Home {
        namespace: config.sentry.namespace().to_string(),
        cluster_domain: found.unwrap_or_else(|| config.sentry.trust_domain().to_string()),
    }
}

fn start_validators(
    config: &Config,
    client: Option<&Client>,
    health: &Health,
    metrics: &Metrics,
    tasks: &mut TaskSet,
) -> (Validators, Option<Directory>) {
    let Some(client) = client else {
        return (Validators { kubernetes: None, jwks: None, insecure: true }, None);
    };
    let directory = Directory::new(client.clone());
    let (pods, configurations, watched) = (directory.clone(), directory.clone(), directory.clone());
    tasks.spawn("sentry.pods", |stop| pods.follow_pods(stop));
    tasks.spawn("sentry.configurations", |stop| configurations.follow_configurations(stop));
    let target = health.target("sentry-kubernetes-validator");
    tasks.spawn("sentry.readiness", |stop| async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = watched.synced() => target.ready(),
        }
        stop.cancelled().await;
        Ok(())
    });
    let sentry = config.sentry.clone();
    let validator = KubernetesValidator::new(client.clone(), directory.clone(), sentry, metrics.clone());
    (Validators { kubernetes: Some(validator), jwks: None, insecure: false }, Some(directory))
}

/// Adds the configured `jwks` validator. As upstream, the last of several wins, and in
/// standalone mode it takes the place of `insecure`.
async fn start_jwks(
    config: &Config,
    settings: &Settings,
    health: &Health,
    validators: &mut Validators,
    tasks: &mut TaskSet,
) -> Result<(), Failed> {
    let Some(options) = settings.jwks.last() else {
        return Ok(());
    };
    let (validator, follower) = jwks::from_options(options, &config.sentry).await?;
    validators.insecure = false;
    validators.jwks = Some(validator);
    let target = health.target("sentry-jwks-validator");
    tasks.spawn("sentry.jwks", |stop| follower.run(target, stop));
    Ok(())
}

async fn start_oidc(config: &Config, issuer: &Arc<Issuer>, health: &Health, tasks: &mut TaskSet) -> Result<(), Failed> {
    let (Some(oidc), Some(jwt)) = (&config.oidc, &config.jwt) else {
        return Ok(());
    };
    let server = OidcServer {
        discovery: Discovery {
            issuer: jwt.issuer.clone().filter(|issuer| !issuer.is_empty()),
            jwks_uri: oidc.jwks_uri.clone(),
            prefix: oidc.path_prefix.clone(),
            allowed_hosts: oidc.allowed_hosts.clone(),
            algorithm: jwt.algorithm,
            tls: oidc.tls.is_some(),
        },
        issuer: Arc::clone(issuer),
        tls: oidc.tls.clone(),
        target: health.target("oidc-server"),
    };
    let listener = admin::listen(&oidc.address, oidc.port).await?;
    tracing::info!(port = oidc.port, "OIDC server is listening");
    tasks.spawn("sentry.oidc", |stop| server.run(listener, stop));
    Ok(())
}
