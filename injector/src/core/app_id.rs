//! Which app id a pod has, and whether Kubernetes can carry it.
//!
//! The id becomes part of the Service `<app-id>-dapr`, so that whole name must be a legal
//! DNS label. The texts of the refusals are upstream's.

use k8s_openapi::api::core::v1::Pod;

use super::annotations::APP_ID;

const MAX_LABEL: usize = 63;

/// An app id for which a Service can exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarAppId(String);

/// Why a pod's app id cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAppId {
    /// Neither annotation nor pod name.
    #[error("value for the dapr.io/app-id annotation is empty")]
    Empty,
    /// `<id>-dapr` is not a DNS label.
    #[error("invalid app id (input: '{id}', service: '{id}-dapr'): {}", reasons(id))]
    NotALabel {
        /// The id found.
        id: String,
    },
}

impl SidecarAppId {
    /// The app id of `pod`: its annotation if that is not empty, else its name.
    pub fn of(pod: &Pod) -> Result<Self, BadAppId> {
        let annotated = annotation(pod).filter(|id| !id.is_empty());
        let id = annotated.or(pod.metadata.name.as_deref()).unwrap_or_default();
        match id {
            "" => Err(BadAppId::Empty),
            id if too_long(id) || !is_label(id) => Err(BadAppId::NotALabel { id: id.to_owned() }),
            id => Ok(Self(id.to_owned())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id metrics speak of: the annotation if present, even empty, else the pod's name.
pub fn reported(pod: &Pod) -> &str {
    annotation(pod).or(pod.metadata.name.as_deref()).unwrap_or_default()
}

fn annotation(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(APP_ID).map(String::as_str)
}

fn too_long(id: &str) -> bool {
    id.len() + "-dapr".len() > MAX_LABEL
}

/// `id` starts `<id>-dapr`, so only its first character must not be a dash.
fn is_label(id: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !id.starts_with('-') && id.bytes().all(legal)
}

fn reasons(id: &str) -> String {
    let mut reasons = Vec::new();
    if too_long(id) {
        reasons.push("must be no more than 63 characters");
    }
    if !is_label(id) {
        reasons.push(concat!(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', ",
            "and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', ",
            "regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ));
    }
    reasons.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pod(annotation: Option<&str>, name: Option<&str>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = name.map(Into::into);
        pod.metadata.annotations = annotation.map(|id| BTreeMap::from([(APP_ID.to_owned(), id.to_owned())]));
        pod
    }

    #[test]
    fn the_annotation_wins_over_the_name_unless_it_is_empty() {
        let id = |a, n| SidecarAppId::of(&pod(a, n)).map(|id| id.0);
        assert_eq!(id(Some("cart"), Some("pod-0")).as_deref(), Ok("cart"));
        assert_eq!(id(Some(""), Some("pod-0")).as_deref(), Ok("pod-0"));
        assert_eq!(id(None, Some("pod-0")).as_deref(), Ok("pod-0"));
        assert_eq!(id(None, None), Err(BadAppId::Empty));
        assert_eq!(id(Some("ends-"), None).as_deref(), Ok("ends-"));
    }

    #[test]
    fn metrics_see_an_empty_annotation_as_it_is() {
        assert_eq!(reported(&pod(Some(""), Some("pod-0"))), "");
        assert_eq!(reported(&pod(None, Some("pod-0"))), "pod-0");
    }

    #[test]
    fn the_service_name_must_be_a_dns_label() {
        for bad in ["Cart", "a.b", "-a", "a_b", "ä"] {
            let refusal = SidecarAppId::of(&pod(Some(bad), None)).unwrap_err();
            assert_eq!(refusal, BadAppId::NotALabel { id: bad.to_owned() });
        }
        assert!(SidecarAppId::of(&pod(Some(&"a".repeat(58)), None)).is_ok());
        let long = SidecarAppId::of(&pod(Some(&"A".repeat(59)), None)).unwrap_err().to_string();
        assert!(long.contains("must be no more than 63 characters\na lowercase RFC 1123"), "{long}");
    }
}
