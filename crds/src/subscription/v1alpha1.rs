//! Subscription v1alpha1: one path for every event of a topic.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BulkSubscribe;
use crate::resource::{or_default, resource};

/// A topic and the path that receives its events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Subscription {
    /// `dapr.io/v1alpha1`.
    #[schemars(skip)]
    pub api_version: String,
    /// `Subscription`.
    #[schemars(skip)]
    pub kind: String,
    /// Name, namespace, annotations.
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// Topic and path.
    #[serde(deserialize_with = "or_default")]
    pub spec: SubscriptionSpec,
    /// App IDs that subscribe; empty means every app of the namespace.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(Subscription, "Subscription", "v1alpha1", "subscriptions");

/// Topic and path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionSpec {
    /// Name of the pub/sub component.
    pub pubsubname: String,
    /// Name of the topic.
    pub topic: String,
    /// Path of the app.
    pub route: String,
    /// Settings of the subscription.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Topic for events that cannot be delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
    /// Delivery of several messages at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bulk_subscribe: Option<BulkSubscribe>,
}
