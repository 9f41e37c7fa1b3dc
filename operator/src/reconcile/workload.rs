//! A Deployment, StatefulSet or Rollout, of which only what its Service needs is kept.

use std::collections::BTreeMap;

use kube::api::{ApiResource, ObjectMeta};
use serde::{Deserialize, Deserializer};

use crate::{core::service::Workload, dynamic_resource::dynamic_resource};

/// A workload as a controller keeps it.
#[derive(Debug, Clone, Default)]
pub struct WorkloadObject {
    meta: ObjectMeta,
    match_labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    selector: Selector,
    #[serde(default)]
    template: Template,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    match_labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct Template {
    #[serde(default)]
    metadata: TemplateMetadata,
}

#[derive(Default, Deserialize)]
struct TemplateMetadata {
    annotations: Option<BTreeMap<String, String>>,
}

impl WorkloadObject {
    /// The workload, as the core sees it.
    pub fn workload(&self, resource: &ApiResource) -> Workload {
        Workload {
            api_version: resource.api_version.clone(),
            kind: resource.kind.clone(),
            name: self.meta.name.clone().unwrap_or_default(),
            namespace: self.meta.namespace.clone().unwrap_or_default(),
            uid: self.meta.uid.clone().unwrap_or_default(),
            is_deleted: self.meta.deletion_timestamp.is_some(),
            match_labels: self.match_labels.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for WorkloadObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Stored { metadata, spec } = Stored::deserialize(deserializer)?;
        let mut annotations = spec.template.metadata.annotations.unwrap_or_default();
        annotations.retain(|key, _| key.starts_with("dapr.io/"));
        let is_ours = !annotations.is_empty();
        Ok(Self {
            meta: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                resource_version: metadata.resource_version,
                generation: metadata.generation,
                deletion_timestamp: metadata.deletion_timestamp,
                ..ObjectMeta::default()
            },
            match_labels: spec.selector.match_labels.filter(|_| is_ours).unwrap_or_default(),
            annotations,
        })
    }
}

dynamic_resource!(WorkloadObject);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_service_needs_is_kept() {
        let json = serde_json::json!({
            "metadata": { "name": "w", "namespace": "n", "uid": "u", "labels": { "a": "b" },
                "managedFields": [{}] },
            "spec": { "selector": { "matchLabels": { "app": "w" } }, "template": {
                "metadata": { "annotations": { "dapr.io/app-id": "w", "other": "x" } },
                "spec": { "containers": [{}] } } },
            "status": { "replicas": 1 },
        });
        let object: WorkloadObject = serde_json::from_value(json).unwrap();
        assert_eq!(object.annotations.keys().collect::<Vec<_>>(), ["dapr.io/app-id"]);
        assert_eq!(object.meta.labels, None);
        assert_eq!(object.match_labels["app"], "w");
    }

    #[test]
    fn a_workload_without_dapr_annotations_shrinks_to_its_name() {
        let json = serde_json::json!({
            "metadata": { "name": "w" },
            "spec": { "selector": { "matchLabels": { "app": "w" } }, "template": { "metadata": {} } },
        });
        let object: WorkloadObject = serde_json::from_value(json).unwrap();
        assert!(object.match_labels.is_empty() && object.annotations.is_empty());
    }
}
