//! WorkflowAccessPolicy: which apps may do what with the workflows and activities of others.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::{or_default, resource, texts};

/// Grants apps the use of workflows and activities of the apps in `scopes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkflowAccessPolicy {
    /// `dapr.io/v1alpha1`.
    #[schemars(skip)]
    pub api_version: String,
    /// `WorkflowAccessPolicy`.
    #[schemars(skip)]
    pub kind: String,
    /// Name, namespace, annotations.
    #[schemars(skip)]
    pub metadata: ObjectMeta,
    /// The grants; without any, every other app is denied.
    #[serde(deserialize_with = "or_default")]
    pub spec: WorkflowAccessPolicySpec,
    /// App IDs that enforce it; empty means every app of the namespace.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(WorkflowAccessPolicy, "WorkflowAccessPolicy", "v1alpha1", "workflowaccesspolicies");

/// The grants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WorkflowAccessPolicySpec {
    /// Each rule grants; a call that no rule grants is denied.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// Grants callers the use of workflows and activities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(has(self.workflows) && size(self.workflows) > 0) || (has(self.activities) && size(self.activities) > 0)",
    "message": "at least one of workflows or activities must contain a rule",
}]))]
pub struct Rule {
    /// The apps that are granted it.
    #[schemars(length(min = 1))]
    pub callers: Vec<Caller>,
    /// Workflows and what may be done with them.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub workflows: Vec<WorkflowRule>,
    /// Activities that may be scheduled.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub activities: Vec<ActivityRule>,
}

/// An app that calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Caller {
    /// Its app ID.
    #[serde(rename = "appID")]
    #[schemars(length(min = 1))]
    pub app_id: String,
}

/// Operations on workflows of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowRule {
    /// Name or glob.
    #[schemars(length(min = 1))]
    pub name: String,
    /// What is granted.
    #[schemars(length(min = 1), extend("x-kubernetes-list-type" = "set"))]
    pub operations: Vec<Operation>,
}

/// Scheduling of activities of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActivityRule {
    /// Name or glob.
    #[schemars(length(min = 1))]
    pub name: String,
}

texts! {
    /// What can be done with a workflow.
    Operation {
        /// Start one.
        Schedule = "schedule",
        /// End one.
        Terminate = "terminate",
        /// Raise an event.
        Raise = "raise",
        /// Hold one.
        Pause = "pause",
        /// Continue one.
        Resume = "resume",
        /// Delete its state.
        Purge = "purge",
        /// Read its state.
        Get = "get",
        /// Run one again from a step.
        Rerun = "rerun",
    }
}
