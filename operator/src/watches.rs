//! Kubernetes watches into the hub: the served kinds, and the annotations of pods.
//!
//! A watch never ends the process. A missing CRD means an empty list, and is asked for again
//! until it exists; any other failure leaves what is known and is tried again with growing
//! pauses. An object that cannot be read is left out with an error that names it.

use std::{collections::BTreeSet, pin::pin, sync::Arc};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Resource,
    api::{ApiResource, PartialObjectMeta},
    core::GroupVersionKind,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use runtime::{BoxError, CancellationToken};

use crate::{
    core::{
        api_kind::ApiKind,
        wire::{self, ObjectKey},
    },
    hub::Hub,
    metrics::Metrics,
    raw_object::RawObject,
};

/// What a watch tells.
enum News<K> {
    Apply(K),
    Delete(K),
    /// All objects there are.
    Reset(Vec<K>),
    /// The resource itself does not exist.
    Absent,
}

/// The API of a served kind, cluster-wide or of one namespace.
pub fn api_of(client: Client, kind: ApiKind, namespace: Option<&str>) -> Api<RawObject> {
    let gvk = GroupVersionKind::gvk("dapr.io", kind.version(), kind.name());
    dynamic_api(client, &ApiResource::from_gvk_with_plural(&gvk, kind.plural()), namespace)
}

/// A dynamic API, cluster-wide or of one namespace.
pub fn dynamic_api<K>(client: Client, resource: &ApiResource, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = ApiResource, Scope = kube::core::DynamicResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, resource),
        None => Api::all_with(client, resource),
    }
}

/// Follows one served kind until `stop`.
pub async fn follow_kind(
    api: Api<RawObject>,
    kind: ApiKind,
    hub: Arc<Hub>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let read = |raw: &RawObject| match wire::read(kind, raw.json()) {
        Ok(object) => Some(object),
        Err(error) => {
            metrics.object_refused(kind);
            tracing::error!(%error, "resource cannot be served");
            None
        }
    };
    let on_news = |news: News<RawObject>| match news {
        News::Apply(raw) => match (read(&raw), raw.key()) {
            (Some(object), _) => hub.apply(kind, object),
            // What it was before is served no longer: it is not what the cluster holds.
            (None, Some(key)) => hub.delete(kind, &key),
            (None, None) => {}
        },
        News::Delete(raw) => {
            if let Some(key) = raw.key() {
                hub.delete(kind, &key);
            }
        }
        News::Reset(raws) => hub.reset(kind, raws.iter().filter_map(read).collect()),
        News::Absent => {
            tracing::warn!(
                "CRD for {}/{} not found, skipping informer: it is looked for again",
                kind.api_version(),
                kind.name()
            );
            hub.reset(kind, Vec::new());
        }
    };
    follow(kind.name(), events, on_news, &metrics, stop).await;
    Ok(())
}

/// Follows the annotations of pods until `stop`.
pub async fn follow_pods(
    api: Api<PartialObjectMeta<Pod>>,
    hub: Arc<Hub>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let events = watcher(api, watcher::Config::default()).default_backoff().modify(strip_pod);
    let on_news = |news: News<PartialObjectMeta<Pod>>| match news {
        News::Apply(pod) => apply_pod(&hub, &pod),
        News::Delete(pod) => {
            if let Some(key) = key_of(&pod) {
                hub.change_pods(|pods| pods.delete(&key));
            }
        }
        News::Reset(pods) => {
            let present: BTreeSet<ObjectKey> = pods.iter().filter_map(key_of).collect();
            hub.change_pods(|pods| pods.retain(|key| present.contains(key)));
            for pod in &pods {
                apply_pod(&hub, pod);
            }
            hub.pods_are_synced();
        }
        News::Absent => hub.pods_are_synced(),
    };
    follow("Pod", events, on_news, &metrics, stop).await;
    Ok(())
}

/// Keeps what is looked at, so that a list of all pods of a cluster stays small.
fn strip_pod(pod: &mut PartialObjectMeta<Pod>) {
    let meta = std::mem::take(&mut pod.metadata);
    pod.metadata = kube::api::ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        annotations: meta.annotations.map(|mut all| {
            all.retain(|key, _| key.starts_with("dapr.io/"));
            all
        }),
        ..Default::default()
    };
}

fn apply_pod(hub: &Hub, pod: &PartialObjectMeta<Pod>) {
    if let Some(key) = key_of(pod) {
        let annotations = pod.metadata.annotations.clone().unwrap_or_default();
        hub.change_pods(|pods| pods.apply(&key, &annotations));
    }
}

/// The name of an object, if it has a legal one.
pub fn key_of(object: &impl Resource) -> Option<ObjectKey> {
    let meta = object.meta();
    Some(ObjectKey {
        namespace: identity::Namespace::parse(meta.namespace.as_deref()?).ok()?,
        name: meta.name.clone()?,
    })
}

async fn follow<K>(
    what: &'static str,
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    mut on_news: impl FnMut(News<K>),
    metrics: &Metrics,
    stop: CancellationToken,
) {
    let mut events = pin!(events);
    let mut listed = Vec::new();
    let mut is_absent = false;
    loop {
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(object))) => listed.push(object),
            Some(Ok(Event::InitDone)) => {
                is_absent = false;
                on_news(News::Reset(std::mem::take(&mut listed)));
            }
            Some(Ok(Event::Apply(object))) => on_news(News::Apply(object)),
            Some(Ok(Event::Delete(object))) => on_news(News::Delete(object)),
            Some(Err(error)) if is_not_found(&error) => {
                if !std::mem::replace(&mut is_absent, true) {
                    on_news(News::Absent);
                }
            }
            // Routine: the API server forgot where the watch was, and it begins anew.
            Some(Err(watcher::Error::WatchError(status))) if status.code == 410 => {
                tracing::debug!(kind = what, "watch expired, listing again");
            }
            Some(Err(error)) => {
                metrics.watch_failed(what);
                tracing::warn!(kind = what, error = &error as &dyn std::error::Error, "watch failed, trying again");
            }
            None => return stop.cancelled().await,
        }
    }
}

/// Whether the API server does not know the resource at all.
fn is_not_found(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}
