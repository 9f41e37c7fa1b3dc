//! Looks for the Secrets that served objects refer to, and follows them.
//!
//! Only names are watched, namespace by namespace, and only where something refers to a
//! Secret; its data is fetched once it is needed and whenever it changed. So the rights may
//! be granted per namespace (RULINGS 32), and no Secret is held that nobody refers to.
//! Where watching is not allowed, the Secrets in use are fetched again every minute.
//!
//! The task owns its fetches and watches; the hub owns what was found.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream::FuturesUnordered};
use identity::Namespace;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use runtime::{BoxError, CancellationToken};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{
    core::{secrets::Observed, wire::ObjectKey},
    hub::{Hub, SecretWork},
    watches::key_of,
};

/// Fetches under way at once; the API server's own fairness does the rest.
const FETCHES_AT_ONCE: usize = 16;
/// An API server that does not answer by then is asked again.
const FETCH_LIMIT: Duration = Duration::from_secs(10);
/// The pause before a failed fetch is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How often Secrets are fetched again where they cannot be watched.
const POLL_EVERY: Duration = Duration::from_mins(1);
/// News of names that wait to be read; a watch that has more waits itself.
const NEWS_LIMIT: usize = 256;

/// What a watch of one namespace tells.
enum News {
    /// This Secret may have changed.
    Touched(ObjectKey),
    /// All Secrets in use of the namespace are to be fetched again.
    AllOf(Namespace),
}

/// The task.
pub struct Secrets {
    client: Client,
    hub: Arc<Hub>,
    watches: JoinSet<()>,
    watched: BTreeMap<Namespace, AbortHandle>,
    queue: BTreeSet<ObjectKey>,
    under_way: BTreeSet<ObjectKey>,
}

impl Secrets {
    /// A task that serves `hub`.
    pub fn new(client: Client, hub: Arc<Hub>) -> Self {
        Self {
            client,
            hub,
            watches: JoinSet::new(),
            watched: BTreeMap::new(),
            queue: BTreeSet::new(),
            under_way: BTreeSet::new(),
        }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let (news_tx, mut news_rx) = mpsc::channel(NEWS_LIMIT);
        let mut fetches = FuturesUnordered::new();
        let hub = Arc::clone(&self.hub);
        loop {
            while fetches.len() < FETCHES_AT_ONCE
                && let Some(secret) = self.next_to_fetch()
            {
                fetches.push(fetch(self.client.clone(), secret));
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some((secret, observed)) = fetches.next(), if !fetches.is_empty() => {
                    self.under_way.remove(&secret);
                    let is_missing = observed == Observed::Missing;
                    if hub.observe_secret(&secret, observed) && is_missing {
                        tracing::warn!(%secret, "Secret not found: fields that refer to it stay unresolved");
                    }
                }
                work = hub.secret_work() => self.take(work, &news_tx),
                Some(news) = news_rx.recv() => self.hear(news),
                Some(ended) = self.watches.join_next(), if !self.watches.is_empty() => {
                    if let Err(error) = ended && error.is_panic() {
                        return Err(error.into());
                    }
                }
            }
        }
    }

    /// A Secret that was touched while it is fetched waits: the fetch may be too old.
    fn next_to_fetch(&mut self) -> Option<ObjectKey> {
        let secret = self.queue.iter().find(|secret| !self.under_way.contains(secret))?.clone();
        self.queue.remove(&secret);
        self.under_way.insert(secret.clone());
        Some(secret)
    }

    fn take(&mut self, work: SecretWork, news_tx: &mpsc::Sender<News>) {
        for secret in work.released {
            self.queue.remove(&secret);
            if self.hub.secrets_in(&secret.namespace).is_empty()
                && let Some(watch) = self.watched.remove(&secret.namespace)
            {
                watch.abort();
            }
        }
        for secret in work.wanted {
            if !self.watched.contains_key(&secret.namespace) {
                let namespace = secret.namespace.clone();
                let api = Api::namespaced(self.client.clone(), namespace.as_str());
                let watch = watch(api, namespace.clone(), news_tx.clone());
                self.watched.insert(namespace, self.watches.spawn(watch));
            }
            self.queue.insert(secret);
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Touched(secret) => {
                if self.hub.holds_secret(&secret) {
                    self.queue.insert(secret);
                }
            }
            News::AllOf(namespace) => self.queue.extend(self.hub.secrets_in(&namespace)),
        }
    }
}

/// Fetches until there is an answer.
async fn fetch(client: Client, secret: ObjectKey) -> (ObjectKey, Observed) {
    let api: Api<Secret> = Api::namespaced(client, secret.namespace.as_str());
    loop {
        let error: BoxError = match tokio::time::timeout(FETCH_LIMIT, api.get_opt(&secret.name)).await {
            Ok(Ok(Some(found))) => return (secret, Observed::Data(data_of(found))),
            Ok(Ok(None)) => return (secret, Observed::Missing),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                tracing::error!(%secret, "Secret may not be read: the operator needs get on it");
                return (secret, Observed::Missing);
            }
            Ok(Err(error)) => error.into(),
            Err(elapsed) => elapsed.into(),
        };
        tracing::warn!(%secret, error = &*error, "Secret could not be read, trying again");
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

fn data_of(secret: Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
}

/// Reports the names of Secrets that changed in one namespace, for ever.
async fn watch(api: Api<PartialObjectMeta<Secret>>, namespace: Namespace, news: mpsc::Sender<News>) {
    let mut events = watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(strip)
        .map_err(|error| tracing::debug!(%namespace, %error, "watch of Secrets failed"))
        .boxed();
    let mut is_well = true;
    let mut poll = tokio::time::interval(POLL_EVERY);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.next() => Ok(event),
            _ = poll.tick() => Err(()),
        };
        let told = match event {
            // A first list, and any later one, may hide changes; what is deleted is not in it.
            Ok(Some(Ok(Event::InitDone))) => {
                is_well = true;
                Some(News::AllOf(namespace.clone()))
            }
            Ok(Some(Ok(Event::Apply(secret) | Event::Delete(secret)))) => key_of(&secret).map(News::Touched),
            Ok(Some(Err(()))) if is_well => {
                tracing::warn!(%namespace, "Secrets cannot be watched, polling them");
                is_well = false;
                None
            }
            Ok(Some(Ok(Event::Init | Event::InitApply(_)) | Err(()))) => None,
            Err(()) if is_well => None,
            Err(()) => Some(News::AllOf(namespace.clone())),
            Ok(None) => return,
        };
        if let Some(told) = told
            && news.send(told).await.is_err()
        {
            return;
        }
    }
}

fn strip(secret: &mut PartialObjectMeta<Secret>) {
    let meta = std::mem::take(&mut secret.metadata);
    secret.metadata.name = meta.name;
    secret.metadata.namespace = meta.namespace;
}
