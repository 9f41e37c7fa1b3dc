//! Subscription v2alpha1: paths chosen by rules.
//!
//! Two short forms are taken beside upstream's: `spec.route` for `spec.routes.default`, and
//! `spec.scopes` for `scopes`. The operator serves the long forms only. Both forms with different
//! values are refused by the definition, as is a Subscription with neither route form.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BulkSubscribe;
use crate::resource::{or_default, resource};

/// A topic and the paths that receive its events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.spec) || !has(self.spec.scopes) || !has(self.scopes) || self.spec.scopes == self.scopes",
    "message": "spec.scopes and scopes differ: they mean the same, so set one of them",
}]))]
pub struct Subscription {
    /// `dapr.io/v2alpha1`.
    #[schemars(skip)]
    pub api_version: String,
    /// `Subscription`.
    #[schemars(skip)]
    pub kind: String,
    /// Name, namespace, annotations.
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// Topic and paths.
    #[serde(deserialize_with = "or_default")]
    pub spec: SubscriptionSpec,
    /// App IDs that subscribe; empty means every app of the namespace.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(Subscription, "Subscription", "v2alpha1", "subscriptions");

/// Topic and paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.routes) || has(self.route)",
        "message": "routes is required (or its short form route)",
    },
    {
        "rule": "!has(self.route) || !has(self.routes) || !has(self.routes.default) || self.route == self.routes.default",
        "message": "route and routes.default differ: they mean the same, so set one of them",
    },
]))]
pub struct SubscriptionSpec {
    /// Name of the pub/sub component.
    pub pubsubname: String,
    /// Name of the topic.
    pub topic: String,
    /// Paths of the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Routes>,
    /// Short form of `routes.default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Short form of the top-level `scopes`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
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

/// Paths chosen by rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Routes {
    /// Tried in this order.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Path of events that no rule takes.
    #[serde(rename = "default", skip_serializing_if = "Option::is_none")]
    pub default_path: Option<String>,
}

/// A condition and the path of events that meet it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    /// CEL expression over `event`; empty always matches.
    #[serde(rename = "match")]
    pub condition: String,
    /// Path of the app.
    pub path: String,
}
