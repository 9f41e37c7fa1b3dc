//! Pods as a cluster has them: of a Deployment, running, with managed fields, some with a sidecar.

use serde_json::{Value, json};

/// Namespaces that the pods are spread over.
const NAMESPACES: usize = 20;
/// As long as an Ed25519 root in PEM.
const ANCHORS_LENGTH: usize = 600;

/// A pod and its JSON.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub account: String,
    /// The Dapr app id, if it has a sidecar.
    pub app_id: Option<String>,
    /// The whole object.
    pub json: String,
    /// Only its metadata.
    pub metadata_json: String,
}

/// `all` pods; `dapr` of them, spread evenly, have a sidecar.
pub fn pods(all: usize, dapr: usize) -> Vec<Pod> {
    (0..all).map(|number| pod(number, (number * dapr) % all.max(1) < dapr)).collect()
}

fn pod(number: usize, is_dapr: bool) -> Pod {
    let app = format!("application-{number}");
    let name = format!("{app}-5d8f7c9b6d-x{number:04x}");
    let namespace = format!("team-{}", number % NAMESPACES);
    let account = "default".to_owned();
    let app_id = is_dapr.then(|| app.clone());
    let metadata = metadata(&app, &name, &namespace, is_dapr);
    let whole = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec(&app, &account, is_dapr),
        "status": status(number, is_dapr),
    });
    let metadata = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
    Pod { name, namespace, account, app_id, json: whole.to_string(), metadata_json: metadata.to_string() }
}

fn metadata(app: &str, name: &str, namespace: &str, is_dapr: bool) -> Value {
    let mut annotations = json!({"prometheus.io/scrape": "true", "prometheus.io/port": "8080"});
    if is_dapr {
        for (key, value) in [("enabled", "true"), ("app-id", app), ("app-port", "8080"), ("log-as-json", "true")] {
            annotations[format!("dapr.io/{key}")] = json!(value);
        }
    }
    let field = |manager: &str| {
        let env = json!({".": {}, "f:name": {}, "f:value": {}});
        let container = json!({
            ".": {}, "f:env": {".": {}, "k:{\"name\":\"A\"}": env, "k:{\"name\":\"B\"}": env}, "f:image": {},
            "f:imagePullPolicy": {}, "f:name": {}, "f:ports": {".": {}}, "f:resources": {".": {}, "f:limits": {}},
            "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}, "f:volumeMounts": {".": {}},
        });
        json!({
            "manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:annotations": {".": {}}, "f:generateName": {}, "f:labels": {".": {}, "f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"app\"}": container}, "f:dnsPolicy": {}, "f:restartPolicy": {}},
            },
        })
    };
    json!({
        "name": name, "namespace": namespace, "generateName": format!("{app}-5d8f7c9b6d-"),
        "uid": format!("00000000-0000-4000-8000-{:012x}", name.len()), "resourceVersion": "999",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"app": app, "pod-template-hash": "5d8f7c9b6d", "team": namespace},
        "annotations": annotations,
        "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-5d8f7c9b6d"),
            "uid": "00000000-0000-4000-8000-000000000002", "controller": true, "blockOwnerDeletion": true,
        }],
        "managedFields": [field("kube-controller-manager"), field("kubelet")],
    })
}

fn spec(app: &str, account: &str, is_dapr: bool) -> Value {
    let env = |count: usize| -> Vec<Value> {
        (0..count).map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value-{n}-of-{app}")})).collect()
    };
    let mount = json!({
        "name": "kube-api-access", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    });
    let container = |name: &str, env: Vec<Value>| {
        json!({
            "name": name, "image": format!("registry.example.com/{name}:1.0.0"), "imagePullPolicy": "IfNotPresent",
            "env": env, "ports": [{"containerPort": 8080, "protocol": "TCP"}], "volumeMounts": [mount],
            "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        })
    };
    let mut containers = vec![container("app", env(12))];
    if is_dapr {
        let mut sidecar = env(8);
        let anchors =
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", "A".repeat(ANCHORS_LENGTH));
        sidecar.push(json!({"name": "DAPR_TRUST_ANCHORS", "value": anchors}));
        containers.push(container("daprd", sidecar));
    }
    json!({
        "containers": containers, "serviceAccountName": account, "serviceAccount": account, "nodeName": "node-1",
        "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "priority": 0,
        "terminationGracePeriodSeconds": 30, "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
        "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        ],
        "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        ]}}],
    })
}

fn status(number: usize, is_dapr: bool) -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-01T00:00:10Z"});
    let container = |name: &str| {
        json!({
            "name": name, "ready": true, "started": true, "restartCount": 0,
            "image": format!("registry.example.com/{name}:1.0.0"),
            "imageID": format!("registry.example.com/{name}@sha256:{}", "0123456789abcdef".repeat(4)),
            "containerID": format!("containerd://{}", "fedcba9876543210".repeat(4)),
            "state": {"running": {"startedAt": "2026-01-01T00:00:05Z"}}, "lastState": {},
        })
    };
    let names: &[&str] = if is_dapr { &["app", "daprd"] } else { &["app"] };
    let conditions =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({
        "phase": "Running", "qosClass": "Burstable", "startTime": "2026-01-01T00:00:01Z", "hostIP": "10.0.0.1",
        "podIP": format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255),
        "conditions": conditions,
        "containerStatuses": names.iter().map(|name| container(name)).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_pods_as_asked_for_have_a_sidecar() {
        let all = pods(1000, 100);
        assert_eq!((all.len(), all.iter().filter(|pod| pod.app_id.is_some()).count()), (1000, 100));
        let sidecars = all.iter().filter(|pod| pod.json.contains("DAPR_TRUST_ANCHORS")).count();
        assert_eq!(sidecars, 100);
    }

    #[test]
    fn a_pod_is_as_large_as_a_real_one() {
        let all = pods(100, 10);
        assert!(all.iter().all(|pod| (4 << 10..20 << 10).contains(&pod.json.len())), "{}", all[1].json.len());
    }
}
