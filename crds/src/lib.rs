//! The seven custom resources of the API group `dapr.io`, as the API server keeps them.
//!
//! The types say what the chart's definitions (`charts/dapr/crds/`) contain: `definition` turns
//! them into CustomResourceDefinitions, and the binary `crdgen` writes the files. What upstream's
//! definitions accept, these accept too; `tests/differences.yaml` lists where they differ.
//!
//! Reading is lenient as the contract asks: `null` counts as absent, unknown fields are ignored,
//! dynamic values keep the bytes they were written with.

pub mod component;
pub mod configuration;
pub mod definition;
pub mod dynamic_value;
pub mod http_endpoint;
pub mod mcp_server;
pub mod name_value_pair;
pub mod resiliency;
mod resource;
mod schema;
pub mod subscription;
pub mod workflow_access_policy;

pub use component::Component;
pub use configuration::Configuration;
pub use definition::{Definition, definitions};
pub use dynamic_value::DynamicValue;
pub use http_endpoint::HttpEndpoint;
pub use mcp_server::McpServer;
pub use name_value_pair::{Auth, NameValuePair, SecretKeyRef};
pub use resiliency::Resiliency;
pub use workflow_access_policy::WorkflowAccessPolicy;
