//! Kubernetes Events about the trust bundle, on its Secret.
//!
//! Sentry's rights under upstream's chart do not include Events: a refusal is noted once and
//! everything goes on without them (RULINGS 2).

use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::timeout;

use crate::{keeper::chain, store::TRUST_BUNDLE};

/// An Event is never worth waiting for.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(3);

/// What an Event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something to know.
    Normal,
    /// Something to act on.
    Warning,
}

/// Where Events go.
pub struct Events {
    api: Option<Api<Event>>,
    namespace: String,
    refused: AtomicBool,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Events {
    /// Into `namespace`; nowhere without a client.
    pub fn new(client: Option<&Client>, namespace: &str) -> Self {
        Self {
            api: client.map(|client| Api::namespaced(client.clone(), namespace)),
            namespace: namespace.into(),
            refused: AtomicBool::new(false),
        }
    }

    /// Reports one Event.
    pub async fn report(&self, severity: Severity, reason: &str, message: &str) {
        let Some(api) = &self.api else { return };
        if self.refused.load(Ordering::Relaxed) {
            return;
        }
        let event = self.event(severity, reason, message);
        match timeout(LIMIT, api.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                self.refused.store(true, Ordering::Relaxed);
                tracing::warn!(error = %status.message, "Events may not be created: going on without them");
            }
            Ok(Err(error)) => tracing::debug!(error = %chain(&error), "Event was not created"),
            Err(_) => tracing::debug!("Event was not created in time"),
        }
    }

    fn event(&self, severity: Severity, reason: &str, message: &str) -> Event {
        let now = Timestamp::now();
        Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{TRUST_BUNDLE}.")),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Secret".into()),
                name: Some(TRUST_BUNDLE.into()),
                namespace: Some(self.namespace.clone()),
                ..ObjectReference::default()
            },
            type_: Some(match severity {
                Severity::Normal => "Normal".into(),
                Severity::Warning => "Warning".into(),
            }),
            reason: Some(reason.into()),
            // The API server's limit is 1024 bytes.
            message: Some(message.chars().take(512).collect()),
            source: Some(EventSource { component: Some("dapr-sentry".into()), host: None }),
            reporting_component: Some("dapr.io/sentry".into()),
            reporting_instance: Some("dapr-sentry".into()),
            action: Some("Keep".into()),
            event_time: Some(MicroTime(now)),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        }
    }
}
