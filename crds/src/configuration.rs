//! Configuration: how sidecars of an app behave, and (named `daprsystem`) the control plane's mTLS.
//!
//! One file for the whole kind: nearly all of it is the list of settings.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    dynamic_value::DynamicValue,
    name_value_pair::NameValuePair,
    resource::{or_default, resource, texts},
};

/// Settings of sidecars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Configuration {
    /// `dapr.io/v1alpha1`.
    #[schemars(skip)]
    pub api_version: String,
    /// `Configuration`.
    #[schemars(skip)]
    pub kind: String,
    /// Name, namespace, annotations.
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// The settings.
    #[serde(deserialize_with = "or_default")]
    pub spec: ConfigurationSpec,
}

resource!(Configuration, "Configuration", "v1alpha1", "configurations");

/// The settings, by subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigurationSpec {
    /// Middleware of calls to the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_http_pipeline: Option<Pipeline>,
    /// Middleware of calls to the sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_pipeline: Option<Pipeline>,
    /// Distributed tracing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// Metrics; what `metrics` sets wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-crdgen-default" = {"enabled": true}))]
    pub metric: Option<Metric>,
    /// Metrics. To switch them off, set `enabled: false` here: the default of this field would win
    /// over `metric`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-crdgen-default" = {"enabled": true}))]
    pub metrics: Option<Metric>,
    /// Mutual TLS; read from the control plane's Configuration only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    /// Which secrets the app may read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Secrets>,
    /// Which apps may invoke the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_control: Option<AccessControl>,
    /// How app IDs become addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_resolution: Option<NameResolution>,
    /// Preview features.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    /// Which APIs the sidecar offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// Which components may be loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub components: Option<Components>,
    /// What the sidecar logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// Security of WebAssembly components.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wasm: Option<Wasm>,
    /// Limits of workflows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Workflow>,
}

/// A chain of middleware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pipeline {
    /// In the order of the calls.
    pub handlers: Vec<Handler>,
}

/// One middleware of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Handler {
    /// Name of the component.
    pub name: String,
    /// Type of the component.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Which targets it applies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

/// Which targets a middleware applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Selector {
    /// Fields that must match.
    pub fields: Vec<SelectorField>,
}

/// A field and its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SelectorField {
    /// Name of the field.
    pub field: String,
    /// Value it must have.
    pub value: String,
}

/// Distributed tracing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// Share of traces that are kept, `0` to `1`.
    pub sampling_rate: String,
    /// Whether traces are printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<bool>,
    /// Zipkin collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zipkin: Option<Zipkin>,
    /// OpenTelemetry collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otel: Option<Otel>,
}

/// Zipkin collector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Zipkin {
    /// Its URL.
    pub endpoint_address: String,
}

/// OpenTelemetry collector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Otel {
    /// `http` or `grpc`.
    pub protocol: String,
    /// Host and port.
    pub endpoint_address: String,
    /// Whether the connection uses TLS.
    pub is_secure: bool,
    /// Headers of every export. Sidecars before 1.17 do not start with it.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<NameValuePair>,
    /// How long an export may take (a Go duration). Sidecars before 1.17 do not start with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// Metrics of sidecars.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// Whether there are any.
    pub enabled: bool,
    /// Whether error codes are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_error_codes: Option<bool>,
    /// Metrics of the HTTP server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<MetricHttp>,
    /// Rewrites of labels.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<MetricRule>,
    /// Bounds of latency histograms, in milliseconds.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub latency_distribution_buckets: Vec<i64>,
}

/// Metrics of the HTTP server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricHttp {
    /// Whether paths are labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub increased_cardinality: Option<bool>,
    /// Path patterns that become labels.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub path_matching: Vec<String>,
    /// Whether verbs are left out of labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_verbs: Option<bool>,
}

/// Rewrites of one metric's labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MetricRule {
    /// Name of the metric.
    pub name: String,
    /// Its labels.
    pub labels: Vec<MetricLabel>,
}

/// Rewrites of one label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MetricLabel {
    /// Name of the label.
    pub name: String,
    /// Replacement and the expression it replaces.
    pub regex: BTreeMap<String, String>,
}

/// Mutual TLS of the installation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mtls {
    /// Whether sidecars use it between each other.
    pub enabled: bool,
    /// Life of a certificate (a Go duration).
    #[serde(rename = "workloadCertTTL", skip_serializing_if = "Option::is_none")]
    pub workload_cert_ttl: Option<String>,
    /// How far clocks may differ (a Go duration).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_clock_skew: Option<String>,
    /// Host and port of sentry.
    pub sentry_address: String,
    /// Trust domain of the control plane.
    pub control_plane_trust_domain: String,
    /// Further ways for callers to prove who they are.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub token_validators: Vec<TokenValidator>,
}

/// A way to prove who one is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenValidator {
    /// Which way.
    pub name: TokenValidatorName,
    /// Its settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("type" = "object"))]
    pub options: Option<DynamicValue>,
}

texts! {
    /// Validators that can be configured.
    TokenValidatorName {
        /// Tokens signed by keys of a JSON Web Key Set.
        Jwks = "jwks",
    }
}

/// Which secrets the app may read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Secrets {
    /// By secret store.
    pub scopes: Vec<SecretsScope>,
}

/// Which secrets of a store the app may read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretsScope {
    /// Name of the secret store.
    pub store_name: String,
    /// `allow` (the default) or `deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_access: Option<String>,
    /// Only these, when there are any.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub allowed_secrets: Vec<String>,
    /// Not these.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub denied_secrets: Vec<String>,
}

/// Which apps may invoke the app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessControl {
    /// `allow` or `deny` where no policy applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_action: Option<String>,
    /// Trust domain of the apps with this Configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// By calling app.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<AppPolicy>,
}

/// What a calling app may invoke. Sidecars do not start without `trustDomain` and `namespace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppPolicy {
    /// App ID of the caller.
    pub app_id: String,
    /// `allow` or `deny` where no operation applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_action: Option<String>,
    /// Trust domain of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// Namespace of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// By path.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<AppOperation>,
}

/// What may be done with a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppOperation {
    /// Path, with wildcards.
    pub name: String,
    /// Verbs in upper case, or `*`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub http_verb: Vec<String>,
    /// `allow` or `deny`.
    pub action: String,
}

/// How app IDs become addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NameResolution {
    /// Name of the resolver.
    pub component: String,
    /// Its version.
    pub version: String,
    /// Its settings.
    #[schemars(extend("type" = "object"))]
    pub configuration: DynamicValue,
}

/// A preview feature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it is on.
    pub enabled: bool,
}

/// Which APIs the sidecar offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Api {
    /// Only these, for a protocol that has any.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<ApiRule>,
    /// Not these.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<ApiRule>,
}

/// An API of the sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiRule {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `http` or `grpc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// Which components may be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Components {
    /// Types, or types and versions, that may not.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// What the sidecar logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    /// Calls of its API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_logging: Option<ApiLogging>,
}

/// Logging of API calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiLogging {
    /// Whether calls are logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether routes are logged in place of paths.
    #[serde(rename = "obfuscateURLs", skip_serializing_if = "Option::is_none")]
    pub obfuscate_urls: Option<bool>,
    /// Whether health checks are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub omit_health_checks: Option<bool>,
}

/// Security of WebAssembly components.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Wasm {
    /// Whether all of them run in the strict sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict_sandbox: Option<bool>,
}

/// Limits of workflows; zero and below mean none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Workflow {
    /// Workflows at once in a sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_workflow_invocations: Option<i32>,
    /// Activities at once in a sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_activity_invocations: Option<i32>,
    /// Workflows at once in all replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_max_concurrent_workflow_invocations: Option<i32>,
    /// Activities at once in all replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_max_concurrent_activity_invocations: Option<i32>,
    /// In all replicas, by name of the workflow.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub workflow_concurrency_limits: Vec<NamedConcurrencyLimit>,
    /// In all replicas, by name of the activity.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub activity_concurrency_limits: Vec<NamedConcurrencyLimit>,
    /// How long the state of ended workflows is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_retention_policy: Option<StateRetentionPolicy>,
}

/// A limit of one workflow or activity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NamedConcurrencyLimit {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<i32>,
}

/// How long the state of ended workflows is kept (Go durations; `0s` is not at all).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StateRetentionPolicy {
    /// However it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any_terminal: Option<String>,
    /// When it completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<String>,
    /// When it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// When it was terminated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminated: Option<String>,
}
