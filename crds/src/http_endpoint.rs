//! HTTPEndpoint: an HTTP service outside the mesh that apps invoke by name.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    dynamic_value::DynamicValue,
    name_value_pair::{Auth, NameValuePair, SecretKeyRef},
    resource::{or_default, resource, texts},
};

/// An HTTP service outside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpEndpoint {
    /// `dapr.io/v1alpha1`.
    #[schemars(skip)]
    pub api_version: String,
    /// `HTTPEndpoint`.
    #[schemars(skip)]
    pub kind: String,
    /// Name, namespace, annotations.
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// Where secrets of headers and TLS documents are resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// The service.
    #[serde(deserialize_with = "or_default")]
    pub spec: HttpEndpointSpec,
    /// App IDs that load it; empty means every app of the namespace.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(HttpEndpoint, "HTTPEndpoint", "v1alpha1", "httpendpoints");

/// Address of the service and what calls to it carry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpEndpointSpec {
    /// URL that paths are appended to.
    pub base_url: String,
    /// Headers of every call.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<NameValuePair>,
    /// TLS of the calls.
    #[serde(rename = "clientTLS", skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<ClientTls>,
}

/// TLS documents of a client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// Certificates that the server's chain must end in.
    #[serde(rename = "rootCA", skip_serializing_if = "Option::is_none")]
    pub root_ca: Option<TlsDocument>,
    /// Certificate of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<TlsDocument>,
    /// Key of the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<TlsDocument>,
    /// Whether the server may renegotiate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-crdgen-default" = "Never"))]
    pub renegotiation: Option<Renegotiation>,
}

/// A PEM document, in place or in a secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsDocument {
    /// The document, in plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<DynamicValue>,
    /// Secret that holds the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

texts! {
    /// How often a server may renegotiate TLS.
    Renegotiation {
        /// Never.
        Never = "Never",
        /// Once for each connection.
        OnceAsClient = "OnceAsClient",
        /// As often as it likes.
        FreelyAsClient = "FreelyAsClient",
    }
}
