//! Named values and references to secrets, shared by several resources.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dynamic_value::DynamicValue;

/// A named value: given in place, or taken from a secret or an environment variable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NameValuePair {
    /// Name of the property.
    pub name: String,
    /// Value of the property, in plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<DynamicValue>,
    /// Secret that holds the value; it wins over `value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
    /// Environment variable of the sidecar that holds the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_ref: Option<String>,
}

/// A key of a secret in a secret store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Name of the secret.
    pub name: String,
    /// Key within the secret; empty means the name of the property.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Where references to secrets are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// Name of the secret store; empty means Kubernetes Secrets.
    pub secret_store: String,
}
