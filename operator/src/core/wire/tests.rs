//! How objects of each kind look to sidecars.

use std::collections::BTreeMap;

use super::*;
use crate::core::template::{Lookup, Rendered};

fn text(object: &Object) -> String {
    String::from_utf8(object.template.unresolved().to_vec()).unwrap()
}

fn resolved(object: &Object, key: &str, value: &str) -> String {
    let data = BTreeMap::from([(key.to_owned(), value.as_bytes().to_vec())]);
    match object.template.render(|_| Lookup::Data(&data)) {
        Rendered::Whole(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("not whole: {other:?}"),
    }
}

const META: &str = r#""metadata":{"name":"a","namespace":"fuse","resourceVersion":"7"}"#;
const META_OUT: &str = r#""metadata":{"name":"a","namespace":"fuse","resourceVersion":"7","creationTimestamp":null}"#;

#[test]
fn a_component_has_upstreams_order_and_always_an_auth_block() {
    let json = format!(
        r#"{{{META},"scopes":[],"spec":{{"version":"v1","type":"state.redis","metadata":[
            {{"name":"redisHost","value":"a<b"}}, {{"name":"n","value": 5.50}}]}}}}"#
    );
    let object = read(ApiKind::Component, &json).unwrap();
    assert_eq!(
        text(&object),
        format!(
            r#"{{"kind":"Component","apiVersion":"dapr.io/v1alpha1",{META_OUT},"spec":{{"type":"state.redis","version":"v1","ignoreErrors":false,"metadata":[{{"name":"redisHost","value":"a\u003cb","secretKeyRef":{{"name":"","key":""}}}},{{"name":"n","value":5.50,"secretKeyRef":{{"name":"","key":""}}}}],"initTimeout":""}},"auth":{{"secretStore":""}}}}"#
        )
    );
    assert_eq!(object.resource_version, "7");
    assert_eq!(object.key.to_string(), "fuse/a");
}

fn component_with_secret(store: &str) -> Object {
    let json = format!(
        r#"{{{META},"auth":{{"secretStore":"{store}"}},"spec":{{"type":"t","version":"v1","metadata":[
            {{"name":"p","value":"x","secretKeyRef":{{"name":"s","key":""}}}}]}}}}"#
    );
    read(ApiKind::Component, &json).unwrap()
}

#[test]
fn only_the_kubernetes_store_is_resolved_and_an_empty_key_means_the_secrets_name() {
    for store in ["", "kubernetes"] {
        let object = component_with_secret(store);
        assert_eq!(object.template.secrets().collect::<Vec<_>>(), ["s"]);
        assert!(resolved(&object, "s", "v").contains(r#""value":"dg==","secretKeyRef":{"name":"s","#));
    }
    assert_eq!(component_with_secret("vault").template.secrets().count(), 0);
}

#[test]
fn metadata_that_no_sidecar_reads_is_left_out() {
    let json = r#"{"metadata":{"name":"a","namespace":"n","uid":"u","managedFields":[{"x":1}],
        "annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"},
        "creationTimestamp":"2024-01-01T00:00:00Z","generation":2},"spec":{}}"#;
    let object = read(ApiKind::Resiliency, json).unwrap();
    assert_eq!(
        text(&object),
        r#"{"kind":"Resiliency","apiVersion":"dapr.io/v1alpha1","metadata":{"name":"a","namespace":"n","uid":"u","generation":2,"creationTimestamp":"2024-01-01T00:00:00Z"},"spec":{"policies":{},"targets":{}}}"#
    );
}

#[test]
fn subscription_shorthand_arrives_in_the_normal_form() {
    let json = format!(
        r#"{{{META},"spec":{{"pubsubname":"pubsub","topic":"orders","route":"/api/orders/handle","scopes":["order-processor"]}}}}"#
    );
    let object = read(ApiKind::Subscription, &json).unwrap();
    assert_eq!(
        text(&object),
        format!(
            r#"{{"kind":"Subscription","apiVersion":"dapr.io/v2alpha1",{META_OUT},"spec":{{"pubsubname":"pubsub","topic":"orders","routes":{{"default":"/api/orders/handle"}},"bulkSubscribe":{{"enabled":false}}}},"scopes":["order-processor"]}}"#
        )
    );
    assert!(object.scopes.include(&AppId::parse("order-processor").unwrap()));
    assert!(!object.scopes.include(&AppId::parse("other").unwrap()));
}

#[test]
fn the_normal_form_of_a_subscription_wins_over_the_shorthand() {
    let json = format!(
        r#"{{{META},"scopes":["a"],"spec":{{"pubsubname":"p","topic":"t","route":"/short","scopes":["b"],
            "routes":{{"rules":[{{"match":"true","path":"/r"}}],"default":"/long"}}}}}}"#
    );
    let object = read(ApiKind::Subscription, &json).unwrap();
    let text = text(&object);
    assert!(text.contains(r#""default":"/long""#), "{text}");
    assert!(text.ends_with(r#""scopes":["a"]}"#), "{text}");
}

#[test]
fn a_v1_16_sidecar_gets_a_configuration_without_otel_headers_and_timeout() {
    let json = format!(
        r#"{{{META},"spec":{{"tracing":{{"samplingRate":"1","otel":{{"protocol":"grpc","endpointAddress":"e","isSecure":false,
            "timeout":"10s","headers":[{{"name":"h","secretKeyRef":{{"name":"s","key":"k"}}}}]}}}}}}}}"#
    );
    let object = read(ApiKind::Configuration, &json).unwrap();
    assert!(resolved(&object, "k", "<v>").contains(
        r#""headers":[{"name":"h","value":"\u003cv\u003e","secretKeyRef":{"name":"s","key":"k"}}],"timeout":"10s""#
    ));
    let old = object.v1_16.unwrap();
    assert_eq!(old.secrets().count(), 0);
    let old = String::from_utf8(old.unresolved().to_vec()).unwrap();
    assert!(old.contains(r#""otel":{"protocol":"grpc","endpointAddress":"e","isSecure":false}"#), "{old}");
}

#[test]
fn a_configuration_without_otel_looks_alike_to_every_sidecar() {
    let json = format!(r#"{{{META},"spec":{{"metric":{{"enabled":true}}}}}}"#);
    assert_eq!(read(ApiKind::Configuration, &json).unwrap().v1_16, None);
}

#[test]
fn an_mcp_server_resolves_its_first_transport_only() {
    let json = format!(
        r#"{{{META},"spec":{{"endpoint":{{
            "sse":{{"url":"u","headers":[{{"name":"h","secretKeyRef":{{"name":"s1","key":"k"}}}}]}},
            "stdio":{{"command":"c","env":[{{"name":"e","secretKeyRef":{{"name":"s2","key":"k"}}}}]}}}}}}}}"#
    );
    let object = read(ApiKind::McpServer, &json).unwrap();
    assert_eq!(object.template.secrets().collect::<Vec<_>>(), ["s1"]);
}

#[test]
fn a_wrong_field_names_the_object_and_the_field() {
    let json = format!(r#"{{{META},"spec":{{"type":"t","version":1}}}}"#);
    let error = read(ApiKind::Component, &json).unwrap_err();
    assert_eq!(error.to_string(), "Component fuse/a is left out: field spec.version is 1 where a string is allowed");
}
