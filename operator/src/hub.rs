//! The one place that holds what is served, and whom it is served to.
//!
//! [`Hub`] owns the index, the pods' assignments and the queues of all streams behind one
//! lock, never held across an await. Watches put changes in; each change is put into the
//! queues of the sidecars it is for, as shared bytes. Lists and streams read. Who waits for
//! something (a first list, a Secret) waits for the change counter.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use identity::Namespace;
use parking_lot::Mutex;
use runtime::CancellationToken;
use tokio::sync::{Notify, watch};

use crate::{
    core::{
        api_kind::ApiKind,
        assignment::Assignments,
        catalog::{Catalog, Change, Delta, Effects, Event, Listed, Version},
        queue::Queue,
        secrets::Observed,
        wire::{Object, ObjectKey, Viewer},
    },
    metrics::Metrics,
};

/// Events kept apart for one stream before they are merged. Upstream's is 10, then without
/// limit; a namespace rarely changes more objects of a kind in the moment a sidecar is busy.
const QUEUE_LIMIT: usize = 64;
/// How long a call is held while what it needs is not there. Sidecars give an attempt 5 s.
const HOLD_LIMIT: Duration = Duration::from_secs(30);

/// What a list shows of an object whose Secret is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unresolved {
    /// The object, with the field unresolved: the sidecar starts with the rest whole.
    Show,
    /// Nothing at all: the sidecar keeps what it runs (RULINGS 23).
    Refuse,
}

/// A list or an object cannot be had now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// What is needed did not come within the time a call is held.
    #[error("{kind} resources are not loaded yet")]
    NotLoaded {
        /// The kind.
        kind: &'static str,
    },
    /// A Secret is missing, and the sidecar runs already.
    #[error("{kind} {object} refers to a Secret that does not exist")]
    MissingSecret {
        /// The kind.
        kind: &'static str,
        /// The object.
        object: ObjectKey,
    },
}

/// Secrets to look for and to forget.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SecretWork {
    /// To look for.
    pub wanted: BTreeSet<ObjectKey>,
    /// To forget.
    pub released: BTreeSet<ObjectKey>,
}

#[derive(Debug)]
struct Subscriber {
    viewer: Viewer,
    queue: Mutex<Queue>,
    news: Notify,
}

type Subscribers = HashMap<Namespace, HashMap<u64, Arc<Subscriber>>>;

#[derive(Default)]
struct State {
    catalog: Catalog,
    assignments: Assignments,
    pods_synced: bool,
    subscribers: [Subscribers; ApiKind::ALL.len()],
    next_id: u64,
    /// Connections with a ComponentUpdate stream, and how many.
    component_streams: HashMap<SocketAddr, usize>,
    secret_work: SecretWork,
}

/// What is served, and to whom.
pub struct Hub {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    secret_news: Notify,
    metrics: Metrics,
}

impl Hub {
    /// An empty hub.
    pub fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changes: watch::Sender::new(0), secret_news: Notify::new(), metrics })
    }

    /// An object was created or changed.
    pub fn apply(&self, kind: ApiKind, object: Object) {
        self.change(|state| state.catalog.apply(kind, object));
    }

    /// An object is gone, or can no longer be read.
    pub fn delete(&self, kind: ApiKind, key: &ObjectKey) {
        self.change(|state| state.catalog.delete(kind, key));
    }

    /// These are all objects of `kind`.
    pub fn reset(&self, kind: ApiKind, objects: Vec<Object>) {
        self.change(|state| state.catalog.reset(kind, objects));
    }

    /// A Secret was looked for. Says whether that was news.
    pub fn observe_secret(&self, secret: &ObjectKey, observed: Observed) -> bool {
        let mut is_news = false;
        self.change(|state| {
            let before = state.catalog.secrets().is_missing(secret);
            let effects = state.catalog.observe_secret(secret, observed);
            is_news = before != state.catalog.secrets().is_missing(secret);
            effects
        });
        is_news
    }

    /// Changes what is known of pods.
    pub fn change_pods(&self, change: impl FnOnce(&mut Assignments)) {
        change(&mut self.state.lock().assignments);
    }

    /// All pods are known now.
    pub fn pods_are_synced(&self) {
        self.state.lock().pods_synced = true;
        self.changes.send_modify(|count| *count += 1);
    }

    fn change(&self, change: impl FnOnce(&mut State) -> Effects) {
        let mut state = self.state.lock();
        let effects = change(&mut state);
        for delta in &effects.deltas {
            state.fan_out(delta, &self.metrics);
        }
        let has_secret_work = !effects.wanted.is_empty() || !effects.released.is_empty();
        let work = &mut state.secret_work;
        work.wanted.retain(|secret| !effects.released.contains(secret));
        work.released.retain(|secret| !effects.wanted.contains(secret));
        work.wanted.extend(effects.wanted);
        work.released.extend(effects.released);
        drop(state);
        if has_secret_work {
            self.secret_news.notify_one();
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// Waits for Secrets to look for or forget.
    pub async fn secret_work(&self) -> SecretWork {
        loop {
            let work = std::mem::take(&mut self.state.lock().secret_work);
            if work != SecretWork::default() {
                return work;
            }
            self.secret_news.notified().await;
        }
    }

    /// The referenced Secrets of a namespace.
    pub fn secrets_in(&self, namespace: &Namespace) -> BTreeSet<ObjectKey> {
        let state = self.state.lock();
        let keys = state.catalog.secrets().keys();
        keys.filter(|key| key.namespace == *namespace).cloned().collect()
    }

    /// Whether a Secret is referred to.
    pub fn holds_secret(&self, secret: &ObjectKey) -> bool {
        self.state.lock().catalog.secrets().holds(secret)
    }

    /// Waits until `kind` was listed.
    pub async fn until_synced(&self, kind: ApiKind) {
        self.until(|state| state.catalog.is_synced(kind)).await;
    }

    /// Waits until every kind and the pods were listed.
    pub async fn until_all_synced(&self) {
        let all = |state: &State| ApiKind::ALL.into_iter().all(|kind| state.catalog.is_synced(kind));
        self.until(|state| state.pods_synced && all(state)).await;
    }

    /// What `viewer` sees of `kind`. Held until it is known.
    pub async fn list(
        &self,
        kind: ApiKind,
        viewer: &Viewer,
        unresolved: Unresolved,
    ) -> Result<Vec<Arc<Version>>, Unavailable> {
        let missing = Unavailable::NotLoaded { kind: kind.name() };
        self.hold(missing, |state| state.list(kind, viewer, unresolved)).await
    }

    /// One object, whatever its scopes. Held until it is known.
    pub async fn get(&self, kind: ApiKind, key: &ObjectKey) -> Result<Option<Listed>, Unavailable> {
        let missing = Unavailable::NotLoaded { kind: kind.name() };
        self.hold(missing, |state| {
            if !state.catalog.is_synced(kind) {
                return None;
            }
            match state.catalog.get(kind, key) {
                Some(Listed::Waiting) => None,
                found => Some(Ok(found.cloned())),
            }
        })
        .await
    }

    /// Asks again after every change until there is an answer, or the time is over.
    async fn hold<T>(
        &self,
        missing: Unavailable,
        ask: impl Fn(&State) -> Option<Result<T, Unavailable>>,
    ) -> Result<T, Unavailable> {
        let answer = Mutex::new(None);
        let held = self.until(|state| {
            *answer.lock() = ask(state);
            answer.lock().is_some()
        });
        let in_time = tokio::time::timeout(HOLD_LIMIT, held).await.is_ok();
        let answer = answer.into_inner().filter(|_| in_time);
        answer.unwrap_or(Err(missing))
    }

    /// Looks after every change until `is_so`.
    async fn until(&self, is_so: impl Fn(&State) -> bool) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if is_so(&self.state.lock()) {
                return;
            }
            changes.changed().await.expect("the hub owns the sender and outlives its own future");
        }
    }

    /// Whether this connection has a ComponentUpdate stream: then its sidecar runs already.
    pub fn has_component_stream(&self, connection: SocketAddr) -> bool {
        self.state.lock().component_streams.contains_key(&connection)
    }

    /// Opens a stream. What may be repeated comes first (RULINGS 25).
    pub fn subscribe(
        self: &Arc<Self>,
        kind: ApiKind,
        viewer: Viewer,
        connection: Option<SocketAddr>,
        stop: CancellationToken,
    ) -> Events {
        let connection = connection.filter(|_| kind == ApiKind::Component);
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        let subscriber =
            Arc::new(Subscriber { queue: Mutex::new(state.opening(kind, &viewer)), viewer, news: Notify::new() });
        let namespace = subscriber.viewer.namespace.clone();
        let of_namespace = state.subscribers[kind.index()].entry(namespace).or_default();
        of_namespace.insert(id, Arc::clone(&subscriber));
        if let Some(connection) = connection {
            *state.component_streams.entry(connection).or_default() += 1;
        }
        Events { hub: Arc::clone(self), kind, id, subscriber, connection, stop }
    }

    /// The number of open streams of a kind.
    pub fn streams(&self, kind: ApiKind) -> usize {
        self.state.lock().subscribers[kind.index()].values().map(HashMap::len).sum()
    }

    /// The number of objects of a kind.
    pub fn objects(&self, kind: ApiKind) -> usize {
        self.state.lock().catalog.count(kind)
    }

    fn unsubscribe(&self, events: &Events) {
        let mut state = self.state.lock();
        let namespace = &events.subscriber.viewer.namespace;
        let subscribers = &mut state.subscribers[events.kind.index()];
        if let Some(of_namespace) = subscribers.get_mut(namespace) {
            of_namespace.remove(&events.id);
            if of_namespace.is_empty() {
                subscribers.remove(namespace);
            }
        }
        let streams = &mut state.component_streams;
        if let Some(connection) = &events.connection
            && let Some(count) = streams.get_mut(connection)
        {
            *count -= 1;
            if *count == 0 {
                streams.remove(connection);
            }
        }
    }
}

impl State {
    fn list(
        &self,
        kind: ApiKind,
        viewer: &Viewer,
        unresolved: Unresolved,
    ) -> Option<Result<Vec<Arc<Version>>, Unavailable>> {
        if !self.catalog.is_synced(kind) {
            return None;
        }
        let mut versions = Vec::new();
        for listed in self.catalog.list(kind, viewer) {
            match (listed, unresolved) {
                (Listed::Waiting, _) => return None,
                (Listed::Partial(version), Unresolved::Refuse) => {
                    return Some(Err(Unavailable::MissingSecret { kind: kind.name(), object: version.key.clone() }));
                }
                (Listed::Whole(version) | Listed::Partial(version), _) => {
                    versions.push(Arc::clone(version));
                }
                (Listed::Refused(_), _) => {}
            }
        }
        Some(Ok(versions))
    }

    /// What a new stream begins with.
    fn opening(&self, kind: ApiKind, viewer: &Viewer) -> Queue {
        let mut queue = Queue::new(QUEUE_LIMIT);
        for listed in self.catalog.list(kind, viewer) {
            if let Listed::Whole(version) = listed
                && version.may_be_repeated(kind)
                && self.is_for(kind, version, viewer)
            {
                queue.push(Event { change: Change::Created, version: Arc::clone(version) });
            }
        }
        queue
    }

    /// A sidecar is told of its own Configuration only; any other would restart it.
    fn is_for(&self, kind: ApiKind, version: &Version, viewer: &Viewer) -> bool {
        kind != ApiKind::Configuration || self.assignments.of(viewer) == Some(version.key.name.as_str())
    }

    fn fan_out(&self, delta: &Delta, metrics: &Metrics) {
        let of_kind = &self.subscribers[delta.kind.index()];
        let Some(subscribers) = delta.namespace().and_then(|namespace| of_kind.get(namespace)) else {
            return;
        };
        for subscriber in subscribers.values() {
            let Some(event) = delta.event_for(&subscriber.viewer) else {
                continue;
            };
            if !self.is_for(delta.kind, &event.version, &subscriber.viewer) {
                continue;
            }
            let mut queue = subscriber.queue.lock();
            queue.push(event);
            metrics.events_merged(delta.kind, queue.take_merged());
            drop(queue);
            subscriber.news.notify_one();
        }
    }
}

/// The events of one stream. Dropping it closes the stream.
pub struct Events {
    hub: Arc<Hub>,
    kind: ApiKind,
    id: u64,
    subscriber: Arc<Subscriber>,
    connection: Option<SocketAddr>,
    stop: CancellationToken,
}

impl Events {
    /// The next event, or `None` once the process stops. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.subscriber.queue.lock().pop() {
                return Some(event);
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = self.subscriber.news.notified() => {}
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.hub.unsubscribe(self);
    }
}
