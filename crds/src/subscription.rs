//! Subscription: a topic and the paths of an app that receive its events. Two versions are served.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod v1alpha1;
pub mod v2alpha1;

/// Delivery of several messages at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkSubscribe {
    /// Whether messages come in bulk.
    pub enabled: bool,
    /// Most messages of one delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages_count: Option<i32>,
    /// How long to wait for them, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_await_duration_ms: Option<i32>,
}
