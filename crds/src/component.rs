//! Component: a building block (state store, pub/sub, secret store, …) and its settings.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    name_value_pair::{Auth, NameValuePair},
    resource::{or_default, resource},
};

/// A building block that sidecars load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Component {
    /// `dapr.io/v1alpha1`.
    #[schemars(skip)]
    pub api_version: String,
    /// `Component`.
    #[schemars(skip)]
    pub kind: String,
    /// Name, namespace, annotations.
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// Where the secrets of `spec.metadata` are resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// The building block.
    #[serde(deserialize_with = "or_default")]
    pub spec: ComponentSpec,
    /// App IDs that load it; empty means every app of the namespace.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(Component, "Component", "v1alpha1", "components");

/// Type, version and settings of a building block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentSpec {
    /// Category and name, for example `state.redis`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Version of the implementation, usually `v1`.
    pub version: String,
    /// Whether sidecars start although the component does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_errors: Option<bool>,
    /// Settings of the implementation.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Vec<NameValuePair>,
    /// How long the component may take to start (a Go duration; 5s when unset).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_timeout: Option<String>,
}
