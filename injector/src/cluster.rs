//! What the injector asks the cluster while it answers a request.
//!
//! Every call has a limit well below the webhook's own ten seconds. The system
//! Configuration is remembered for a moment, so that a rollout of many pods asks once per
//! second and not once per pod; whatever goes wrong with it means that mTLS is on.

use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::core::{annotations::COMPONENT_CONTAINER, components::ComponentResource, settings::Mtls};

const SYSTEM_CONFIGURATION: &str = "daprsystem";
/// How long an answer about the system Configuration is believed.
const REMEMBER: Duration = Duration::from_secs(1);
const CONFIGURATION_LIMIT: Duration = Duration::from_secs(2);
const COMPONENTS_LIMIT: Duration = Duration::from_secs(5);
const ACCOUNTS_LIMIT: Duration = Duration::from_secs(10);
/// Objects per page of a list.
const PAGE: u32 = 500;

/// The cluster, as far as injection depends on it.
pub struct Cluster {
    client: Client,
    namespace: String,
    /// The last answer about mTLS and when it came. Owned here; never held across a call.
    mtls: Mutex<Option<(Instant, Mtls)>>,
}

/// A list could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The API server refused or broke.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// It did not answer in time.
    #[error("no answer from the API server within {}s", limit.as_secs())]
    Timeout {
        /// How long was waited.
        limit: Duration,
    },
}

impl Cluster {
    /// Asks through `client`; `namespace` is the control plane's.
    pub fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace, mtls: Mutex::new(None) }
    }

    /// Whether sidecars talk mTLS: only an explicit false in the system Configuration says no.
    pub async fn mtls(&self) -> Mtls {
        if let Some((at, mtls)) = *self.mtls.lock()
            && at.elapsed() < REMEMBER
        {
            return mtls;
        }
        let mtls = self.read_mtls().await;
        *self.mtls.lock() = Some((Instant::now(), mtls));
        mtls
    }

    async fn read_mtls(&self) -> Mtls {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &dapr("Configuration", "configurations"));
        let found = match timeout(CONFIGURATION_LIMIT, api.get_opt(SYSTEM_CONFIGURATION)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(%error, name = SYSTEM_CONFIGURATION, "could not read the system configuration, taking mTLS as enabled");
                return Mtls::On;
            }
            Err(_elapsed) => {
                tracing::warn!(
                    name = SYSTEM_CONFIGURATION,
                    "no answer about the system configuration, taking mTLS as enabled"
                );
                return Mtls::On;
            }
        };
        let enabled = found.as_ref().and_then(|found| found.data.pointer("/spec/mtls/enabled"));
        if enabled.and_then(serde_json::Value::as_bool) == Some(false) { Mtls::Off } else { Mtls::On }
    }

    /// The Component resources of `namespace`.
    pub async fn components(&self, namespace: &str) -> Result<Vec<ComponentResource>, ListError> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &dapr("Component", "components"));
        let listed = timeout(COMPONENTS_LIMIT, api.list(&ListParams::default())).await;
        let listed = listed.map_err(|_| ListError::Timeout { limit: COMPONENTS_LIMIT })??;
        Ok(listed.items.into_iter().map(component).collect())
    }

    /// The UIDs of those `accounts`, namespace and name, that exist.
    pub async fn uids(&self, accounts: &[(String, String)]) -> Result<Vec<String>, ListError> {
        let found = timeout(ACCOUNTS_LIMIT, self.list_uids(accounts)).await;
        found.map_err(|_| ListError::Timeout { limit: ACCOUNTS_LIMIT })?
    }

    async fn list_uids(&self, accounts: &[(String, String)]) -> Result<Vec<String>, ListError> {
        let api: Api<ServiceAccount> = Api::all(self.client.clone());
        let mut params = ListParams::default().limit(PAGE);
        let mut uids = Vec::new();
        loop {
            let page = api.list_metadata(&params).await?;
            for account in page.items {
                let meta = account.metadata;
                let names = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
                if accounts.contains(&names) {
                    uids.extend(meta.uid);
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(uids),
            }
        }
    }
}

fn component(object: DynamicObject) -> ComponentResource {
    let scopes = object.data.get("scopes").and_then(serde_json::Value::as_array);
    let scopes = scopes.into_iter().flatten().filter_map(|scope| scope.as_str().map(str::to_owned));
    ComponentResource {
        scopes: scopes.collect(),
        container: object.metadata.annotations.and_then(|mut all| all.remove(COMPONENT_CONTAINER)),
        name: object.metadata.name.unwrap_or_default(),
    }
}

fn dapr(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("dapr.io", "v1alpha1", kind), plural)
}
