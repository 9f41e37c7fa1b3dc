//! Flags and environment as the chart and people give them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;

use clap::CommandFactory;
use injector::{
    args::{Args, ConfigError},
    core::settings::{Actors, PullPolicy},
};
use support::{chart_env, config};

fn with(changes: &[(&str, Option<&str>)]) -> BTreeMap<String, String> {
    let mut env = chart_env();
    for (name, value) in changes {
        match value {
            Some(value) => env.insert((*name).to_owned(), (*value).to_owned()),
            None => env.remove(*name),
        };
    }
    env
}

fn refused(changes: &[(&str, Option<&str>)]) -> ConfigError {
    config(&with(changes), &[]).unwrap_err()
}

#[test]
fn the_flags_are_consistent_and_their_help_is_complete() {
    Args::command().debug_assert();
    let help = runtime::args::command::<Args>("injector").render_long_help().to_string();
    for flag in [
        "--port",
        "--listen-address",
        "--scheduler-enabled",
        "--healthz-port",
        "--healthz-listen-address",
        "--metrics-port",
        "--metrics-listen-address",
        "--enable-metrics",
        "--kubeconfig",
        "--log-level",
        "--log-as-json",
        "--log-file",
        "DAPRCP_INJECTOR_SIDECAR_RESOURCES",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
}

#[test]
fn the_charts_arguments_are_understood() {
    let flags = [
        "--log-level",
        "info",
        "--enable-metrics",
        "--metrics-port",
        "9090",
        "--healthz-port",
        "8080",
        "--scheduler-enabled=false",
    ];
    let config = config(&chart_env(), &flags).unwrap();
    assert!(!config.install.scheduler);
    assert_eq!((config.args.port, config.args.health.healthz_port), (4000, 8080));
}

#[test]
fn defaults_are_upstreams() {
    let config = config(&with(&[("SIDECAR_IMAGE_PULL_POLICY", None), ("KUBE_CLUSTER_DOMAIN", None)]), &[]).unwrap();
    assert_eq!(config.install.pull_policy, PullPolicy::Always);
    assert_eq!(config.install.cluster_domain, "cluster.local");
    assert_eq!(config.install.sentry_id, "spiffe://cluster.local/ns/dapr-system/dapr-sentry");
    let placement = "dapr-placement-server.dapr-system.svc.cluster.local:50005";
    assert_eq!(config.install.actors, Actors::Placement(placement.to_owned()));
    assert_eq!(config.trust_anchors_file.to_str(), Some("/var/run/dapr.io/tls/ca.crt"));
    assert_eq!(config.accounts.len(), 10);
}

#[test]
fn what_is_missing_or_malformed_stops_the_start_and_is_named() {
    assert!(matches!(refused(&[("NAMESPACE", None)]), ConfigError::Missing { name: "NAMESPACE" }));
    assert!(matches!(refused(&[("NAMESPACE", Some(""))]), ConfigError::Missing { name: "NAMESPACE" }));
    assert!(matches!(refused(&[("SIDECAR_IMAGE", None)]), ConfigError::Missing { name: "SIDECAR_IMAGE" }));
    for domain in ["", "Not A Domain"] {
        let error = refused(&[("DAPR_CONTROL_PLANE_TRUST_DOMAIN", Some(domain))]);
        assert!(matches!(error, ConfigError::Name { name: "DAPR_CONTROL_PLANE_TRUST_DOMAIN", .. }));
    }
    for name in ["SIDECAR_RUN_AS_USER", "SIDECAR_RUN_AS_GROUP"] {
        assert!(matches!(refused(&[(name, Some("root"))]), ConfigError::Integer { .. }));
    }
    for address in ["", "svc", "svc:", ":1", "svc:0", "svc:-1", "svc:x"] {
        let error = refused(&[("ACTORS_SERVICE_NAME", Some("x")), ("ACTORS_SERVICE_ADDRESS", Some(address))]);
        assert!(matches!(error, ConfigError::Service { name: "ACTORS_SERVICE_ADDRESS", .. }), "{address}");
    }
    for name in ["ALLOWED_SERVICE_ACCOUNTS", "ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES"] {
        assert!(matches!(refused(&[(name, Some("nocolon"))]), ConfigError::Pattern { .. }));
    }
    assert!(matches!(refused(&[("DAPR_SENTRY_TOKEN_FILE", Some(""))]), ConfigError::Token(_)));
    let error = config(&chart_env(), &["--sidecar-resources", "lots"]).unwrap_err();
    assert!(error.to_string().contains("--sidecar-resources") && error.to_string().contains("lots"), "{error}");
}

#[test]
fn booleans_are_truthy_words_with_their_own_defaults() {
    let config = config(
        &with(&[
            ("SIDECAR_RUN_AS_NON_ROOT", Some("")),
            ("SIDECAR_READ_ONLY_ROOT_FILESYSTEM", Some("no")),
            ("SIDECAR_DROP_ALL_CAPABILITIES", Some("Yes")),
            ("NATIVE_SIDECAR_ENABLED", Some("")),
            ("ACTORS_ENABLED", Some("off")),
        ]),
        &[],
    )
    .unwrap();
    let security = config.install.security;
    assert!(security.run_as_non_root && !security.read_only_root_filesystem && security.drop_all_capabilities);
    assert!(!config.install.native_sidecar);
    assert_eq!(config.install.actors, Actors::Off);
}

#[test]
fn the_deprecated_variable_still_works_and_warns() {
    let env =
        with(&[("ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES", Some("a*:b*")), ("ALLOWED_SERVICE_ACCOUNTS", Some("c:d"))]);
    let config = config(&env, &[]).unwrap();
    assert_eq!(config.patterns.len(), 2);
    assert_eq!(config.accounts[0], ("c".to_owned(), "d".to_owned()));
    assert!(config.warnings.iter().any(|warning| warning.contains("deprecated")));
}
