//! A Kubernetes object with its bytes kept and only its name read.
//!
//! Decoding one never fails for its content, so one bad object cannot break a list or a
//! watch for the others; and the values in it keep the API server's spelling.

use identity::Namespace;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{core::wire::ObjectKey, dynamic_resource::dynamic_resource};

/// An object as the API server sent it.
#[derive(Debug, Clone)]
pub struct RawObject {
    meta: ObjectMeta,
    json: Box<RawValue>,
}

#[derive(Default, Deserialize)]
struct Head {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    uid: Option<String>,
}

impl RawObject {
    /// Its JSON.
    pub fn json(&self) -> &str {
        self.json.get()
    }

    /// Its name, if it has one and a legal namespace.
    pub fn key(&self) -> Option<ObjectKey> {
        Some(ObjectKey {
            namespace: Namespace::parse(self.meta.namespace.as_deref()?).ok()?,
            name: self.meta.name.clone()?,
        })
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        let Head { metadata } = serde_json::from_str(json.get()).unwrap_or_default();
        Ok(Self {
            meta: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                resource_version: metadata.resource_version,
                uid: metadata.uid,
                ..ObjectMeta::default()
            },
            json,
        })
    }
}

dynamic_resource!(RawObject);

#[cfg(test)]
mod tests {
    use kube::{api::WatchEvent, core::ObjectList};

    use super::*;

    const OBJECT: &str = r#"{"metadata":{"name":"a","namespace":"n","labels":5},"spec":{"v":1.50,"t":"\u003c"}}"#;

    #[test]
    fn lists_and_watches_keep_the_bytes() {
        let list = format!(r#"{{"kind":"L","apiVersion":"v1","metadata":{{}},"items":[{OBJECT}]}}"#);
        let list: ObjectList<RawObject> = serde_json::from_str(&list).unwrap();
        assert_eq!(list.items[0].json(), OBJECT);
        let event = format!(r#"{{"type":"ADDED","object":{OBJECT}}}"#);
        let WatchEvent::Added(object) = serde_json::from_str::<WatchEvent<RawObject>>(&event).unwrap() else {
            panic!("it is an addition");
        };
        assert_eq!(object.json(), OBJECT);
        assert_eq!(object.key().unwrap().to_string(), "n/a");
    }

    #[test]
    fn an_object_with_odd_metadata_decodes_and_has_no_name() {
        let object: RawObject = serde_json::from_str(r#"{"metadata":{"name":5}}"#).unwrap();
        assert_eq!(object.key(), None);
    }
}
