//! Writes stored JSON in the shape of upstream's Go types.
//!
//! A [`Shape`] says what Go's decoder and encoder make of a value: which keys exist, their
//! order, and what stands for an unset one. Sidecars tell a missing list from an empty one,
//! so this must match upstream exactly (contract operator.md §5). Dynamic values pass
//! through with their bytes. A value of the wrong type is an error of that object alone.

use std::collections::BTreeMap;

use runtime::duration::GoDuration;
use serde_json::value::RawValue;

use super::{
    golang,
    template::{AbsentKey, Draft, SecretEncoding, Slot},
};

/// The Go type of a value.
#[derive(Debug)]
pub enum Shape {
    /// `string`.
    Text,
    /// `bool`.
    Bool,
    /// Any integer type.
    Int,
    /// Arbitrary JSON, kept as it is.
    Raw,
    /// A duration, printed in Go's canonical form.
    Duration,
    /// A slice.
    List(&'static Shape),
    /// A map with string keys, sorted.
    Map(&'static Shape),
    /// A map of annotations, without the ones only `kubectl` reads.
    Annotations,
    /// A struct.
    Struct(&'static [Field]),
    /// A type that several places share.
    Shared(&'static Shape),
    /// A name/value pair that may refer to a Secret.
    Pair(Site),
    /// A TLS document that may refer to a Secret.
    Document(Site),
}

/// A field of a struct.
#[derive(Debug)]
pub struct Field {
    /// Its JSON key.
    pub key: &'static str,
    /// Its type.
    pub shape: Shape,
    /// What stands for it when it is absent or `null`.
    pub unset: Unset,
}

/// What Go's encoder writes for an unset field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unset {
    /// The zero value: a plain field.
    Zero,
    /// `null`: a pointer, slice or map without `omitempty`.
    Null,
    /// Nothing: a pointer with `omitempty`. An explicit zero is kept.
    Omit,
    /// Nothing, also for an explicit zero: a value, slice or map with `omitempty`.
    OmitZero,
}

/// Where in an object a reference to a Secret stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// `Component.spec.metadata`.
    Component,
    /// Headers and client TLS of an HTTPEndpoint.
    Endpoint,
    /// `MCPServer.spec.endpoint.streamableHTTP.headers`.
    McpStreamableHttp,
    /// `MCPServer.spec.endpoint.sse.headers`.
    McpSse,
    /// `MCPServer.spec.endpoint.stdio.env`.
    McpStdio,
    /// `Configuration.spec.tracing.otel.headers`.
    Otel,
}

/// Which references the operator resolves in one object, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolve {
    /// Where.
    pub site: Site,
    /// How a value is written.
    pub encoding: SecretEncoding,
    /// What an absent key means.
    pub absent_key: AbsentKey,
}

/// A value is not of the type its place demands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {path} is {found} where {expected} is allowed")]
pub struct ShapeError {
    /// The path of the field, as in `spec.metadata[0].name`.
    pub path: String,
    /// What is there.
    pub found: String,
    /// What is allowed.
    pub expected: &'static str,
}

/// The members of a JSON object, their values unread.
pub type RawMap<'a> = BTreeMap<String, &'a RawValue>;

/// The most of a wrong value that an error shows.
const SHOWN_CHARS: usize = 40;

/// Reads one level of a JSON object.
pub fn read_map<'a>(raw: &'a RawValue, path: &str) -> Result<RawMap<'a>, ShapeError> {
    serde_json::from_str(raw.get()).map_err(|_| mismatch(raw, path, "an object"))
}

/// Reads a string; `null` and absence are empty.
pub fn read_text(raw: Option<&RawValue>, path: &str) -> Result<String, ShapeError> {
    match present(raw) {
        None => Ok(String::new()),
        Some(raw) => serde_json::from_str(raw.get()).map_err(|_| mismatch(raw, path, "a string")),
    }
}

/// Reads a list of strings; `null` and absence are empty.
pub fn read_texts(raw: Option<&RawValue>, path: &str) -> Result<Vec<String>, ShapeError> {
    match present(raw) {
        None => Ok(Vec::new()),
        Some(raw) => serde_json::from_str(raw.get()).map_err(|_| mismatch(raw, path, "a list of strings")),
    }
}

/// `raw`, unless it is JSON's `null`, which Go's decoder treats like absence.
pub fn present(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get().trim() != "null")
}

fn mismatch(raw: &RawValue, path: &str, expected: &'static str) -> ShapeError {
    let text = raw.get();
    let found = match text.as_bytes().first() {
        Some(b'{') => "an object".to_owned(),
        Some(b'[') => "a list".to_owned(),
        _ => text.chars().take(SHOWN_CHARS).collect(),
    };
    ShapeError { path: path.trim_start_matches('.').to_owned(), found, expected }
}

/// Writes values into a draft.
#[derive(Debug, Default)]
pub struct Encoder {
    draft: Draft,
    path: String,
    resolve: Option<Resolve>,
}

impl Encoder {
    /// An encoder that leaves slots where `resolve` says so.
    pub fn new(resolve: Option<Resolve>) -> Self {
        Self { resolve, ..Self::default() }
    }

    /// The finished draft.
    pub fn finish(self) -> Draft {
        self.draft
    }

    /// Appends text that is JSON already.
    pub fn literal(&mut self, json: &str) {
        self.draft.text().extend_from_slice(json.as_bytes());
    }

    /// Appends `raw` as a value of type `shape`.
    pub fn value(&mut self, raw: Option<&RawValue>, shape: &Shape) -> Result<(), ShapeError> {
        let Some(raw) = present(raw) else {
            return self.zero(shape);
        };
        match shape {
            Shape::Text => {
                let text = read_text(Some(raw), &self.path)?;
                golang::push_json_string(&text, self.draft.text());
            }
            Shape::Bool => {
                let value: bool = self.read(raw, "true or false")?;
                self.literal(if value { "true" } else { "false" });
            }
            Shape::Int => {
                let value: i64 = self.read(raw, "an integer")?;
                self.literal(&value.to_string());
            }
            Shape::Raw => golang::push_compact(raw.get(), self.draft.text()),
            Shape::Duration => self.duration(raw)?,
            Shape::List(item) => self.list(raw, item)?,
            Shape::Map(item) => self.map(raw, item)?,
            Shape::Annotations => self.annotations(raw)?,
            Shape::Struct(fields) => {
                let members = read_map(raw, &self.path)?;
                self.members(&members, fields)?;
            }
            Shape::Shared(shape) => self.value(Some(raw), shape)?,
            Shape::Pair(site) => self.pair(raw, *site)?,
            Shape::Document(site) => self.document(raw, *site)?,
        }
        Ok(())
    }

    /// Appends a struct of the given members.
    pub fn members(&mut self, members: &RawMap<'_>, fields: &[Field]) -> Result<(), ShapeError> {
        self.literal("{");
        let mut separator = "";
        for field in fields {
            if self.field(separator, members.get(field.key).copied(), field)? {
                separator = ",";
            }
        }
        self.literal("}");
        Ok(())
    }

    /// Appends one field, if it is to appear; says whether it did.
    pub fn field(&mut self, separator: &str, raw: Option<&RawValue>, field: &Field) -> Result<bool, ShapeError> {
        let raw = present(raw);
        if raw.is_none() && matches!(field.unset, Unset::Omit | Unset::OmitZero) {
            return Ok(false);
        }
        let start = self.draft.mark();
        self.literal(separator);
        golang::push_json_string(field.key, self.draft.text());
        self.literal(":");
        let value = self.draft.mark();
        if raw.is_none() && field.unset == Unset::Null {
            self.literal("null");
        } else {
            self.within(format_args!(".{}", field.key), |encoder| encoder.value(raw, &field.shape))?;
        }
        let is_zero = matches!(self.draft.since(value), Some(b"\"\"" | b"false" | b"0" | b"[]" | b"{}" | b"null"));
        if field.unset == Unset::OmitZero && is_zero {
            self.draft.rewind(start);
            return Ok(false);
        }
        Ok(true)
    }

    /// Runs `step` with `segment` at the end of the path that errors show.
    fn within(
        &mut self,
        segment: std::fmt::Arguments<'_>,
        step: impl FnOnce(&mut Self) -> Result<(), ShapeError>,
    ) -> Result<(), ShapeError> {
        use std::fmt::Write as _;
        let length = self.path.len();
        let _ = self.path.write_fmt(segment);
        step(self)?;
        self.path.truncate(length);
        Ok(())
    }

    fn read<'a, T: serde::Deserialize<'a>>(&self, raw: &'a RawValue, expected: &'static str) -> Result<T, ShapeError> {
        serde_json::from_str(raw.get()).map_err(|_| mismatch(raw, &self.path, expected))
    }

    fn zero(&mut self, shape: &Shape) -> Result<(), ShapeError> {
        match shape {
            Shape::Text => self.literal("\"\""),
            Shape::Bool => self.literal("false"),
            Shape::Int => self.literal("0"),
            Shape::Duration => self.literal("\"0s\""),
            Shape::Raw | Shape::List(_) | Shape::Map(_) | Shape::Annotations => self.literal("null"),
            Shape::Struct(fields) => self.members(&RawMap::new(), fields)?,
            Shape::Shared(shape) => self.zero(shape)?,
            Shape::Pair(_) => self.members(&RawMap::new(), &PAIR)?,
            Shape::Document(_) => self.members(&RawMap::new(), &DOCUMENT)?,
        }
        Ok(())
    }

    fn duration(&mut self, raw: &RawValue) -> Result<(), ShapeError> {
        const EXPECTED: &str = "a duration such as \"1h30m\"";
        let duration: GoDuration = self.read(raw, EXPECTED)?;
        golang::push_json_string(&duration.to_string(), self.draft.text());
        Ok(())
    }

    fn list(&mut self, raw: &RawValue, item: &Shape) -> Result<(), ShapeError> {
        let items: Vec<&RawValue> = self.read(raw, "a list")?;
        self.literal("[");
        for (place, raw) in items.into_iter().enumerate() {
            if place > 0 {
                self.literal(",");
            }
            self.within(format_args!("[{place}]"), |encoder| encoder.value(Some(raw), item))?;
        }
        self.literal("]");
        Ok(())
    }

    fn map(&mut self, raw: &RawValue, item: &Shape) -> Result<(), ShapeError> {
        let members = read_map(raw, &self.path)?;
        self.entries(&members, item)
    }

    fn entries(&mut self, members: &RawMap<'_>, item: &Shape) -> Result<(), ShapeError> {
        self.literal("{");
        for (place, (key, raw)) in members.iter().enumerate() {
            if place > 0 {
                self.literal(",");
            }
            golang::push_json_string(key, self.draft.text());
            self.literal(":");
            self.within(format_args!(".{key}"), |encoder| encoder.value(Some(raw), item))?;
        }
        self.literal("}");
        Ok(())
    }

    fn annotations(&mut self, raw: &RawValue) -> Result<(), ShapeError> {
        let mut members = read_map(raw, &self.path)?;
        members.remove("kubectl.kubernetes.io/last-applied-configuration");
        self.entries(&members, &Shape::Text)
    }

    fn pair(&mut self, raw: &RawValue, site: Site) -> Result<(), ShapeError> {
        let members = read_map(raw, &self.path)?;
        let Some((resolve, secret, key)) = self.reference(&members, site)? else {
            return self.members(&members, &PAIR);
        };
        let [name, value, rest @ ..] = &PAIR;
        self.literal("{");
        self.field("", members.get(name.key).copied(), name)?;
        self.literal(",\"value\":");
        let mut unresolved = Vec::new();
        let stored = present(members.get(value.key).copied());
        golang::push_compact(stored.map_or("null", RawValue::get), &mut unresolved);
        self.draft.slot(Slot {
            secret,
            key,
            pair: read_text(members.get(name.key).copied(), &self.path)?,
            encoding: resolve.encoding,
            absent_key: resolve.absent_key,
            before: "",
            after: "",
            unresolved,
        });
        for field in rest {
            self.field(",", members.get(field.key).copied(), field)?;
        }
        self.literal("}");
        Ok(())
    }

    fn document(&mut self, raw: &RawValue, site: Site) -> Result<(), ShapeError> {
        let members = read_map(raw, &self.path)?;
        let Some((resolve, secret, key)) = self.reference(&members, site)? else {
            return self.members(&members, &DOCUMENT);
        };
        let [value, reference] = &DOCUMENT;
        self.literal("{");
        let mut unresolved = Vec::new();
        if let Some(stored) = present(members.get(value.key).copied()) {
            unresolved.extend_from_slice(b"\"value\":");
            golang::push_compact(stored.get(), &mut unresolved);
            unresolved.push(b',');
        }
        self.draft.slot(Slot {
            secret,
            key,
            pair: String::new(),
            encoding: resolve.encoding,
            absent_key: resolve.absent_key,
            before: "\"value\":",
            after: ",",
            unresolved,
        });
        self.field("", members.get(reference.key).copied(), reference)?;
        self.literal("}");
        Ok(())
    }

    /// The Secret and key a pair or document refers to, if it is to be resolved.
    fn reference(&self, members: &RawMap<'_>, site: Site) -> Result<Option<(Resolve, String, String)>, ShapeError> {
        let Some(resolve) = self.resolve.filter(|resolve| resolve.site == site) else {
            return Ok(None);
        };
        let path = format!("{}.secretKeyRef", self.path);
        let Some(reference) = present(members.get("secretKeyRef").copied()) else {
            return Ok(None);
        };
        let reference = read_map(reference, &path)?;
        let name = read_text(reference.get("name").copied(), &format!("{path}.name"))?;
        let key = read_text(reference.get("key").copied(), &format!("{path}.key"))?;
        Ok((!name.is_empty()).then_some((resolve, name, key)))
    }
}

const SECRET_KEY_REF: &[Field] = &[
    Field { key: "name", shape: Shape::Text, unset: Unset::Zero },
    Field { key: "key", shape: Shape::Text, unset: Unset::Zero },
];

/// The shape of a reference to a key of a Secret.
pub const SECRET_REFERENCE: Shape = Shape::Struct(SECRET_KEY_REF);

const PAIR: [Field; 4] = [
    Field { key: "name", shape: Shape::Text, unset: Unset::Zero },
    Field { key: "value", shape: Shape::Raw, unset: Unset::Null },
    Field { key: "secretKeyRef", shape: SECRET_REFERENCE, unset: Unset::Zero },
    Field { key: "envRef", shape: Shape::Text, unset: Unset::OmitZero },
];

const DOCUMENT: [Field; 2] = [
    Field { key: "value", shape: Shape::Raw, unset: Unset::Omit },
    Field { key: "secretKeyRef", shape: SECRET_REFERENCE, unset: Unset::Omit },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::template::{Lookup, Rendered};

    fn encode(json: &str, shape: &Shape) -> Result<String, ShapeError> {
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        let mut encoder = Encoder::new(None);
        encoder.value(Some(raw), shape)?;
        let bytes = encoder.finish().finish().unresolved();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    const fn field(key: &'static str, shape: Shape, unset: Unset) -> Field {
        Field { key, shape, unset }
    }

    static TEXTS: Shape = Shape::List(&Shape::Text);
    static PROBE: Shape = Shape::Struct(&[
        field("z", Shape::Text, Unset::Zero),
        field("n", Shape::Bool, Unset::Null),
        field("o", Shape::Bool, Unset::Omit),
        field("e", Shape::List(&Shape::Text), Unset::OmitZero),
        field("d", Shape::Duration, Unset::Omit),
        field("m", Shape::Map(&TEXTS), Unset::OmitZero),
    ]);

    #[test]
    fn absent_and_null_fields_are_written_as_go_writes_unset_ones() {
        assert_eq!(encode("{}", &PROBE).unwrap(), r#"{"z":"","n":null}"#);
        assert_eq!(
            encode(r#"{"z":null,"n":null,"o":null,"e":null,"d":null,"m":null}"#, &PROBE).unwrap(),
            r#"{"z":"","n":null}"#
        );
    }

    #[test]
    fn explicit_zeros_stay_only_behind_pointers() {
        assert_eq!(
            encode(r#"{"o":false,"e":[],"m":{},"d":"0"}"#, &PROBE).unwrap(),
            r#"{"z":"","n":null,"o":false,"d":"0s"}"#
        );
    }

    #[test]
    fn unknown_keys_go_and_map_keys_are_sorted() {
        assert_eq!(
            encode(r#"{"x":1, "m":{"b":["<"],"a":null}, "z":"y"}"#, &PROBE).unwrap(),
            r#"{"z":"y","n":null,"m":{"a":null,"b":["\u003c"]}}"#
        );
    }

    #[test]
    fn a_wrong_type_names_its_path() {
        let error = encode(r#"{"m":{"b":["x",5]}}"#, &PROBE).unwrap_err();
        assert_eq!(error.to_string(), "field m.b[1] is 5 where a string is allowed");
        let error = encode(r#"{"d":"3 days"}"#, &PROBE).unwrap_err();
        assert_eq!(error.path, "d");
    }

    #[test]
    fn a_pair_keeps_the_bytes_of_its_value() {
        let pair = Shape::Pair(Site::Component);
        assert_eq!(
            encode(r#"{"value": 1.50,"name":"n"}"#, &pair).unwrap(),
            r#"{"name":"n","value":1.50,"secretKeyRef":{"name":"","key":""}}"#
        );
        assert_eq!(
            encode(r#"{"name":"n","value":null,"envRef":"E"}"#, &pair).unwrap(),
            r#"{"name":"n","value":null,"secretKeyRef":{"name":"","key":""},"envRef":"E"}"#
        );
    }

    #[test]
    fn a_resolved_document_gains_a_value_before_its_reference() {
        let raw: &RawValue = serde_json::from_str(r#"{"secretKeyRef":{"name":"s","key":"k"}}"#).unwrap();
        let mut encoder = Encoder::new(Some(Resolve {
            site: Site::Endpoint,
            encoding: SecretEncoding::Base64,
            absent_key: AbsentKey::MakesNull,
        }));
        encoder.value(Some(raw), &Shape::Document(Site::Endpoint)).unwrap();
        let template = encoder.finish().finish();
        let data = BTreeMap::from([("k".to_owned(), b"v".to_vec())]);
        assert_eq!(
            template.render(|_| Lookup::Data(&data)),
            Rendered::Whole(r#"{"value":"dg==","secretKeyRef":{"name":"s","key":"k"}}"#.into())
        );
        assert_eq!(template.unresolved(), r#"{"secretKeyRef":{"name":"s","key":"k"}}"#);
    }
}
