//! What sentry knows of pods and Configurations: a cache of the Dapr ones, and the API server
//! for everything else.
//!
//! Of each object only the few fields that decide an identity are parsed, and only pods with a
//! Dapr annotation are kept, so memory does not grow with a cluster's other pods. An answer
//! that the cache cannot give, or that would refuse a caller, is looked up live once. Where
//! listing is forbidden every look-up is live. State: one lock for each map, in this module.

mod reflect;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kube::{
    Client,
    core::{Request, params::GetParams},
};
use parking_lot::RwLock;
use runtime::{BoxError, CancellationToken};
use serde::{Deserialize, de::DeserializeOwned};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;

use crate::core::{
    pod_identity::Pod,
    rotation::{CertificateId, NewRoot},
};
use reflect::{Feed, Reflector};

/// Namespace and name.
type Key = (Box<str>, Box<str>);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    namespace: Box<str>,
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default)]
    annotations: Option<DaprAnnotations>,
}

/// The annotations that make a pod Dapr's; all others are skipped while parsing.
#[derive(Debug, Clone, Default, Deserialize)]
struct DaprAnnotations {
    #[serde(default, rename = "dapr.io/app-id")]
    app_id: Option<Box<str>>,
    #[serde(default, rename = "dapr.io/control-plane")]
    control_plane: Option<Box<str>>,
    #[serde(default, rename = "dapr.io/config")]
    config: Option<Box<str>>,
    #[serde(default, rename = "dapr.io/enabled")]
    enabled: Option<Box<str>>,
}

#[derive(Debug, Clone, Deserialize)]
struct PodObject {
    metadata: Meta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(default)]
    phase: Option<Box<str>>,
    #[serde(default)]
    container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Debug, Clone, Deserialize)]
struct ContainerStatus {
    #[serde(default)]
    state: ContainerState,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct ContainerState {
    #[serde(default)]
    running: Option<Running>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    #[serde(default)]
    started_at: Box<str>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    service_account_name: Box<str>,
    #[serde(default)]
    containers: Option<Vec<Container>>,
    #[serde(default)]
    init_containers: Option<Vec<Container>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Container {
    #[serde(default)]
    args: Option<Vec<Box<str>>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Variable {
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    value: Option<Box<str>>,
}

/// The variable from which a sidecar takes its anchors, once.
const ANCHORS: &str = "DAPR_TRUST_ANCHORS";
/// The control-plane service with a store that reads its anchors from a file, once: etcd builds the
/// pool of authorities for its peers when it starts. All others follow the file.
const SCHEDULER: &str = "scheduler";
/// How a scheduler is told to use a store outside of it.
const NO_STORE: &str = "--etcd-embed=false";

/// What is known of the anchors that a pod took up at its start, once.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Anchors {
    /// These.
    Seen(Box<[CertificateId]>),
    /// Those that were published at this time (Unix seconds).
    ReadAt(i64),
}

impl Anchors {
    fn lack(&self, root: NewRoot) -> bool {
        match self {
            Self::Seen(anchors) => !anchors.contains(&root.id),
            Self::ReadAt(time) => root.published.is_none_or(|published| *time < published),
        }
    }
}

impl PodObject {
    /// The anchors its processes hold for all their life, none if they follow them or have ended.
    fn anchors(&self) -> Option<Anchors> {
        if matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        self.sidecar_anchors().or_else(|| self.scheduler_anchors())
    }

    /// A value that cannot be read here counts as none of those we know.
    fn sidecar_anchors(&self) -> Option<Anchors> {
        let variable =
            self.containers().flat_map(|container| &container.env).flatten().find(|entry| &*entry.name == ANCHORS)?;
        Some(Anchors::Seen(CertificateId::all_of(variable.value.as_deref().unwrap_or_default().as_bytes())))
    }

    /// From the earliest start of its containers: those that do not run hold nothing.
    fn scheduler_anchors(&self) -> Option<Anchors> {
        let annotations = self.metadata.annotations.as_ref()?;
        let has_store = || !self.containers().flat_map(|c| &c.args).flatten().any(|arg| &**arg == NO_STORE);
        if annotations.control_plane.as_deref() != Some(SCHEDULER) || !has_store() {
            return None;
        }
        let running =
            self.status.container_statuses.iter().flatten().filter_map(|status| status.state.running.as_ref());
        // A time that cannot be read counts as long ago.
        let started = |running: &Running| {
            OffsetDateTime::parse(&running.started_at, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp)
        };
        running.map(started).min().map(Anchors::ReadAt)
    }

    fn containers(&self) -> impl Iterator<Item = &Container> {
        self.spec.containers.iter().chain(&self.spec.init_containers).flatten()
    }
}

#[derive(Debug, Clone, Deserialize)]
struct ConfigurationObject {
    metadata: Meta,
    #[serde(default)]
    spec: Option<ConfigurationSpec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigurationSpec {
    #[serde(default)]
    access_control: Option<AccessControl>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccessControl {
    #[serde(default)]
    trust_domain: Option<Box<str>>,
}

/// What is kept of a pod.
#[derive(Debug, Clone)]
struct KeptPod {
    service_account: Box<str>,
    app_id: Option<Box<str>>,
    control_plane: Option<Box<str>>,
    config: Option<Box<str>>,
    anchors: Option<Anchors>,
}

impl KeptPod {
    fn of(object: PodObject) -> (Self, bool) {
        let anchors = object.anchors();
        let DaprAnnotations { app_id, control_plane, config, enabled } =
            object.metadata.annotations.unwrap_or_default();
        let is_dapr =
            anchors.is_some() || app_id.is_some() || control_plane.is_some() || enabled.is_some() || config.is_some();
        let service_account = object.spec.service_account_name;
        (Self { service_account, app_id, control_plane, config, anchors }, is_dapr)
    }

    fn pod(&self, namespace: &str, name: &str) -> Pod {
        let text = |value: &Option<Box<str>>| value.as_deref().map(str::to_owned);
        Pod {
            name: name.into(),
            namespace: namespace.into(),
            service_account: self.service_account.to_string(),
            app_id: text(&self.app_id),
            control_plane: text(&self.control_plane),
            config: text(&self.config),
        }
    }
}

/// Dapr's pods.
#[derive(Debug, Default)]
struct Pods {
    map: RwLock<HashMap<Key, KeptPod>>,
    /// Whether the map was ever filled by a list and lists are allowed.
    whole: AtomicBool,
}

impl Feed for Pods {
    type Object = PodObject;
    const PATH: &'static str = "/api/v1/pods";
    type Batch = HashMap<Key, KeptPod>;

    fn collect(batch: &mut Self::Batch, object: PodObject) {
        let key = (object.metadata.namespace.clone(), object.metadata.name.clone());
        let (pod, is_dapr) = KeptPod::of(object);
        if is_dapr {
            batch.insert(key, pod);
        }
    }

    fn reset(&self, mut batch: Self::Batch) {
        batch.shrink_to_fit();
        *self.map.write() = batch;
        self.whole.store(true, Ordering::Relaxed);
    }

    fn forbidden(&self) {
        self.whole.store(false, Ordering::Relaxed);
    }

    fn apply(&self, object: PodObject) {
        let key = (object.metadata.namespace.clone(), object.metadata.name.clone());
        let (pod, is_dapr) = KeptPod::of(object);
        if is_dapr {
            self.map.write().insert(key, pod);
        } else {
            self.map.write().remove(&key);
        }
    }

    fn delete(&self, object: PodObject) {
        self.map.write().remove(&(object.metadata.namespace, object.metadata.name));
    }

    fn resource_version(object: &PodObject) -> Option<&str> {
        object.metadata.resource_version.as_deref()
    }
}

/// The trust domain of each Configuration, where it has one.
#[derive(Debug, Default)]
struct Configurations(RwLock<HashMap<Key, Option<Box<str>>>>);

impl ConfigurationObject {
    fn into_entry(self) -> (Key, Option<Box<str>>) {
        let domain = self.spec.and_then(|spec| spec.access_control).and_then(|access| access.trust_domain);
        ((self.metadata.namespace, self.metadata.name), domain)
    }
}

impl Feed for Configurations {
    type Object = ConfigurationObject;
    const PATH: &'static str = "/apis/dapr.io/v1alpha1/configurations";
    type Batch = HashMap<Key, Option<Box<str>>>;

    fn collect(batch: &mut Self::Batch, object: ConfigurationObject) {
        let (key, domain) = object.into_entry();
        batch.insert(key, domain);
    }

    fn reset(&self, batch: Self::Batch) {
        *self.0.write() = batch;
    }

    fn apply(&self, object: ConfigurationObject) {
        let (key, domain) = object.into_entry();
        self.0.write().insert(key, domain);
    }

    fn delete(&self, object: ConfigurationObject) {
        self.0.write().remove(&object.into_entry().0);
    }

    fn resource_version(object: &ConfigurationObject) -> Option<&str> {
        object.metadata.resource_version.as_deref()
    }
}

/// The API server could not answer.
#[derive(Debug, thiserror::Error)]
#[error("failed to get {kind} {namespace}/{name}")]
pub struct LookupError {
    kind: &'static str,
    namespace: String,
    name: String,
    #[source]
    source: Box<kube::Error>,
}

/// Looks pods and Configurations up.
#[derive(Clone)]
pub struct Directory {
    client: Client,
    pods: Arc<Pods>,
    configurations: Arc<Configurations>,
    synced: watch::Sender<[bool; 2]>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("synced", &*self.synced.borrow()).finish_non_exhaustive()
    }
}

impl Directory {
    /// An empty directory; [`Directory::follow_pods`] and
    /// [`Directory::follow_configurations`] fill it.
    pub fn new(client: Client) -> Self {
        Self { client, pods: Arc::default(), configurations: Arc::default(), synced: watch::Sender::new([false; 2]) }
    }

    /// Whether both caches have been filled once.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow() == [true, true]
    }

    /// Returns when both caches have been filled once.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in `self`, so this cannot fail.
        synced.wait_for(|synced| *synced == [true, true]).await.ok();
    }

    /// Follows the pods of the cluster until `stop`.
    pub async fn follow_pods(self, stop: CancellationToken) -> Result<(), BoxError> {
        let done = || {
            self.synced.send_modify(|synced| synced[0] = true);
        };
        Reflector::new(self.client.clone(), self.pods.as_ref()).run(done, stop).await;
        Ok(())
    }

    /// Follows the Configurations of the cluster until `stop`.
    pub async fn follow_configurations(self, stop: CancellationToken) -> Result<(), BoxError> {
        let done = || {
            self.synced.send_modify(|synced| synced[1] = true);
        };
        Reflector::new(self.client.clone(), self.configurations.as_ref()).run(done, stop).await;
        Ok(())
    }

    /// The pod, if the cache has it.
    pub fn cached_pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        let key: Key = (namespace.into(), name.into());
        self.pods.map.read().get(&key).map(|pod| pod.pod(namespace, name))
    }

    /// How many pods hold anchors without `root`, with the names of the first `named` of them;
    /// nothing where pods cannot be listed.
    pub fn pods_without(&self, root: NewRoot, named: usize) -> Option<(usize, Vec<String>)> {
        if !self.pods.whole.load(Ordering::Relaxed) {
            return None;
        }
        let pods = self.pods.map.read();
        let lacks_root = |pod: &KeptPod| pod.anchors.as_ref().is_some_and(|anchors| anchors.lack(root));
        let found = pods.iter().filter(|(_, pod)| lacks_root(pod));
        let names = found.clone().take(named).map(|((namespace, name), _)| format!("{namespace}/{name}")).collect();
        Some((found.count(), names))
    }

    /// The pod as the API server has it now.
    pub async fn live_pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, LookupError> {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let object: Option<PodObject> = self.get(&path, What { kind: "pod", namespace, name }).await?;
        Ok(object.map(|object| KeptPod::of(object).0.pod(namespace, name)))
    }

    /// The trust domain of a Configuration: none if there is no such Configuration, an empty
    /// text if it names no trust domain.
    pub async fn trust_domain_of(&self, namespace: &str, name: &str) -> Result<Option<String>, LookupError> {
        let key: Key = (namespace.into(), name.into());
        if let Some(domain) = self.configurations.0.read().get(&key) {
            return Ok(Some(domain.as_deref().unwrap_or_default().into()));
        }
        if name.is_empty() {
            return Ok(None);
        }
        let path = format!("/apis/dapr.io/v1alpha1/namespaces/{namespace}/configurations");
        let object: Option<ConfigurationObject> =
            self.get(&path, What { kind: "configuration", namespace, name }).await?;
        Ok(object.map(|object| object.into_entry().1.as_deref().unwrap_or_default().into()))
    }

    async fn get<T>(&self, path: &str, what: What<'_>) -> Result<Option<T>, LookupError>
    where
        T: DeserializeOwned,
    {
        let failed = |source| LookupError {
            kind: what.kind,
            namespace: what.namespace.into(),
            name: what.name.into(),
            source: Box::new(source),
        };
        let request = Request::new(path)
            .get(what.name, &GetParams::default())
            .map_err(|error| failed(kube::Error::BuildRequest(error)))?;
        match self.client.request(request).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

/// The object a live look-up is for.
#[derive(Clone, Copy)]
struct What<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const STARTED: i64 = 1_767_225_605;

    fn scheduler(change: impl FnOnce(&mut Value)) -> Option<Anchors> {
        let state = |time: &str| json!({"name": time, "state": {"running": {"startedAt": time}}});
        let mut pod = json!({
            "metadata": {"annotations": {"dapr.io/control-plane": "scheduler"}},
            "spec": {"containers": [{"args": ["--etcd-embed=true"]}, {"name": "another"}]},
            "status": {
                "phase": "Running",
                "containerStatuses": [state("2026-01-01T00:00:09Z"), state("2026-01-01T00:00:05Z")],
            },
        });
        change(&mut pod);
        serde_json::from_value::<PodObject>(pod).unwrap().anchors()
    }

    #[test]
    fn a_scheduler_holds_the_anchors_of_its_start_until_it_starts_after_the_new_root_is_everywhere() {
        let anchors = scheduler(|_| {}).unwrap();
        assert_eq!(anchors, Anchors::ReadAt(STARTED), "the earliest of its containers");
        let id = CertificateId::of(b"root");
        for (published, lacks) in [(None, true), (Some(STARTED + 1), true), (Some(STARTED), false)] {
            assert_eq!(anchors.lack(NewRoot { id, published }), lacks, "{published:?}");
        }
        let unreadable = scheduler(|pod| {
            pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = json!("yesterday");
        });
        assert_eq!(unreadable, Some(Anchors::ReadAt(0)));
    }

    #[test]
    fn who_follows_the_published_anchors_or_does_not_run_holds_none() {
        type Change = fn(&mut Value);
        let followers: [(&str, Change); 5] = [
            ("no scheduler", |pod| pod["metadata"]["annotations"]["dapr.io/control-plane"] = json!("placement")),
            ("no control plane", |pod| pod["metadata"]["annotations"] = Value::Null),
            ("its store is elsewhere", |pod| pod["spec"]["containers"][0]["args"][0] = json!("--etcd-embed=false")),
            ("ended", |pod| pod["status"]["phase"] = json!("Failed")),
            ("waits", |pod| {
                pod["status"]["containerStatuses"] = json!([{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
            }),
        ];
        for (what, change) in followers {
            assert_eq!(scheduler(change), None, "{what}");
        }
    }
}
