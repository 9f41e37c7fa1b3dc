//! Deletes pods that lack the sidecar they asked for, so that they come back with one.
//!
//! One pass after another, never two at once; deletions are evenly spaced.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use runtime::CancellationToken;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    args::WatchdogPeriod,
    core::watchdog::{self, Labelling, Verdict},
};

/// The pause after a failed pass, while none has succeeded yet.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Pods fetched at once: their whole specs pass through memory.
const PAGE: u32 = 100;

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("no ready sidecar injector: a deleted pod would come back without sidecar")]
    NoInjector,
    #[error("the API server could not be asked")]
    Api(#[from] kube::Error),
}

/// The watchdog.
pub struct Watchdog {
    client: Client,
    namespace: Option<String>,
    labelling: Labelling,
    pace: Option<Duration>,
    next_deletion: Instant,
}

impl Watchdog {
    /// A watchdog of one namespace or all.
    pub fn new(client: Client, namespace: Option<String>, labelling: Labelling, per_minute: i32) -> Self {
        Self { client, namespace, labelling, pace: watchdog::pace(per_minute), next_deletion: Instant::now() }
    }

    /// Looks as often as `period` says, until `stop`.
    pub async fn run(mut self, period: WatchdogPeriod, stop: CancellationToken) {
        let every = match period {
            WatchdogPeriod::Off => return stop.cancelled().await,
            WatchdogPeriod::Once => None,
            WatchdogPeriod::Every(period) => Some(period),
        };
        let mut has_succeeded = false;
        loop {
            let begun = Instant::now();
            let passed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                passed = self.pass() => passed,
            };
            has_succeeded |= passed.is_ok();
            if let Err(error) = passed {
                tracing::warn!(error = &error as &dyn std::error::Error, "watchdog pass failed");
            }
            let next = match (has_succeeded, every) {
                (false, _) => Instant::now() + RETRY_AFTER,
                (true, None) => return stop.cancelled().await,
                (true, Some(period)) => begun + period,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    async fn pass(&mut self) -> Result<(), PassError> {
        let deployments: Api<Deployment> = self.api();
        let found = deployments.list(&ListParams::default().labels(watchdog::INJECTOR)).await?;
        if !watchdog::is_injector_ready(&found.items) {
            return Err(PassError::NoInjector);
        }
        let pods: Api<Pod> = self.api();
        let mut page = ListParams::default().labels(watchdog::CANDIDATES).limit(PAGE);
        loop {
            let found = pods.list(&page).await?;
            for pod in &found.items {
                self.act(pod).await;
            }
            match found.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => page = page.continue_token(&next),
                None => return Ok(()),
            }
        }
    }

    async fn act(&mut self, pod: &Pod) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let outcome = match watchdog::judge(pod, self.labelling) {
            Verdict::Leave => return,
            Verdict::Label => {
                let label = json!({ "metadata": { "labels": { watchdog::PATCHED: "true" } } });
                api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&label)).await.map(drop)
            }
            Verdict::Delete => {
                tokio::time::sleep_until(self.next_deletion).await;
                tracing::warn!(ns = namespace, pod = name, "pod lacks its sidecar, deleting it");
                let deleted = api.delete(&name, &DeleteParams::default()).await.map(drop);
                if deleted.is_ok() {
                    self.next_deletion = Instant::now() + self.pace.unwrap_or_default();
                }
                deleted
            }
        };
        if let Err(error) = outcome {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, ns = namespace, pod = name, "watchdog could not act on pod");
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}
