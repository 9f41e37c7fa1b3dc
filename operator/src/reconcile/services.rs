//! Gives Dapr-enabled workloads their Service: read, compare, and PUT if it differs (RULINGS 28).
//!
//! Server-side apply would never remove fields that upstream's PUT owns. Each workload has
//! its own back-off, and one that asks for something impossible waits until it is changed.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Resource,
    api::{ApiResource, ObjectMeta, PostParams},
    core::{GroupVersionKind, NamespaceResourceScope},
    runtime::{
        Controller,
        controller::{self, Action as Requeue},
        reflector::ObjectRef,
        watcher,
    },
};
use parking_lot::Mutex;
use runtime::CancellationToken;
use serde::Deserialize;

use super::workload::WorkloadObject;
use crate::{
    core::service::{self, Action, Refusal},
    metrics::Metrics,
    watches::dynamic_api,
};

/// Upstream's number of reconciles at once for each kind.
const AT_ONCE: u16 = 100;
/// Upstream's back-off.
const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(1000);

/// A kind of workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `argoproj.io/v1alpha1` Rollout.
    Rollout,
}

impl WorkloadKind {
    fn resource(self) -> ApiResource {
        let (group, version, kind) = match self {
            Self::Deployment => ("apps", "v1", "Deployment"),
            Self::StatefulSet => ("apps", "v1", "StatefulSet"),
            Self::Rollout => ("argoproj.io", "v1alpha1", "Rollout"),
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
    }
}

/// A Service of which only the name and the owner are kept.
#[derive(Debug, Clone, Deserialize)]
struct OwnedService {
    #[serde(deserialize_with = "name_and_owner")]
    metadata: ObjectMeta,
}

fn name_and_owner<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let meta = ObjectMeta::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        resource_version: meta.resource_version,
        owner_references: meta.owner_references,
        ..ObjectMeta::default()
    })
}

impl Resource for OwnedService {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Service".into()
    }
    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        "services".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A workload's Service could not be brought about.
#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error("failed to ensure dapr service present for {workload}")]
    Refused {
        workload: String,
        #[source]
        source: Refusal,
    },
    #[error("failed to ensure dapr service present for {workload}")]
    Api {
        workload: String,
        #[source]
        source: Box<kube::Error>,
    },
}

struct Context {
    client: Client,
    resource: ApiResource,
    metrics: Metrics,
    failures: Mutex<HashMap<ObjectRef<WorkloadObject>, u32>>,
}

/// Reconciles one kind of workload until `stop`.
pub async fn run(
    client: Client,
    kind: WorkloadKind,
    namespace: Option<String>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let resource = kind.resource();
    let namespace = namespace.as_deref();
    let workloads: Api<WorkloadObject> = dynamic_api(client.clone(), &resource, namespace);
    let services: Api<OwnedService> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let ours = watcher::Config::default().labels(&format!("{}=true", service::LABEL));
    let context = Arc::new(Context { client, resource: resource.clone(), metrics, failures: Mutex::default() });
    Controller::new_with(workloads, watcher::Config::default(), resource)
        .owns(services, ours)
        .with_config(controller::Config::default().concurrency(AT_ONCE))
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, after_error, context)
        .for_each(|outcome| {
            if let Err(error) = outcome {
                report(&error);
            }
            std::future::ready(())
        })
        .await;
}

fn report<W: std::error::Error + 'static>(error: &controller::Error<ReconcileError, W>) {
    match error {
        // Told where it is handled.
        controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_) => {}
        other => {
            tracing::warn!(error = other as &dyn std::error::Error, "watch of workloads failed, trying again");
        }
    }
}

async fn reconcile(object: Arc<WorkloadObject>, context: Arc<Context>) -> Result<Requeue, ReconcileError> {
    let workload = object.workload(&context.resource);
    let label = || format!("{} {}/{}", workload.kind, workload.namespace, workload.name);
    let app_id = service::app_id(&workload).map_err(|source| ReconcileError::Refused { workload: label(), source })?;
    if let Some(app_id) = app_id {
        let api = Api::namespaced(context.client.clone(), &workload.namespace);
        let name = service::service_name(app_id);
        let bring_about = async {
            let present: Option<Service> = api.get_opt(&name).await?;
            match service::reconcile(&workload, app_id, present.as_ref()) {
                Action::Keep => {}
                Action::Create(wanted) => {
                    api.create(&PostParams::default(), &wanted).await?;
                    context.metrics.service_created(app_id);
                }
                Action::Replace(wanted) => {
                    api.replace(&name, &PostParams::default(), &wanted).await?;
                    context.metrics.service_updated(app_id);
                }
            }
            Ok(())
        };
        bring_about.await.map_err(|source| ReconcileError::Api { workload: label(), source: Box::new(source) })?;
    }
    context.failures.lock().remove(&ObjectRef::from_obj_with(&*object, context.resource.clone()));
    Ok(Requeue::await_change())
}

#[expect(clippy::needless_pass_by_value, reason = "the controller's signature")]
fn after_error(object: Arc<WorkloadObject>, error: &ReconcileError, context: Arc<Context>) -> Requeue {
    tracing::error!(error = error as &dyn std::error::Error, "Service not in place");
    match error {
        ReconcileError::Refused { .. } => Requeue::await_change(),
        ReconcileError::Api { .. } => {
            let key = ObjectRef::from_obj_with(&*object, context.resource.clone());
            let mut failures = context.failures.lock();
            let count = failures.entry(key).or_default();
            *count = count.saturating_add(1);
            Requeue::requeue(pause_after(*count))
        }
    }
}

/// The pause after so many failures in a row.
fn pause_after(failures: u32) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_five_milliseconds_to_a_thousand_seconds() {
        assert_eq!(pause_after(1), Duration::from_millis(5));
        assert_eq!(pause_after(3), Duration::from_millis(20));
        assert_eq!(pause_after(100), Duration::from_secs(1000));
    }
}
