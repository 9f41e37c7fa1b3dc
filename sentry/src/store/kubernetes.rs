//! The bundle in the Secret `dapr-trust-bundle`, with its public half in the ConfigMap of the
//! same name. Both must exist; sentry never creates or deletes them. Other keys are kept.

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Pod, Secret},
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

use super::{ItemNames, NEXT_CHAIN, NEXT_KEY, ROTATION_STATE, Read, Revision, StoreError};
use crate::core::{
    decide::{PublicCopy, Snapshot},
    rotation::Items,
};

/// The name of both objects.
pub const TRUST_BUNDLE: &str = "dapr-trust-bundle";
/// The annotation of the Secret by which a user allows running replicas to let go of a CA
/// whose three values were emptied.
const RESET: &str = "dapr.io/ca-reset";

/// The annotation of the Secret by which a user drives a change of the root.
const ROTATION: &str = "dapr.io/ca-rotation";

/// The name under which fields are written.
const FIELD_MANAGER: &str = "dapr-sentry";
/// Field managers that are sentries: this one, upstream's, and a client that gives no name.
const SENTRIES: [&str; 3] = [FIELD_MANAGER, "sentry", "unknown"];

/// Both objects as read.
#[derive(Debug)]
pub struct Objects {
    secret: Secret,
    config_map: ConfigMap,
}

impl Objects {
    /// The version of the Secret.
    pub fn secret_version(&self) -> Option<&str> {
        self.secret.metadata.resource_version.as_deref()
    }
}

/// Reads and writes the two objects.
#[derive(Clone)]
pub struct KubeStore {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    pods: Api<Pod>,
    names: ItemNames,
}

impl std::fmt::Debug for KubeStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeStore").field("names", &self.names).finish_non_exhaustive()
    }
}

impl KubeStore {
    /// Works in `namespace`, with the given keys.
    pub fn new(client: &Client, namespace: &str, names: ItemNames) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            names,
        }
    }

    pub(super) async fn read(&self) -> Result<Read, StoreError> {
        let secret = self.secrets.get(TRUST_BUNDLE).await.map_err(|error| failed("get", "secret", error))?;
        let config_map = self.config_maps.get(TRUST_BUNDLE).await.map_err(|error| failed("get", "configmap", error))?;
        let data = secret.data.as_ref();
        let value = |name: &str| data.and_then(|data| data.get(name)).map_or_else(Vec::new, |value| value.0.clone());
        let annotations = secret.metadata.annotations.as_ref();
        let annotation = |name: &str| annotations.and_then(|annotations| annotations.get(name));
        let public = |name: &str| {
            let value = config_map.data.as_ref().and_then(|data| data.get(name));
            value.map_or_else(Vec::new, |value| value.clone().into_bytes())
        };
        let snapshot = Snapshot {
            anchors: value(&self.names.anchors),
            chain: value(&self.names.chain),
            key: value(&self.names.key),
            jwt_key: value(&self.names.jwt_key),
            jwks: value(&self.names.jwks),
            reset: annotation(RESET).is_some_and(|value| value == "true"),
            given: written_by_others(&secret.metadata, &self.names.anchors),
            rotation: Items {
                state: value(ROTATION_STATE),
                next_chain: value(NEXT_CHAIN),
                next_key: value(NEXT_KEY),
                command: annotation(ROTATION).cloned(),
            },
            copy: Some(PublicCopy { anchors: public(&self.names.anchors), jwks: public(&self.names.jwks) }),
        };
        let revision = Revision::Kubernetes(Box::new(Objects { secret, config_map }));
        Ok(Read { snapshot, revision })
    }

    /// Whether a ready sentry pod exists. The one that asks is not ready yet. Where pods may
    /// not be listed, nobody is seen.
    pub(super) async fn another_replica_runs(&self) -> bool {
        let sentries = ListParams::default().labels("app=dapr-sentry").limit(50);
        match self.pods.list(&sentries).await {
            Ok(pods) => pods.iter().any(is_ready),
            Err(error) => {
                tracing::debug!(%error, "other sentry pods cannot be listed");
                false
            }
        }
    }

    pub(super) async fn write(&self, next: &Snapshot, objects: Objects) -> Result<(), StoreError> {
        let mut secret = objects.secret;
        // What was asked for once and is done with this write.
        if let Some(annotations) = &mut secret.metadata.annotations {
            if !next.reset {
                annotations.remove(RESET);
            }
            if next.rotation.command.is_none() {
                annotations.remove(ROTATION);
            }
        }
        let data = secret.data.get_or_insert_default();
        for (name, value) in self.names.each(next) {
            if !value.is_empty() {
                data.insert(name.to_owned(), ByteString(value.clone()));
            }
        }
        let rotation = &next.rotation;
        for (name, value) in
            [(ROTATION_STATE, &rotation.state), (NEXT_CHAIN, &rotation.next_chain), (NEXT_KEY, &rotation.next_key)]
        {
            if value.is_empty() {
                data.remove(name);
            } else {
                data.insert(name.to_owned(), ByteString(value.clone()));
            }
        }
        // The resource version that was read travels along: a faster writer makes this fail.
        self.secrets
            .replace(TRUST_BUNDLE, &as_sentry(), &secret)
            .await
            .map(|_| ())
            .map_err(|error| failed("update", "secret", error))
    }

    pub(super) async fn write_copy(&self, copy: &PublicCopy, objects: Objects) -> Result<(), StoreError> {
        let mut config_map = objects.config_map;
        let data = config_map.data.get_or_insert_default();
        for (name, value) in [(&self.names.anchors, &copy.anchors), (&self.names.jwks, &copy.jwks)] {
            if value.is_empty() {
                data.remove(name);
            } else {
                data.insert(name.clone(), String::from_utf8_lossy(value).into_owned());
            }
        }
        self.config_maps
            .replace(TRUST_BUNDLE, &as_sentry(), &config_map)
            .await
            .map(|_| ())
            .map_err(|error| failed("update", "configmap", error))
    }
}

fn as_sentry() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }
}

/// Whether a manager that is no sentry owns the value `key`: Helm would write it again at the
/// next upgrade.
fn written_by_others(metadata: &ObjectMeta, key: &str) -> bool {
    let field = format!("f:{key}");
    let owns = |entry: &&ManagedFieldsEntry| {
        entry
            .fields_v1
            .as_ref()
            .is_some_and(|fields| fields.0.get("f:data").is_some_and(|data| data.get(&field).is_some()))
    };
    let mut owners = metadata.managed_fields.iter().flatten().filter(owns);
    owners.any(|entry| !entry.manager.as_deref().is_some_and(|manager| SENTRIES.contains(&manager)))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn failed(verb: &'static str, kind: &str, error: kube::Error) -> StoreError {
    let object = format!("{kind} {TRUST_BUNDLE}");
    match &error {
        kube::Error::Api(status) if status.code == 404 => StoreError::Missing { object },
        kube::Error::Api(status) if status.code == 409 => StoreError::Conflict { object },
        _ => StoreError::Api { verb, object, source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_that_helm_or_a_user_wrote_are_told_from_a_sentrys() {
        let written = |managers: &[&str], key: &str| {
            let entries: Vec<_> = managers
                .iter()
                .map(|manager| json!({"manager": manager, "fieldsV1": {"f:data": {".": {}, "f:ca.crt": {}}, "f:metadata": {}}}))
                .collect();
            written_by_others(&serde_json::from_value(json!({"managedFields": entries})).unwrap(), key)
        };
        assert!(written(&["helm"], "ca.crt") && written(&["sentry", "kubectl-edit"], "ca.crt"));
        assert!(!written(&["sentry", "dapr-sentry", "unknown"], "ca.crt"));
        assert!(!written(&["helm"], "root.pem"), "an object that Helm made without values");
        assert!(!written_by_others(&ObjectMeta::default(), "ca.crt"));
    }
}
