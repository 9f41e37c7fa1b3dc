//! NetworkPolicies: off by default, and when on, exactly the flows of the control plane.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::render::{Objects, object, render};

const WORKLOADS: [&str; 5] =
    ["dapr-operator", "dapr-placement-server", "dapr-scheduler-server", "dapr-sentry", "dapr-sidecar-injector"];

fn policies() -> Objects {
    render(&["--set", "global.networkPolicy.enabled=true,dapr_sentry.oidc.enabled=true"])
}

#[test]
fn there_are_none_by_default() {
    assert!(render(&[]).keys().all(|(kind, _, _)| kind != "NetworkPolicy"));
}

#[test]
fn every_workload_has_one_and_there_are_no_more() {
    let objects = policies();
    let names: Vec<&str> =
        objects.keys().filter(|(kind, _, _)| kind == "NetworkPolicy").map(|(_, _, name)| name.as_str()).collect();
    assert_eq!(names, WORKLOADS);
    for name in WORKLOADS {
        let policy = object(&objects, "NetworkPolicy", name);
        assert_eq!(policy["spec"]["podSelector"]["matchLabels"]["app"], name);
    }
}

#[test]
fn what_a_service_forwards_may_enter_and_nothing_else() {
    let objects = policies();
    for name in WORKLOADS {
        let allowed = ports(&object(&objects, "NetworkPolicy", name)["spec"]["ingress"]);
        let mut served = BTreeSet::new();
        for ((kind, _, _), service) in &objects {
            if kind == "Service" && service["spec"]["selector"]["app"] == name {
                served.extend(service["spec"]["ports"].as_array().unwrap().iter().map(target));
            }
        }
        assert_eq!(allowed, served, "{name}");
    }
}

fn ports(rules: &Value) -> BTreeSet<u64> {
    let rules = rules.as_array().unwrap().iter();
    rules.flat_map(|rule| rule["ports"].as_array().unwrap()).map(|port| port["port"].as_u64().unwrap()).collect()
}

fn target(port: &Value) -> u64 {
    match &port["targetPort"] {
        Value::String(name) if name == "https" => 4000,
        Value::Number(number) => number.as_u64().unwrap(),
        Value::Null => port["port"].as_u64().unwrap(),
        other => panic!("unknown target port {other}"),
    }
}

#[test]
fn only_workloads_that_talk_to_the_api_server_may_reach_it() {
    let objects = policies();
    for name in WORKLOADS {
        let reaches = ports(&object(&objects, "NetworkPolicy", name)["spec"]["egress"]).contains(&6443);
        assert_eq!(reaches, name != "dapr-placement-server", "{name}");
    }
}

#[test]
fn values_narrow_and_widen_the_flows() {
    let objects = render(&[
        "--set",
        "global.networkPolicy.enabled=true,global.networkPolicy.apiServerCIDRs={10.0.0.1/32}",
        "--set-json",
        r#"global.networkPolicy.metricsFrom=[{"podSelector":{}}]"#,
        "--set-json",
        r#"global.networkPolicy.extraEgress=[{"ports":[{"port":2379}]}]"#,
    ]);
    let injector = object(&objects, "NetworkPolicy", "dapr-sidecar-injector");
    assert_eq!(injector["spec"]["ingress"][0]["from"][0]["ipBlock"]["cidr"], "10.0.0.1/32");
    assert_eq!(injector["spec"]["ingress"][1]["from"][0]["podSelector"], serde_json::json!({}));
    assert!(ports(&injector["spec"]["egress"]).contains(&2379));
}
