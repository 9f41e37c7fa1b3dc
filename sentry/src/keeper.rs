//! Keeps the bundle: brings what is stored, what is published and what this replica signs with
//! to one state, at start and for as long as sentry runs.
//!
//! Every step is decided by [`crate::core::decide`]; this module only reads, writes and waits.
//! The stored bundle is looked at every few seconds, so a change needs neither a restart nor
//! the delay of a mounted volume, and connections are not touched by it. Trouble while running
//! never takes the bundle in use away.

use std::{sync::Arc, time::Duration};

use identity::SpiffeId;
use runtime::{BoxError, CancellationToken};
use tokio::time::{Instant, sleep};

use crate::{
    clock::unix_now,
    core::{
        decide::{Bundle, JwtSource, Problem, Rules, Situation, Snapshot, Source, Step, decide},
        jwks::JwtBundle,
        jwt::Algorithm,
        keys::{PrivateKey, PrivateKeyError},
        rotation::Items,
        validity::Lifetimes,
    },
    events::{Events, Severity},
    issuer::{Issuer, generate_ca},
    metrics::{Metrics, Reason},
    rotation::{Looked, Rotation},
    signing::{self, CryptoError},
    store::{Read, Store, StoreError},
};

/// A lost bundle is written back by a running replica at its next look; two looks are waited for.
const HOLDER_GRACE: Duration = Duration::from_secs(25);
/// How often a starting replica looks whether a running one has written the bundle back.
const HOLDER_POLL: Duration = Duration::from_secs(1);
/// Conflicts in a row before giving up: each means another replica made progress.
const MAX_CONFLICTS: u32 = 20;
/// How often a starting replica tries to reach the store.
const START_ATTEMPTS: u32 = 6;
/// The first pause between those tries; doubled each time, 31 s in all.
const START_PAUSE: Duration = Duration::from_secs(1);

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The store does not answer, or what must exist does not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored cannot be used.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// New material could not be made.
    #[error("failed to generate CA bundle")]
    Generate(#[from] CryptoError),
    /// A key that is stored cannot be read.
    #[error("failed to load JWT signing key: failed to decode JWT signing key: {0}")]
    JwtKey(#[from] PrivateKeyError),
    /// Other writers were faster every time.
    #[error("trust bundle was changed by others {MAX_CONFLICTS} times in a row")]
    Contended,
}

/// Settings of the keeper.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// Sentry's own name: a new issuer's subject.
    pub sentry: SpiffeId,
    /// Clock skew for a new CA's NotBefore.
    pub lifetimes: Lifetimes,
    /// How tokens are signed, if they are.
    pub jwt: Option<Algorithm>,
    /// The configured key id.
    pub key_id: Option<String>,
    /// How often to look at the store.
    pub every: Duration,
}

/// Owns the way between store and issuer.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    options: KeeperOptions,
    metrics: Metrics,
    events: Events,
    rotation: Option<Rotation>,
    /// What was last read of a rotation: written back with a lost bundle.
    remembered: Items,
}

impl Keeper {
    /// Keeps the bundle of `store`.
    pub fn new(store: Store, options: KeeperOptions, metrics: Metrics, events: Events) -> Self {
        Self { store, options, metrics, events, rotation: None, remembered: Items::default() }
    }

    /// Also changes the root when it is time.
    #[must_use]
    pub fn rotating(self, rotation: Rotation) -> Self {
        Self { rotation: Some(rotation), ..self }
    }

    /// The bundle to start with, made and stored if there is none. Retries while the store
    /// cannot be reached; anything else is final.
    pub async fn first(&self) -> Result<Bundle, KeepError> {
        let mut pause = START_PAUSE;
        for _ in 1..START_ATTEMPTS {
            match self.settle(None).await {
                Err(KeepError::Store(error @ StoreError::Api { .. })) => {
                    tracing::warn!(error = %chain(&error), "trust bundle cannot be reached, trying again");
                    sleep(pause).await;
                    pause *= 2;
                }
                done => return self.note(done),
            }
        }
        self.note(self.settle(None).await)
    }

    fn note(&self, done: Result<Settled, KeepError>) -> Result<Bundle, KeepError> {
        done.map(|settled| {
            let x509 = &settled.bundle.x509;
            self.metrics.bundle_expiry(x509.root_not_after(), x509.issuer_not_after());
            settled.bundle
        })
    }

    /// Follows the store until `stop`.
    pub async fn run(mut self, issuer: Arc<Issuer>, stop: CancellationToken) -> Result<(), BoxError> {
        let mut problem: Option<&'static str> = None;
        let mut every = self.options.every;
        loop {
            // Replicas look at different moments.
            let pause = every.mul_f64(1.0 + 0.2 * signing::fraction());
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(pause) => {}
            }
            let held = issuer.bundle();
            let found = tokio::select! {
                biased;
                // A write in progress may be cut off: each is one atomic request.
                () = stop.cancelled() => return Ok(()),
                found = self.settle(Some(&held)) => found,
            };
            match found {
                Ok(settled) => {
                    self.clear(&mut problem);
                    if settled.bundle != *held {
                        self.adopt(&issuer, settled.bundle).await;
                    }
                    every = match settled.read {
                        Some(read) => self.rotate(read, &issuer).await,
                        None => self.options.every,
                    };
                }
                Err(error) => self.complain(&mut problem, &error).await,
            }
        }
    }

    /// Takes a step of the root's rotation, if one is due. Returns the pause until the next look.
    async fn rotate(&mut self, read: Read, issuer: &Issuer) -> Duration {
        self.remembered = Items { command: None, ..read.snapshot.rotation.clone() };
        let every = self.options.every;
        let Some(rotation) = &mut self.rotation else { return every };
        match rotation.look(read, &issuer.bundle().x509, &self.store, &self.events).await {
            Ok(Looked { wrote: true, .. }) => Duration::ZERO,
            Ok(Looked { in_progress: true, .. }) => every.min(rotation.pace()),
            Ok(_) => every,
            Err(error) => {
                rotation.complain(&error);
                every
            }
        }
    }

    async fn adopt(&self, issuer: &Issuer, bundle: Bundle) {
        tracing::info!(
            issuer_not_after = bundle.x509.issuer_not_after(),
            root_not_after = bundle.x509.root_not_after(),
            "trust bundle changed: signing with what is stored now"
        );
        self.metrics.changed.inc();
        self.metrics.bundle_expiry(bundle.x509.root_not_after(), bundle.x509.issuer_not_after());
        issuer.replace(bundle);
        let message = "trust bundle changed: certificates are signed with what is stored now";
        self.events.report(Severity::Normal, "TrustBundleChanged", message).await;
    }

    fn clear(&self, problem: &mut Option<&'static str>) {
        if let Some(reason) = problem.take() {
            self.metrics.bundle_problem.get_or_create(&Reason { reason }).set(0);
            tracing::info!(reason, "trust bundle is in order again");
        }
    }

    /// Says what is wrong, once for each kind of trouble.
    async fn complain(&self, problem: &mut Option<&'static str>, error: &KeepError) {
        let reason = match error {
            KeepError::Problem(problem) => problem.reason(),
            KeepError::Store(StoreError::Missing { .. }) => "missing",
            KeepError::Store(_) => "unreachable",
            KeepError::Generate(_) | KeepError::Contended | KeepError::JwtKey(_) => "failed",
        };
        if *problem == Some(reason) {
            return;
        }
        self.clear(problem);
        *problem = Some(reason);
        self.metrics.bundle_problem.get_or_create(&Reason { reason }).set(1);
        tracing::error!(
            reason,
            error = %chain(error),
            "stored trust bundle cannot be used: signing goes on with the last good one"
        );
        let message = format!("signing goes on with the last good bundle: {}", chain(error));
        self.events.report(Severity::Warning, "TrustBundleUnusable", &message).await;
    }

    /// Decides and acts until store, copy and answer agree.
    async fn settle(&self, held: Option<&Bundle>) -> Result<Settled, KeepError> {
        let rules = Rules { jwt: self.options.jwt, key_id: self.options.key_id.as_deref() };
        // Since when, and for which version of the Secret: one that was filled and emptied again
        // meanwhile has a holder with all its time before it.
        let (mut waiting, mut conflicts) = (None::<(Option<String>, Instant)>, 0);
        while conflicts < MAX_CONFLICTS {
            let read = self.store.read().await?;
            waiting = waiting.filter(|(version, _)| version.as_deref() == read.revision.of_secret());
            let waited = waiting.as_ref().is_some_and(|(_, since)| since.elapsed() >= HOLDER_GRACE);
            let situation = match held {
                Some(bundle) => Situation::Running(bundle),
                None => Situation::Starting {
                    waited,
                    others_running: read.snapshot.is_bare() && self.store.another_replica_runs().await,
                },
            };
            let written = match decide(&read.snapshot, situation, rules, unix_now()) {
                Step::Refuse(problem) => return Err(problem.into()),
                Step::AwaitHolder => {
                    if waiting.is_none() {
                        tracing::warn!(
                            "trust bundle was emptied but a running replica may hold it: waiting for it to write the bundle back"
                        );
                    }
                    waiting.get_or_insert_with(|| (read.revision.of_secret().map(str::to_owned), Instant::now()));
                    sleep(HOLDER_POLL).await;
                    continue;
                }
                Step::Adopt { bundle, repair_copy: false } => {
                    return Ok(Settled { bundle: *bundle, read: Some(read) });
                }
                Step::Adopt { bundle, repair_copy: true } => {
                    let copy = read.snapshot.wanted_copy();
                    match self.store.write_copy(&copy, read.revision).await {
                        Ok(()) => {
                            tracing::info!("public copy of the trust bundle brought in line with the secret");
                            return Ok(Settled { bundle: *bundle, read: None });
                        }
                        // The bundle itself is good; the copy is tried again at the next look.
                        Err(error @ StoreError::Api { .. }) => {
                            tracing::warn!(error = %chain(&error), "public copy of the trust bundle cannot be repaired");
                            return Ok(Settled { bundle: *bundle, read: None });
                        }
                        Err(error) => Err(error),
                    }
                }
                Step::Create { x509, jwt } => {
                    let next = self.create(&read.snapshot, held, x509, jwt)?;
                    self.store.write(&next, read.revision).await
                }
            };
            match written {
                Ok(()) => self.metrics.changed.inc(),
                Err(StoreError::Conflict { object }) => {
                    conflicts += 1;
                    tracing::info!(object, "trust bundle was changed by another replica, reading it again");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
        }
        Err(KeepError::Contended)
    }

    /// The snapshot with what is missing filled in.
    fn create(
        &self,
        snapshot: &Snapshot,
        held: Option<&Bundle>,
        x509: Source,
        jwt: JwtSource,
    ) -> Result<Snapshot, KeepError> {
        let mut next = snapshot.clone();
        next.reset = false;
        let stored = match x509 {
            Source::Stored => None,
            Source::Held => {
                tracing::warn!("trust bundle was emptied: writing back the one in use");
                next.rotation = Items { command: next.rotation.command.take(), ..self.remembered.clone() };
                held.map(|bundle| bundle.x509.stored().clone())
            }
            Source::New => {
                tracing::info!("Root and issuer certs not found: generating self signed CA");
                Some(generate_ca(&self.options.sentry, self.options.lifetimes)?)
            }
        };
        if let Some(stored) = stored {
            next.anchors = stored.anchors;
            next.chain = stored.chain;
            next.key = stored.key;
        }
        if let Some((key, jwks)) = self.create_jwt(snapshot, held, jwt)? {
            next.jwt_key = key;
            next.jwks = jwks;
        }
        Ok(next)
    }

    fn create_jwt(
        &self,
        snapshot: &Snapshot,
        held: Option<&Bundle>,
        source: JwtSource,
    ) -> Result<Option<JwtItems>, KeepError> {
        let algorithm = self.options.jwt;
        let key_id = self.options.key_id.as_deref();
        let of_key = |key: PrivateKey, pem: Vec<u8>| {
            let name = algorithm.map_or("RS256", Algorithm::name);
            let bundle = JwtBundle::of_key(key, pem, key_id, name);
            Some((bundle.key_pem, bundle.jwks_json))
        };
        Ok(match (source, algorithm) {
            (JwtSource::Stored, _) | (JwtSource::New, None) => None,
            (JwtSource::Held, _) => {
                held.and_then(|bundle| bundle.jwt.as_ref()).map(|jwt| (jwt.key_pem.clone(), jwt.jwks_json.clone()))
            }
            (JwtSource::SetOfStoredKey, _) => {
                let key = PrivateKey::from_pem(&snapshot.jwt_key)?;
                of_key(key, snapshot.jwt_key.clone())
            }
            (JwtSource::New, Some(algorithm)) => {
                tracing::info!("Generating JWT signing key and persisting to store");
                let key = signing::new_jwt_key(algorithm)?;
                let pem = key.to_pkcs8_pem().into_bytes();
                of_key(key, pem)
            }
        })
    }
}

/// Store, copy and answer agree.
struct Settled {
    bundle: Bundle,
    /// What was read, if the copy did not have to be written after it.
    read: Option<Read>,
}

/// Signing key and key set, as stored.
type JwtItems = (Vec<u8>, Vec<u8>);

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
