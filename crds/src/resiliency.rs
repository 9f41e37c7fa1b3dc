//! Resiliency: named policies and the targets that use them.
//!
//! Durations are whole milliseconds or a Go duration; the definition does not check them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::{or_default, resource};

/// Policies for calls that fail, and the targets that use them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Resiliency {
    /// `dapr.io/v1alpha1`.
    #[schemars(skip)]
    pub api_version: String,
    /// `Resiliency`.
    #[schemars(skip)]
    pub kind: String,
    /// Name, namespace, annotations.
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// Policies and targets.
    #[serde(deserialize_with = "or_default")]
    pub spec: ResiliencySpec,
    /// App IDs that load it; empty means every app of the namespace.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(Resiliency, "Resiliency", "v1alpha1", "resiliencies");

/// Policies and targets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResiliencySpec {
    /// Policies by kind and name.
    #[serde(deserialize_with = "or_default")]
    pub policies: Policies,
    /// What the policies apply to.
    #[serde(deserialize_with = "or_default")]
    pub targets: Targets,
}

/// Policies by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Policies {
    /// How long one attempt may take.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub timeouts: BTreeMap<String, String>,
    /// When and how often to try again.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub retries: BTreeMap<String, Retry>,
    /// When to stop calling for a while.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub circuit_breakers: BTreeMap<String, CircuitBreaker>,
}

/// When and how often to try again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// `constant` or `exponential`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Delay of the constant policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// Longest delay of the exponential policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_interval: Option<String>,
    /// Attempts after the first; negative means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i64>,
    /// Status codes that are tried again; all when unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching: Option<RetryMatching>,
}

/// Status codes that are tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryMatching {
    /// HTTP codes and ranges, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status_codes: Option<String>,
    /// gRPC codes and ranges, separated by commas.
    #[serde(rename = "gRPCStatusCodes", skip_serializing_if = "Option::is_none")]
    pub grpc_status_codes: Option<String>,
}

/// When to stop calling for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaker {
    /// Calls let through while half open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<i64>,
    /// After which time a closed breaker forgets its counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// How long the breaker stays open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// CEL expression over the counts that opens the breaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trip: Option<String>,
}

/// What the policies apply to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Targets {
    /// By app ID.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub apps: BTreeMap<String, AppTarget>,
    /// By actor type.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub actors: BTreeMap<String, ActorTarget>,
    /// By component.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, ComponentTarget>,
}

/// Policies of calls to an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AppTarget {
    /// Name of a timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Name of a retry policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// Name of a circuit breaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<String>,
    /// How many endpoints' breakers are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker_cache_size: Option<i64>,
}

/// Policies of calls to actors of a type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ActorTarget {
    /// Name of a timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Name of a retry policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// Name of a circuit breaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<String>,
    /// What shares a breaker: `type`, `id` or `both`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker_scope: Option<String>,
    /// How many breakers are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker_cache_size: Option<i64>,
}

/// Policies of a component, by direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ComponentTarget {
    /// From the component to the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound: Option<PolicyNames>,
    /// From the sidecar to the component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<PolicyNames>,
}

/// Names of one policy of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyNames {
    /// Name of a timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Name of a retry policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// Name of a circuit breaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<String>,
}
