//! Which pods lack the sidecar they asked for (contract operator.md §10).
//!
//! Better than upstream in what it leaves alone: finished and terminating pods, and pods
//! nobody would create again.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};

use super::golang;

/// The label the injector puts on pods.
pub const INJECTED: &str = "dapr.io/sidecar-injected";
/// The label the watchdog puts on pods that have a sidecar without that label.
pub const PATCHED: &str = "dapr.io/watchdog-patched";
/// Selects pods with neither.
pub const CANDIDATES: &str = "!dapr.io/sidecar-injected,!dapr.io/watchdog-patched";
/// Selects the injector's Deployment.
pub const INJECTOR: &str = "app=dapr-sidecar-injector";

/// What to do about a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Leave,
    /// Label it: it has a sidecar.
    Label,
    /// Delete it, so that it comes back with a sidecar.
    Delete,
}

/// Whether pods that have a sidecar are labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labelling {
    /// Yes.
    On,
    /// No.
    Off,
}

/// Judges a candidate.
pub fn judge(pod: &Pod, labelling: Labelling) -> Verdict {
    let annotations = pod.metadata.annotations.as_ref();
    let enabled = annotations.and_then(|all| all.get("dapr.io/enabled")).map(String::as_str);
    let labels = pod.metadata.labels.as_ref();
    let is_labelled = [INJECTED, PATCHED].iter().any(|label| labels.is_some_and(|labels| labels.contains_key(*label)));
    if is_labelled || !golang::is_truthy(enabled.unwrap_or_default()) {
        return Verdict::Leave;
    }
    if has_sidecar(pod) {
        return match labelling {
            Labelling::On => Verdict::Label,
            Labelling::Off => Verdict::Leave,
        };
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_over = matches!(phase, Some("Succeeded" | "Failed"));
    let is_owned = pod.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
    if pod.metadata.deletion_timestamp.is_some() || is_over || !is_owned {
        return Verdict::Leave;
    }
    Verdict::Delete
}

fn has_sidecar(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    let native = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(native).any(|container| container.name == "daprd")
}

/// Whether an injector is there to give deleted pods a sidecar.
pub fn is_injector_ready(deployments: &[Deployment]) -> bool {
    deployments
        .first()
        .and_then(|deployment| deployment.status.as_ref()?.ready_replicas)
        .is_some_and(|ready| ready >= 1)
}

/// The time between two deletions, for a limit of deletions per minute.
pub fn pace(per_minute: i32) -> Option<Duration> {
    let per_minute = u32::try_from(per_minute).ok().filter(|limit| *limit > 0)?;
    Some(Duration::from_mins(1) / per_minute)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": { "name": "p", "annotations": { "dapr.io/enabled": "true" },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u" }] },
            "spec": { "containers": [{ "name": "app" }] },
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn an_enabled_pod_without_sidecar_is_deleted() {
        assert_eq!(judge(&pod(|_| {}), Labelling::Off), Verdict::Delete);
    }

    #[test]
    fn pods_that_would_not_come_back_or_are_over_are_left() {
        let leave: [fn(&mut Value); 5] = [
            |pod| pod["metadata"]["ownerReferences"] = json!([]),
            |pod| pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z"),
            |pod| pod["status"] = json!({ "phase": "Succeeded" }),
            |pod| pod["metadata"]["annotations"]["dapr.io/enabled"] = json!("no"),
            |pod| pod["metadata"]["labels"] = json!({ "dapr.io/sidecar-injected": "true" }),
        ];
        for change in leave {
            assert_eq!(judge(&pod(change), Labelling::On), Verdict::Leave);
        }
    }

    #[test]
    fn a_pod_with_a_sidecar_is_labelled_only_if_asked_for() {
        let with: [fn(&mut Value); 2] = [
            |pod| pod["spec"]["containers"] = json!([{ "name": "app" }, { "name": "daprd" }]),
            |pod| pod["spec"]["initContainers"] = json!([{ "name": "daprd" }]),
        ];
        for change in with {
            assert_eq!(judge(&pod(change), Labelling::On), Verdict::Label);
            assert_eq!(judge(&pod(change), Labelling::Off), Verdict::Leave);
        }
    }

    #[test]
    fn without_a_ready_injector_nothing_may_be_deleted() {
        let deployment = |ready: Option<i32>| -> Deployment {
            serde_json::from_value(json!({ "metadata": {}, "status": { "readyReplicas": ready } })).unwrap()
        };
        assert!(!is_injector_ready(&[]));
        assert!(!is_injector_ready(&[deployment(None)]));
        assert!(!is_injector_ready(&[deployment(Some(0)), deployment(Some(1))]));
        assert!(is_injector_ready(&[deployment(Some(1))]));
    }

    #[test]
    fn deletions_are_spaced_evenly_and_zero_means_no_limit() {
        assert_eq!(pace(20), Some(Duration::from_secs(3)));
        assert_eq!(pace(0), None);
        assert_eq!(pace(-1), None);
    }
}
