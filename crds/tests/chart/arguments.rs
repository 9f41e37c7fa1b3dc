//! Arguments and environment as recorded for the components, whose own parsers read them.
//!
//! `golden/arguments.json` holds what the chart passes for every case and for the user's values;
//! a component's test can parse its part.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::render::{acceptance_values, arguments, container, crate_folder, refusal, render};

const COMPONENTS: [(&str, &str); 4] = [
    ("operator", "dapr-operator"),
    ("sentry", "dapr-sentry"),
    ("injector", "dapr-sidecar-injector"),
    ("placement", "dapr-placement-server"),
];

#[test]
fn what_the_chart_passes_to_our_binaries_is_recorded() {
    let mut recorded: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
    for case in ["default", "ha", "namespaced", "everything", "acceptance"] {
        let file = match case {
            "acceptance" => acceptance_values(),
            _ => crate_folder().join(format!("tests/chart/cases/{case}.yaml")),
        };
        // Debug mode precedes the binary's own arguments with the debugger's.
        let no_debug = ["--set", "dapr_placement.debug.enabled=false"];
        let objects = render(&[["--values", file.to_str().unwrap()].as_slice(), &no_debug].concat());
        for (component, workload) in COMPONENTS {
            let container = container(&objects, workload);
            let environment: BTreeMap<&str, &Value> = container["env"]
                .as_array()
                .unwrap()
                .iter()
                .map(|variable| (variable["name"].as_str().unwrap(), &variable["value"]))
                .collect();
            let passed = json!({ "args": arguments(container), "env": environment });
            recorded.entry(component).or_default().insert(case, passed);
        }
    }
    let text = serde_json::to_string_pretty(&recorded).unwrap() + "\n";
    testkit::golden(env!("CARGO_MANIFEST_DIR"), "tests/chart/golden/arguments.json", &text);
}

#[test]
fn oidc_without_tls_says_so_to_sentry() {
    let objects = render(&["--set", "dapr_sentry.oidc.enabled=true,dapr_sentry.oidc.tls.enabled=false"]);
    let arguments = arguments(container(&objects, "dapr-sentry"));
    assert!(arguments.contains(&"--oidc-server-tls-enabled=false".to_owned()), "{arguments:?}");
}

#[test]
fn impossible_values_are_refused_by_name() {
    for (set, named) in [
        ("global.ha.podAntiAffinityPolicy=x", "global.ha.podAntiAffinityPolicy must be either"),
        ("global.actors.serviceName=x", "global.actors.serviceName is \"x\""),
        ("dapr_sidecar_injector.sidecarRunAsUser=0", "sidecarRunAsUser must positive"),
        (
            "dapr_sidecar_injector.sidecarRunAsUser=5,dapr_sidecar_injector.sidecarRunAsNonRoot=false",
            "sidecarRunAsUser must be 0",
        ),
        ("global.ha.enabled=yes", "/global/ha/enabled"),
        ("dapr.dapr_sentry.jwt.enabled=yes", "/dapr/dapr_sentry/jwt/enabled"),
    ] {
        let message = refusal(&["--set", set]);
        assert!(message.contains(named), "{set}: {message}");
    }
}

#[test]
fn large_numbers_are_written_out() {
    let objects = render(&["--set-json", "dapr_scheduler={\"etcdSnapshotCount\":20000000}"]);
    let arguments = arguments(container(&objects, "dapr-scheduler-server"));
    assert!(arguments.contains(&"--etcd-snapshot-count=20000000".to_owned()), "{arguments:?}");
}
