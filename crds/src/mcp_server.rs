//! MCPServer: a server of the Model Context Protocol whose tools run as workflows.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    name_value_pair::{NameValuePair, SecretKeyRef},
    resource::{or_default, resource},
};

/// A connection to an MCP server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct McpServer {
    /// `dapr.io/v1alpha1`.
    #[schemars(skip)]
    pub api_version: String,
    /// `MCPServer`.
    #[schemars(skip)]
    pub kind: String,
    /// Name, namespace, annotations.
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// The server.
    #[serde(deserialize_with = "or_default")]
    pub spec: McpServerSpec,
    /// App IDs that load it; empty means every app of the namespace.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(McpServer, "MCPServer", "v1alpha1", "mcpservers");

/// Where the server is and what surrounds its tools.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpServerSpec {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// Workflows run before and after calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub middleware: Option<Middleware>,
    /// Description for people; not used at run time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog: Option<Catalog>,
    /// Whether sidecars start although the server cannot be registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_errors: Option<bool>,
}

/// Exactly one transport.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(has(self.streamableHTTP) ? 1 : 0) + (has(self.sse) ? 1 : 0) + (has(self.stdio) ? 1 : 0) == 1",
    "message": "exactly one of streamableHTTP, sse, or stdio must be set",
}]))]
pub struct Endpoint {
    /// HTTP with streams.
    #[serde(rename = "streamableHTTP", skip_serializing_if = "Option::is_none")]
    pub streamable_http: Option<HttpTransport>,
    /// HTTP with server-sent events (legacy).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sse: Option<HttpTransport>,
    /// A subprocess; refused in Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdio: Option<StdioTransport>,
}

/// A server reached by HTTP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpTransport {
    /// URL of the server.
    #[schemars(length(min = 1))]
    pub url: String,
    /// Version of the protocol, as a date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<String>,
    /// How long a call may take (a Go duration).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Headers of every request.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<NameValuePair>,
    /// How requests are authenticated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<HttpAuth>,
}

/// How requests are authenticated; `oauth2` wins over `spiffe`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpAuth {
    /// Secret store of the headers' secrets; unset means Kubernetes Secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_store: Option<String>,
    /// Client credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<OAuth2>,
    /// A token of the sidecar's identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<Spiffe>,
}

/// OAuth 2 client credentials. Sidecars need `secretKeyRef`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OAuth2 {
    /// URL of the token endpoint.
    #[schemars(length(min = 1))]
    pub issuer: String,
    /// Audience of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Name of the client.
    #[serde(rename = "clientID", skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Scopes of the token.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Secret of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// A token of the sidecar's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Spiffe {
    /// The token and the header that carries it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<SpiffeJwt>,
}

/// The token and the header that carries it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpiffeJwt {
    /// Name of the header.
    #[schemars(length(min = 1))]
    pub header: String,
    /// Text before the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_value_prefix: Option<String>,
    /// Audience of the token.
    #[schemars(length(min = 1))]
    pub audience: String,
}

/// A server run as a subprocess.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StdioTransport {
    /// Path of the program.
    #[schemars(length(min = 1))]
    pub command: String,
    /// Its arguments.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<NameValuePair>,
}

/// Workflows run before and after calls, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Middleware {
    /// Before a tool is called.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub before_call_tool: Vec<MutatingHook>,
    /// After a tool was called.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub after_call_tool: Vec<MutatingHook>,
    /// Before tools are listed.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub before_list_tools: Vec<Hook>,
    /// After tools were listed.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub after_list_tools: Vec<MutatingHook>,
}

/// A workflow that sees what passes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hook {
    /// The workflow.
    pub workflow: HookWorkflow,
}

/// A workflow that sees what passes and may replace it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MutatingHook {
    /// The workflow.
    pub workflow: HookWorkflow,
    /// Whether its result replaces what passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutate: Option<bool>,
}

/// A workflow of this or another app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookWorkflow {
    /// Name of the workflow.
    #[schemars(length(min = 1))]
    pub workflow_name: String,
    /// App that runs it; unset means this one.
    #[serde(rename = "appID", skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
}

/// Description for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Catalog {
    /// Name to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What the server does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who looks after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Words to find it by.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// URLs by name.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, String>,
}

/// Who looks after the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Owner {
    /// Name of the team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// How to reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
}
