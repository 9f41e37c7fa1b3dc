//! Keeps the Subscription CRD pointing at this webhook: its namespace and its CA bundle.
//!
//! Looked at when the trust anchors change and every few seconds, because `helm upgrade` and
//! others write the CRD anew, and until it is patched no old Subscription can be read. A CRD
//! that is missing or odd is reported and looked for again; nothing here ends the process.

use std::time::Duration;

use identity::{AnchorsRx, Namespace, TrustAnchors};
use k8s_openapi::{ByteString, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use runtime::{BoxError, CancellationToken, health::Target};
use serde_json::json;

/// The CRD.
const CRD: &str = "subscriptions.dapr.io";
/// How often it is looked at: one object of 20 KiB.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How soon after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// An API server that does not answer by then is asked again.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The CRD cannot be made to point here.
#[derive(Debug, thiserror::Error)]
enum CrdError {
    #[error("could not get CRD {CRD:?}")]
    Get(#[source] Box<kube::Error>),
    #[error("crd {CRD:?} does not have an existing webhook client config. Applying resources of this type will fail")]
    NoWebhook,
    #[error("failed to patch webhook in CRD {CRD:?}")]
    Patch(#[source] Box<kube::Error>),
    #[error("the API server did not answer in time about CRD {CRD:?}")]
    TimedOut,
}

/// What a look at the CRD came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    UpToDate,
    Patched,
}

/// The task.
pub struct Patcher {
    api: Api<CustomResourceDefinition>,
    namespace: Namespace,
    anchors: AnchorsRx,
}

impl Patcher {
    /// A task that points the CRD at `namespace`.
    pub fn new(client: Client, namespace: Namespace, anchors: AnchorsRx) -> Self {
        Self { api: Api::all(client), namespace, anchors }
    }

    /// Runs until `stop`; `target` is ready once the CRD was right for the first time.
    pub async fn run(mut self, target: Target, stop: CancellationToken) -> Result<(), BoxError> {
        let mut is_well = None;
        loop {
            let anchors = self.anchors.borrow_and_update().clone();
            let outcome = match anchors {
                Some(anchors) => Some(self.check(&anchors).await),
                None => None,
            };
            let pause = match outcome {
                None => RETRY_AFTER,
                Some(Ok(outcome)) => {
                    if outcome == Outcome::Patched {
                        tracing::info!("Successfully patched webhook in CRD {CRD:?}");
                    } else if is_well != Some(true) {
                        tracing::info!("Conversion webhook for {CRD:?} is up to date");
                    }
                    is_well = Some(true);
                    target.ready();
                    CHECK_EVERY
                }
                Some(Err(error)) => {
                    if is_well != Some(false) {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(error, "conversion webhook not in place, trying again");
                    }
                    is_well = Some(false);
                    RETRY_AFTER
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Ok(()) = self.anchors.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn check(&self, anchors: &TrustAnchors) -> Result<Outcome, CrdError> {
        let bundle = ByteString(anchors.pem().to_vec());
        let checked = tokio::time::timeout(REQUEST_LIMIT, check(&self.api, &self.namespace, bundle));
        checked.await.unwrap_or(Err(CrdError::TimedOut))
    }
}

async fn check(
    api: &Api<CustomResourceDefinition>,
    namespace: &Namespace,
    bundle: ByteString,
) -> Result<Outcome, CrdError> {
    let crd = api.get(CRD).await.map_err(|error| CrdError::Get(Box::new(error)))?;
    let webhook = crd.spec.conversion.and_then(|conversion| conversion.webhook);
    let config = webhook.and_then(|webhook| webhook.client_config).ok_or(CrdError::NoWebhook)?;
    let points_here = config.service.is_some_and(|service| service.namespace == namespace.as_str());
    if points_here && config.ca_bundle.as_ref() == Some(&bundle) {
        return Ok(Outcome::UpToDate);
    }
    let path = "/spec/conversion/webhook/clientConfig";
    let patch = json!([
        { "op": "add", "path": format!("{path}/service/namespace"), "value": namespace.as_str() },
        { "op": "add", "path": format!("{path}/caBundle"), "value": bundle },
    ]);
    let patch = serde_json::from_value(patch).expect("these are two operations of RFC 6902");
    let patched = api.patch(CRD, &PatchParams::default(), &Patch::Json::<()>(patch)).await;
    patched.map_err(|error| CrdError::Patch(Box::new(error)))?;
    Ok(Outcome::Patched)
}
