//! The CustomResourceDefinitions, as files of the chart.
//!
//! Names and file names are upstream's: the `dapr` CLI fetches the files by name. The conversion
//! stanza of Subscription is upstream's too: the operator patches namespace and CA bundle in the
//! cluster, so the file holds a placeholder.

use kube::Resource;
use schemars::JsonSchema;
use serde_json::{Value, json};

use crate::{
    component::Component,
    configuration::Configuration,
    http_endpoint::HttpEndpoint,
    mcp_server::McpServer,
    resiliency::Resiliency,
    resource::GROUP,
    schema,
    subscription::{v1alpha1, v2alpha1},
    workflow_access_policy::WorkflowAccessPolicy,
};

/// The first line of every file.
const HEADER: &str = "# Generated from the types in crds/src by `cargo run -p crds --bin crdgen`; do not edit.\n";

/// One definition and the file it is kept in.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Name of the file below the chart's `crds/`.
    pub file: &'static str,
    /// The object.
    pub object: Value,
}

impl Definition {
    /// The content of the file.
    pub fn yaml(&self) -> Result<String, serde_yaml::Error> {
        Ok(format!("{HEADER}{}", serde_yaml::to_string(&self.object)?))
    }
}

/// All definitions of the chart.
pub fn definitions() -> Vec<Definition> {
    vec![
        Definition { file: "components.yaml", object: definition::<Component>() },
        Definition { file: "configuration.yaml", object: definition::<Configuration>() },
        Definition { file: "httpendpoints.yaml", object: definition::<HttpEndpoint>() },
        Definition { file: "mcpservers.yaml", object: definition::<McpServer>() },
        Definition { file: "resiliency.yaml", object: definition::<Resiliency>() },
        Definition { file: "subscription.yaml", object: subscription() },
        Definition { file: "workflowaccesspolicy.yaml", object: definition::<WorkflowAccessPolicy>() },
    ]
}

/// A definition with one version.
fn definition<T>() -> Value
where
    T: Resource<DynamicType = ()> + JsonSchema,
{
    object::<T>(&[version::<T>(Storage::Stored)], None)
}

/// Both versions of Subscription; the older one is converted.
fn subscription() -> Value {
    let versions =
        [version::<v1alpha1::Subscription>(Storage::Converted), version::<v2alpha1::Subscription>(Storage::Stored)];
    object::<v2alpha1::Subscription>(&versions, Some(conversion()))
}

/// Whether objects are stored in a version.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Storage {
    Stored,
    Converted,
}

fn version<T>(storage: Storage) -> Value
where
    T: Resource<DynamicType = ()> + JsonSchema,
{
    json!({
        "name": T::version(&()),
        "schema": { "openAPIV3Schema": schema::root::<T>() },
        "served": true,
        "storage": storage == Storage::Stored,
    })
}

fn conversion() -> Value {
    json!({
        "strategy": "Webhook",
        "webhook": {
            "clientConfig": {
                // The operator writes its namespace and the CA bundle here.
                "service": { "namespace": "replaceme", "name": "dapr-webhook", "path": "/convert" },
            },
            "conversionReviewVersions": ["v1", "v2alpha1"],
        },
    })
}

fn object<T: Resource<DynamicType = ()>>(versions: &[Value], conversion: Option<Value>) -> Value {
    let kind = T::kind(&());
    let plural = T::plural(&());
    let mut spec = json!({
        "group": GROUP,
        "names": {
            "kind": kind,
            "listKind": format!("{kind}List"),
            "plural": plural,
            "singular": kind.to_lowercase(),
        },
        "scope": "Namespaced",
        "versions": versions,
    });
    if let Some(conversion) = conversion {
        spec["conversion"] = conversion;
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            "labels": { "app.kubernetes.io/part-of": "dapr" },
        },
        "spec": spec,
    })
}
