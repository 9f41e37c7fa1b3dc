//! The user's values: below a parent chart and directly, each key with its effect.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::render::{
    Objects, acceptance_values, arguments, chart_folder, container, object, refusal, render, render_chart, variable,
};

fn accepted() -> Objects {
    render(&["--values", acceptance_values().to_str().unwrap()])
}

#[test]
fn the_users_values_mean_the_same_below_a_parent_chart_and_directly() {
    let parent = tempfile::tempdir().unwrap();
    fs::write(
        parent.path().join("Chart.yaml"),
        "apiVersion: v2\nname: parent\nversion: 0.1.0\ndependencies:\n- name: dapr\n  version: 1.18.3\n",
    )
    .unwrap();
    copy(&chart_folder(), &parent.path().join("charts/dapr"));
    let below = render_chart(parent.path(), &["--values", acceptance_values().to_str().unwrap()]);
    assert_eq!(below, accepted());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[test]
fn replicas_count_also_when_ha_is_on() {
    let objects = accepted();
    assert_eq!(object(&objects, "Deployment", "dapr-operator")["spec"]["replicas"], 2);
    assert_eq!(object(&objects, "Deployment", "dapr-sentry")["spec"]["replicas"], 2);
    assert_eq!(object(&objects, "Deployment", "dapr-sidecar-injector")["spec"]["replicas"], 3);
    assert_eq!(object(&objects, "StatefulSet", "dapr-placement-server")["spec"]["replicas"], 3);
}

#[test]
fn placements_replicas_are_its_peers() {
    for (count, ha) in [(1, "true"), (3, "false"), (5, "true")] {
        let replicas = format!("dapr_placement.replicas={count}");
        let objects = render(&["--set", &replicas, "--set", &format!("global.ha.enabled={ha}")]);
        assert_eq!(object(&objects, "StatefulSet", "dapr-placement-server")["spec"]["replicas"], count);
        let arguments = arguments(container(&objects, "dapr-placement-server"));
        let at = arguments.iter().position(|text| text == "--initial-cluster").unwrap();
        let peers: Vec<_> = arguments[at + 1].split(',').collect();
        assert_eq!(peers.len(), count);
        assert_eq!(
            *peers.last().unwrap(),
            format!(
                "dapr-placement-server-{n}=dapr-placement-server-{n}.dapr-placement-server.dapr-system.svc.cluster.local:8201",
                n = count - 1
            )
        );
        assert!(arguments.contains(&"--raft-logstore-path".to_owned()));
    }
}

#[test]
fn the_trust_domain_takes_effect_everywhere() {
    let objects = accepted();
    let domain = "fuse.openova.io";
    let system = object(&objects, "Configuration", "daprsystem");
    assert_eq!(system["spec"]["mtls"]["controlPlaneTrustDomain"], domain);
    assert!(arguments(container(&objects, "dapr-sentry")).windows(2).any(|pair| pair == ["--trust-domain", domain]));
    for name in ["dapr-placement-server", "dapr-scheduler-server"] {
        assert!(arguments(container(&objects, name)).contains(&format!("--trust-domain={domain}")), "{name}");
    }
    let injector = container(&objects, "dapr-sidecar-injector");
    assert_eq!(variable(injector, "DAPR_CONTROL_PLANE_TRUST_DOMAIN"), Some(domain));
    let text = serde_json::to_string(&objects.values().collect::<Vec<_>>()).unwrap();
    assert_eq!(text.matches("spiffe://fuse.openova.io/ns/dapr-system/dapr-sentry").count(), 4, "token audiences");
    assert!(!text.contains("spiffe://cluster.local"));
}

#[test]
fn resources_of_sidecars_do_not_leak_into_the_injectors_own() {
    let objects = accepted();
    let injector = container(&objects, "dapr-sidecar-injector");
    assert_eq!(injector["resources"], json!({}));
    let sidecar: Value =
        serde_json::from_str(variable(injector, "DAPRCP_INJECTOR_SIDECAR_RESOURCES").unwrap()).unwrap();
    assert_eq!(
        sidecar,
        json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "256Mi"}})
    );
    assert_eq!(variable(container(&render(&[]), "dapr-sidecar-injector"), "DAPRCP_INJECTOR_SIDECAR_RESOURCES"), None);
    assert_eq!(
        container(&objects, "dapr-operator")["resources"],
        json!({"requests": {"cpu": "100m", "memory": "128Mi"}})
    );
}

#[test]
fn mtls_and_ha_are_as_upstreams() {
    let objects = accepted();
    assert_eq!(object(&objects, "Configuration", "daprsystem")["spec"]["mtls"]["enabled"], true);
    let budgets = objects.keys().filter(|(kind, _, _)| kind == "PodDisruptionBudget").count();
    assert_eq!(budgets, 5);
}

#[test]
fn two_spellings_with_different_values_are_refused() {
    for (set, named) in [
        ("dapr_operator.replicas=2,dapr_operator.replicaCount=3", "dapr_operator.replicaCount is 3"),
        ("dapr_sentry.replicas=2,dapr_sentry.replicaCount=3", "dapr_sentry.replicaCount is 3"),
        ("dapr_sidecar_injector.replicas=2,dapr_sidecar_injector.replicaCount=3", "dapr_sidecar_injector.replicaCount"),
        ("dapr_sentry.trustDomain=a,global.mtls.controlPlaneTrustDomain=b", "global.mtls.controlPlaneTrustDomain is b"),
        ("dapr_placement.replicas=1,dapr_placement.scaleZero=true", "dapr_placement.scaleZero is true"),
        ("dapr.global.tag=a,global.tag=b", "dapr.global.tag is \"a\" but global.tag is \"b\""),
    ] {
        let message = refusal(&["--set", set]);
        assert!(message.contains(named), "{set}: {message}");
    }
}

#[test]
fn two_spellings_with_the_same_value_are_taken() {
    let objects = render(&[
        "--set",
        "dapr_operator.replicas=2,dapr_operator.replicaCount=2,dapr.global.tag=x,global.tag=x,\
         dapr_sentry.trustDomain=a,global.mtls.controlPlaneTrustDomain=a",
    ]);
    assert_eq!(object(&objects, "Deployment", "dapr-operator")["spec"]["replicas"], 2);
    assert_eq!(variable(container(&objects, "dapr-sidecar-injector"), "SIDECAR_IMAGE"), Some("ghcr.io/dapr/daprd:x"));
}

#[test]
fn replica_count_is_ignored_with_ha_as_upstream_does() {
    let objects = render(&["--set", "dapr_operator.replicaCount=5,global.ha.enabled=true"]);
    assert_eq!(object(&objects, "Deployment", "dapr-operator")["spec"]["replicas"], 3);
    let objects = render(&["--set", "dapr_operator.replicaCount=5"]);
    assert_eq!(object(&objects, "Deployment", "dapr-operator")["spec"]["replicas"], 5);
}
