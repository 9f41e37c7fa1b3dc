//! From what schemars derives to what a CustomResourceDefinition may hold.
//!
//! The result is structural, sorted, and has nothing that upstream's schemas lack: no `nullable`,
//! no number formats but `int32`, defaults only where a type asks for one (`x-crdgen-default`).

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// The openAPIV3Schema of a root type: its own fields and the three that every object has.
pub(crate) fn root<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = structural(settings.into_generator().into_root_schema_for::<T>().to_value());
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert(
            "apiVersion".into(),
            json!({
                "description": "Group and version of the object.", "type": "string",
            }),
        );
        properties.insert(
            "kind".into(),
            json!({
                "description": "Kind of the object.", "type": "string",
            }),
        );
        properties.insert("metadata".into(), json!({ "type": "object" }));
    }
    sorted(schema)
}

/// Keywords that a definition must not or need not have.
const DROPPED: [&str; 5] = ["title", "nullable", "default", "components", "definitions"];

fn structural(schema: Value) -> Value {
    let Value::Object(object) = unwrap_option(schema) else {
        // `true`: any value.
        return json!({ "x-kubernetes-preserve-unknown-fields": true });
    };
    let mut result = Map::new();
    for (key, value) in object {
        match key.as_str() {
            dropped if DROPPED.contains(&dropped) => {}
            "x-crdgen-default" => drop(result.insert("default".into(), value)),
            "format" if value != "int32" => {}
            "type" => drop(result.insert(key, without_null_type(value))),
            "enum" => drop(result.insert(key, without_null_value(value))),
            "properties" => drop(result.insert(key, each(value))),
            "items" | "additionalProperties" => drop(result.insert(key, structural(value))),
            "description" => drop(result.insert(key, one_line(value))),
            _ => drop(result.insert(key, value)),
        }
    }
    Value::Object(result)
}

fn each(properties: Value) -> Value {
    match properties {
        Value::Object(map) => Value::Object(map.into_iter().map(|(key, value)| (key, structural(value))).collect()),
        other => other,
    }
}

/// An `Option` of an object is `anyOf` the object and null; the object alone stays, with the
/// keywords beside `anyOf` over its own.
fn unwrap_option(schema: Value) -> Value {
    let Value::Object(mut object) = schema else { return schema };
    let Some(Value::Array(choices)) = object.remove("anyOf") else { return Value::Object(object) };
    let mut merged = Map::new();
    for choice in choices {
        if let Value::Object(choice) = choice
            && !is_null(&choice)
        {
            merged.extend(choice);
        }
    }
    merged.extend(object);
    Value::Object(merged)
}

fn is_null(schema: &Map<String, Value>) -> bool {
    schema.get("type").is_some_and(|kind| kind == "null")
        || schema.get("enum").is_some_and(|values| *values == json!([null]))
}

fn without_null_type(kind: Value) -> Value {
    let Value::Array(kinds) = kind else { return kind };
    kinds.into_iter().find(|kind| kind != "null").unwrap_or(Value::Null)
}

fn without_null_value(values: Value) -> Value {
    let Value::Array(values) = values else { return values };
    Value::Array(values.into_iter().filter(|value| !value.is_null()).collect())
}

/// Doc comments are wrapped for the source; a definition's reader wraps for itself.
fn one_line(description: Value) -> Value {
    match description {
        Value::String(text) => Value::String(text.split_whitespace().collect::<Vec<_>>().join(" ")),
        other => other,
    }
}

/// Every map in the order of its keys, and `required` likewise, so that the files compare well.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| {
                        let value = if key == "required" { sorted_texts(value) } else { sorted(value) };
                        (key, value)
                    })
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn sorted_texts(value: Value) -> Value {
    let Value::Array(mut items) = value else { return sorted(value) };
    items.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    Value::Array(items)
}
