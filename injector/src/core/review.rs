//! The admission review: what is read of it, whether the pod is ours to change, the answer.
//!
//! A review is answered in the API version it came in, whatever that is. The order of the
//! tests in [`Request::gate`] is contract (injector.md §4): a pod that does not ask for a sidecar is
//! let through before anyone looks at who sent it.

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    annotations::Enabled,
    app_id,
    callers::{Callers, Requester},
    patch::Patch,
};

/// Kubernetes cuts longer warnings off.
const MAX_WARNING: usize = 256;
/// Kubernetes allows 4096 bytes of warnings in all.
const MAX_WARNINGS: usize = 16;

/// What is read of an AdmissionReview.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    api_version: Option<String>,
    kind: Option<String>,
    /// The question.
    pub request: Option<Request>,
}

/// What is read of the question.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Request {
    uid: Option<String>,
    kind: Option<Kind>,
    namespace: Option<String>,
    user_info: Option<Requester>,
    object: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Kind {
    kind: Option<String>,
}

/// Whether a request is one for a sidecar.
#[derive(Debug)]
pub enum Gate {
    /// The pod gets a plan.
    Plan(Box<Pod>),
    /// The pod is let through as it is.
    Pass(Pass),
    /// The object cannot be read.
    Unreadable(UnreadableObject),
}

/// Why the object of a request cannot be read as a pod.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableObject {
    /// There is none; the text is upstream's.
    #[error("unexpected end of JSON input")]
    Missing,
    /// It is no pod.
    #[error(transparent)]
    Malformed(serde_json::Error),
}

/// Why a pod is let through as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pass {
    /// It is no pod.
    NotAPod {
        /// What it is.
        kind: String,
    },
    /// It does not ask for a sidecar.
    NotEnabled,
    /// It says yes, but not `true`.
    AlmostEnabled {
        /// What it says.
        found: String,
    },
    /// Its creator is not on the list.
    UnlistedRequester {
        /// Who that is.
        username: String,
    },
}

impl Pass {
    /// What the requester should know.
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::NotAPod { .. } | Self::NotEnabled => None,
            Self::AlmostEnabled { found } => Some(format!(
                "no Dapr sidecar was injected: the annotation dapr.io/enabled is {found:?}, only \"true\" enables injection"
            )),
            Self::UnlistedRequester { username } => Some(format!(
                "no Dapr sidecar was injected: {username:?} is not allowed to have sidecars injected \
                 (add it to the injector's ALLOWED_SERVICE_ACCOUNTS, or create the pod by a controller)"
            )),
        }
    }

    /// Whether this counts as a failed injection.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::NotAPod { .. } | Self::UnlistedRequester { .. } => true,
            Self::NotEnabled | Self::AlmostEnabled { .. } => false,
        }
    }
}

impl Review {
    /// Reads a review.
    pub fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// The answer `verdict` to this review.
    pub fn answer(&self, verdict: Verdict) -> Answer {
        let uid = self.request.as_ref().and_then(|request| request.uid.clone()).unwrap_or_default();
        Answer { kind: self.kind.clone(), api_version: self.api_version.clone(), response: Response::new(uid, verdict) }
    }
}

impl Request {
    /// The namespace the pod is created in.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// Whether this is a pod, asks for a sidecar, and was sent by someone who may ask.
    pub fn gate(&self, callers: &Callers) -> Gate {
        let kind = self.kind.as_ref().and_then(|kind| kind.kind.as_deref()).unwrap_or_default();
        if kind != "Pod" {
            return Gate::Pass(Pass::NotAPod { kind: kind.to_owned() });
        }
        let pod = self.pod();
        match pod.as_ref().map(Enabled::of) {
            Ok(Enabled::No) => return Gate::Pass(Pass::NotEnabled),
            Ok(Enabled::Almost(found)) => {
                return Gate::Pass(Pass::AlmostEnabled { found: found.to_owned() });
            }
            Ok(Enabled::Yes) | Err(_) => {}
        }
        let nobody = Requester::default();
        let requester = self.user_info.as_ref().unwrap_or(&nobody);
        if !callers.allow(requester) {
            let username = requester.username.clone().unwrap_or_default();
            return Gate::Pass(Pass::UnlistedRequester { username });
        }
        match pod {
            Ok(pod) => Gate::Plan(Box::new(pod)),
            Err(error) => Gate::Unreadable(error),
        }
    }

    /// The app id for logs and metrics; empty if the object is not readable.
    pub fn reported_app_id(&self) -> String {
        self.pod().map(|pod| app_id::reported(&pod).to_owned()).unwrap_or_default()
    }

    fn pod(&self) -> Result<Pod, UnreadableObject> {
        let object = self.object.as_ref().ok_or(UnreadableObject::Missing)?;
        serde_json::from_str(object.get()).map_err(UnreadableObject::Malformed)
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Allowed, unchanged.
    Pass {
        /// What the requester should know.
        warnings: Vec<String>,
    },
    /// Allowed, with a patch.
    Patch {
        /// The patch.
        patch: Patch,
        /// What the requester should know.
        warnings: Vec<String>,
    },
    /// Denied.
    Deny {
        /// Why.
        message: String,
    },
}

/// An AdmissionReview with a response.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<String>,
    response: Response,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    metadata: Empty,
    message: String,
}

#[derive(Debug, Serialize)]
struct Empty {}

impl Answer {
    /// The answer to something that could not even be read as a review.
    pub fn unreadable(error: &serde_json::Error) -> Self {
        let verdict = Verdict::Deny { message: format!("could not decode the admission review: {error}") };
        Self { kind: None, api_version: None, response: Response::new(String::new(), verdict) }
    }

    /// The body of the HTTP answer.
    #[expect(clippy::missing_panics_doc, reason = "plain JSON can always be written")]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an answer holds text, flags and lists of text only")
    }
}

impl Response {
    fn new(uid: String, verdict: Verdict) -> Self {
        let allowed = Self { uid, allowed: true, status: None, patch: None, patch_type: None, warnings: Vec::new() };
        match verdict {
            Verdict::Pass { warnings } => Self { warnings: shortened(warnings), ..allowed },
            Verdict::Patch { patch, warnings } if patch.is_empty() => Self { warnings: shortened(warnings), ..allowed },
            Verdict::Patch { patch, warnings } => Self {
                patch: Some(patch.to_base64()),
                patch_type: Some("JSONPatch"),
                warnings: shortened(warnings),
                ..allowed
            },
            Verdict::Deny { message } => {
                Self { allowed: false, status: Some(Status { metadata: Empty {}, message }), ..allowed }
            }
        }
    }
}

fn shortened(warnings: Vec<String>) -> Vec<String> {
    let cut = |warning: String| match warning.char_indices().nth(MAX_WARNING) {
        Some((end, _)) => warning[..end].to_owned(),
        None => warning,
    };
    warnings.into_iter().take(MAX_WARNINGS).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(kind: &str, enabled: Option<&str>, user: &str) -> Request {
        let annotations = enabled.map(|value| json!({"dapr.io/enabled": value}));
        serde_json::from_value(json!({
            "uid": "u-1",
            "kind": {"kind": kind},
            "userInfo": {"username": user},
            "object": {"metadata": {"annotations": annotations}},
        }))
        .unwrap()
    }

    fn callers() -> Callers {
        Callers::new(Vec::new())
    }

    const CONTROLLER: &str = "system:serviceaccount:kube-system:replicaset-controller";

    #[test]
    fn only_an_enabled_pod_of_a_listed_requester_gets_a_plan() {
        let gate = |kind, enabled, user| request(kind, enabled, user).gate(&callers());
        assert!(matches!(gate("Pod", Some("True"), CONTROLLER), Gate::Plan(_)));
        assert!(matches!(gate("Pod", None, "someone"), Gate::Pass(Pass::NotEnabled)));
        assert!(matches!(gate("Pod", Some("false"), "someone"), Gate::Pass(Pass::NotEnabled)));
        assert!(matches!(gate("Pod", Some("true"), "someone"), Gate::Pass(Pass::UnlistedRequester { .. })));
        assert!(matches!(gate("Service", Some("true"), CONTROLLER), Gate::Pass(Pass::NotAPod { .. })));
    }

    #[test]
    fn an_unlisted_requester_and_an_almost_enabled_pod_are_told_why() {
        let warning = |enabled, user| match request("Pod", Some(enabled), user).gate(&callers()) {
            Gate::Pass(pass) => pass.warning(),
            gate => panic!("{gate:?}"),
        };
        assert!(warning("true", "someone").unwrap().contains("\"someone\" is not allowed"));
        assert!(warning("yes", CONTROLLER).unwrap().contains("dapr.io/enabled is \"yes\""));
        assert_eq!(warning("false", "someone"), None);
    }

    #[test]
    fn a_missing_object_is_refused_only_after_the_requester_was_checked() {
        let mut missing = request("Pod", None, CONTROLLER);
        missing.object = None;
        assert!(matches!(missing.gate(&callers()), Gate::Unreadable(_)));
        missing.user_info = None;
        assert!(matches!(missing.gate(&callers()), Gate::Pass(Pass::UnlistedRequester { .. })));
        let null: Request = serde_json::from_value(
            json!({"kind": {"kind": "Pod"}, "userInfo": {"username": CONTROLLER}, "object": null}),
        )
        .unwrap();
        assert!(matches!(null.gate(&callers()), Gate::Unreadable(_)));
    }

    #[test]
    fn the_answer_repeats_version_kind_and_uid() {
        let review = |text: &str| Review::parse(text.as_bytes()).unwrap();
        let answer =
            |review: Review, verdict| -> Value { serde_json::from_slice(&review.answer(verdict).to_json()).unwrap() };
        let pass = || Verdict::Pass { warnings: Vec::new() };
        assert_eq!(
            answer(
                review(r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"u"}}"#),
                pass()
            ),
            json!({"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","response":{"uid":"u","allowed":true}})
        );
        assert_eq!(answer(review("{}"), pass()), json!({"response":{"uid":"","allowed":true}}));
        let deny = Verdict::Deny { message: "no".to_owned() };
        assert_eq!(
            answer(review(r#"{"request":{"uid":"u"}}"#), deny),
            json!({"response":{"uid":"u","allowed":false,"status":{"metadata":{},"message":"no"}}})
        );
    }

    #[test]
    fn long_warnings_are_cut_where_kubernetes_would() {
        let warnings = vec!["ä".repeat(300); 40];
        let cut = shortened(warnings);
        assert_eq!(cut.len(), MAX_WARNINGS);
        assert_eq!(cut[0].chars().count(), MAX_WARNING);
    }
}
