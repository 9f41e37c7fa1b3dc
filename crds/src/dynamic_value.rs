//! A value of any JSON type, kept as the bytes it was written with.
//!
//! Components receive a number as its text, and sidecars compare values byte for byte, so `5` must
//! not become `5.0` nor a long integer lose digits.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Any JSON value, unparsed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DynamicValue(Box<RawValue>);

impl DynamicValue {
    /// The value as it was written.
    pub fn json(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for DynamicValue {
    fn eq(&self, other: &Self) -> bool {
        self.json() == other.json()
    }
}

impl JsonSchema for DynamicValue {
    fn schema_name() -> Cow<'static, str> {
        "DynamicValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
    }
}

#[cfg(test)]
mod tests {
    use super::DynamicValue;

    #[test]
    fn numbers_keep_their_text() {
        for text in ["5", "5.0", "1e3", "123456789012345678901234567890", r#"{"a":1.50}"#, r#""\u003c""#] {
            let value: DynamicValue = serde_json::from_str(text).unwrap();
            assert_eq!(value.json(), text);
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
    }
}
