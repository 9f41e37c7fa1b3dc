//! The conversion of Subscriptions between v1alpha1 and v2alpha1.
//!
//! Works on the JSON of a `ConversionReview` (contract operator.md §8). Metadata passes
//! through untouched, as the API server demands. v1alpha1 has one route and no rules, so
//! going down loses the rules, as upstream does. The shorthand of v2alpha1 (RULINGS 31)
//! counts as the normal form.

use serde_json::{json, value::RawValue};

use super::{
    shape::{Encoder, Field, RawMap, ShapeError, present, read_map, read_text},
    shapes,
    wire::{Unfolded, raw_map, raw_text},
};

const V1: &str = "dapr.io/v1alpha1";
const V2: &str = "dapr.io/v2alpha1";

/// The body is no `ConversionReview` with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("body is no ConversionReview with a request")]
pub struct NoReview;

/// An object cannot be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("conversion is not allowed between same type {0}")]
    SameVersion(String),
    #[error("{kind} {version} is unknown here: allowed are Subscription {V1} and {V2}")]
    Unknown { kind: String, version: String },
    #[error("Subscription {name} cannot be converted: {source}")]
    Object { name: String, source: ShapeError },
}

#[derive(serde::Deserialize)]
struct Review<'a> {
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "apiVersion")]
    api_version: String,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(serde::Deserialize)]
struct Request<'a> {
    #[serde(default)]
    uid: String,
    #[serde(default, rename = "desiredAPIVersion")]
    desired: String,
    #[serde(default, borrow)]
    objects: Vec<&'a RawValue>,
}

/// Answers a review: converts all of its objects, or none.
pub fn answer(body: &str) -> Result<String, NoReview> {
    let review: Review<'_> = serde_json::from_str(body).map_err(|_| NoReview)?;
    let request = review.request.ok_or(NoReview)?;
    let converted: Result<Vec<_>, _> = request.objects.iter().map(|object| convert(object, &request.desired)).collect();
    let response = match converted {
        Ok(objects) => {
            let objects: Vec<&str> = objects.iter().map(|object| object.get()).collect();
            format!(
                r#"{{"uid":{},"convertedObjects":[{}],"result":{{"metadata":{{}},"status":"Success"}}}}"#,
                raw_text(&request.uid),
                objects.join(",")
            )
        }
        Err(refusal) => json!({
            "uid": request.uid,
            "convertedObjects": null,
            "result": { "metadata": {}, "status": "Failure", "message": refusal.to_string() },
        })
        .to_string(),
    };
    Ok(format!(
        r#"{{"kind":{},"apiVersion":{},"response":{response}}}"#,
        raw_text(&review.kind),
        raw_text(&review.api_version)
    ))
}

fn convert(object: &RawValue, desired: &str) -> Result<Box<RawValue>, Refusal> {
    let mut name = String::from("without a name");
    let fail = |name: &str, source| Refusal::Object { name: name.to_owned(), source };
    let members = read_map(object, "(root)").map_err(|source| fail(&name, source))?;
    let head = head(&members).map_err(|source| fail(&name, source))?;
    name = head.name;
    if head.version == desired {
        return Err(Refusal::SameVersion(format!("{} {desired}", head.kind)));
    }
    let is_known = |version: &str| matches!(version, V1 | V2);
    if head.kind != "Subscription" || !is_known(&head.version) || !is_known(desired) {
        let version = if is_known(&head.version) { desired } else { &head.version };
        return Err(Refusal::Unknown { kind: head.kind, version: version.to_owned() });
    }
    let converted = if desired == V1 { to_v1(&members) } else { to_v2(&members) };
    converted.map_err(|source| fail(&name, source))
}

struct Head {
    kind: String,
    version: String,
    name: String,
}

fn head(members: &RawMap<'_>) -> Result<Head, ShapeError> {
    let metadata = match present(members.get("metadata").copied()) {
        Some(metadata) => read_map(metadata, "metadata")?,
        None => RawMap::new(),
    };
    let text = |key| read_text(metadata.get(key).copied(), "metadata");
    Ok(Head {
        kind: read_text(members.get("kind").copied(), "kind")?,
        version: read_text(members.get("apiVersion").copied(), "apiVersion")?,
        name: format!("{}/{}", text("namespace")?, text("name")?),
    })
}

fn to_v1(members: &RawMap<'_>) -> Result<Box<RawValue>, ShapeError> {
    let mut members = members.clone();
    let unfolded = Unfolded::of(&members)?;
    unfolded.put_into(&mut members);
    let mut spec = spec(&members)?;
    let route = match present(spec.get("routes").copied()) {
        Some(routes) => read_text(read_map(routes, "spec.routes")?.get("default").copied(), "spec.routes.default")?,
        None => String::new(),
    };
    let route = raw_text(&route);
    spec.insert("route".to_owned(), &route);
    let spec = raw_map(&spec);
    members.insert("spec".to_owned(), &spec);
    encode(V1, &members, &shapes::SUBSCRIPTION_V1)
}

fn to_v2(members: &RawMap<'_>) -> Result<Box<RawValue>, ShapeError> {
    let mut members = members.clone();
    let mut spec = spec(&members)?;
    let route = raw_text(&read_text(spec.remove("route"), "spec.route")?);
    let routes = raw_map(&RawMap::from([("default".to_owned(), &*route)]));
    spec.insert("routes".to_owned(), &routes);
    let spec = raw_map(&spec);
    members.insert("spec".to_owned(), &spec);
    encode(V2, &members, &shapes::SUBSCRIPTION)
}

fn spec<'a>(members: &RawMap<'a>) -> Result<RawMap<'a>, ShapeError> {
    match present(members.get("spec").copied()) {
        Some(spec) => read_map(spec, "spec"),
        None => Ok(RawMap::new()),
    }
}

fn encode(version: &str, members: &RawMap<'_>, spec: &Field) -> Result<Box<RawValue>, ShapeError> {
    let mut encoder = Encoder::new(None);
    encoder.literal(&format!(r#"{{"kind":"Subscription","apiVersion":"{version}""#));
    for field in [&shapes::METADATA_UNTOUCHED, spec, &shapes::SCOPES] {
        encoder.field(",", members.get(field.key).copied(), field)?;
    }
    encoder.literal("}");
    let json = encoder.finish().finish().unresolved();
    let json = String::from_utf8(json.to_vec()).expect("the encoder writes text only");
    Ok(RawValue::from_string(json).expect("the encoder writes JSON only"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn ask(desired: &str, objects: &[Value]) -> Value {
        let review = json!({
            "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "request": { "uid": "u1", "desiredAPIVersion": desired, "objects": objects },
        });
        serde_json::from_str(&answer(&review.to_string()).unwrap()).unwrap()
    }

    fn one(desired: &str, object: &Value) -> Value {
        let reply = ask(desired, std::slice::from_ref(object));
        assert_eq!(reply["response"]["result"]["status"], "Success", "{reply}");
        reply["response"]["convertedObjects"][0].clone()
    }

    fn v2(spec: &Value) -> Value {
        json!({
            "apiVersion": V2, "kind": "Subscription",
            "metadata": { "name": "s", "namespace": "n", "managedFields": [{ "fieldsV1": {} }] },
            "spec": spec, "scopes": ["a"],
        })
    }

    #[test]
    fn a_default_route_becomes_the_route_and_rules_are_lost() {
        let object = v2(&json!({ "pubsubname": "p", "topic": "t",
            "routes": { "rules": [{ "match": "m", "path": "/r" }], "default": "/d" } }));
        let v1 = one(V1, &object);
        assert_eq!(v1["apiVersion"], V1);
        assert_eq!(v1["metadata"], object["metadata"]);
        assert_eq!(
            v1["spec"],
            json!({ "topic": "t", "pubsubname": "p", "route": "/d", "bulkSubscribe": { "enabled": false } })
        );
        assert_eq!(v1["scopes"], json!(["a"]));
        let back = one(V2, &v1);
        assert_eq!(back["spec"]["routes"], json!({ "default": "/d" }));
    }

    #[test]
    fn the_shorthand_converts_like_the_normal_form() {
        let mut object = v2(&json!({ "pubsubname": "p", "topic": "t", "route": "/d", "scopes": ["b"] }));
        object.as_object_mut().unwrap().remove("scopes");
        let v1 = one(V1, &object);
        assert_eq!(v1["spec"]["route"], "/d");
        assert_eq!(v1["scopes"], json!(["b"]));
    }

    #[test]
    fn one_bad_object_fails_the_review_and_says_why() {
        let good = v2(&json!({ "pubsubname": "p", "topic": "t" }));
        let bad = v2(&json!({ "pubsubname": 1, "topic": "t" }));
        let reply = ask(V1, &[good, bad]);
        let response = &reply["response"];
        assert_eq!(response["uid"], "u1");
        assert_eq!(response["convertedObjects"], Value::Null);
        assert_eq!(response["result"]["status"], "Failure");
        let message = response["result"]["message"].as_str().unwrap();
        assert!(message.contains("n/s") && message.contains("spec.pubsubname"), "{message}");
    }

    #[test]
    fn the_same_version_an_unknown_version_and_another_kind_are_refused() {
        let object = v2(&json!({}));
        let mut component = object.clone();
        component["kind"] = json!("Component");
        for (desired, object) in [(V2, &object), ("dapr.io/v3", &object), (V1, &component)] {
            let reply = ask(desired, std::slice::from_ref(object));
            assert_eq!(reply["response"]["result"]["status"], "Failure", "{desired}");
        }
    }

    #[test]
    fn what_is_no_review_is_no_review() {
        for body in ["", "{}", r#"{"kind":"ConversionReview"}"#, "[1]"] {
            assert_eq!(answer(body), Err(NoReview), "{body}");
        }
    }

    proptest! {
        #[test]
        fn without_rules_there_and_back_changes_nothing(
            pubsub in ".*", topic in ".*", route in ".*", dead in "[a-z]*",
            enabled: bool, count in 0i32..3, metadata in prop::collection::btree_map("[a-z]{1,3}", ".*", 0..3),
        ) {
            let object = v2(&json!({ "pubsubname": pubsub, "topic": topic, "routes": { "default": route },
                "deadLetterTopic": dead, "metadata": metadata,
                "bulkSubscribe": { "enabled": enabled, "maxMessagesCount": count } }));
            let there = one(V1, &object);
            let back = one(V2, &there);
            prop_assert_eq!(one(V1, &back), there);
            prop_assert_eq!(&back["spec"]["topic"], &object["spec"]["topic"]);
            prop_assert_eq!(
                back["spec"]["routes"].get("default").cloned().unwrap_or(json!("")),
                object["spec"]["routes"]["default"].clone()
            );
        }
    }
}
