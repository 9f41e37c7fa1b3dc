//! A resource as JSON text with gaps where values of Secrets go.
//!
//! A template is made once for each version of an object; rendering fills the gaps. The
//! result is shared by all sidecars, so an object is encoded once, not once per sidecar.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;

use super::golang;

/// How the bytes of a Secret are written into the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretEncoding {
    /// Standard padded base64: Component, HTTPEndpoint, MCPServer.
    Base64,
    /// The text itself: Configuration.
    Plain,
}

/// What a key that the Secret lacks means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentKey {
    /// The value stays as the manifest has it.
    KeepsValue,
    /// The value becomes `null`.
    MakesNull,
    /// The object cannot be served.
    Refuses,
}

/// A place in a template that takes a value of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The name of the Secret, in the object's namespace.
    pub secret: String,
    /// The key in it, as the manifest has it: possibly empty.
    pub key: String,
    /// The name of the pair, for error texts.
    pub pair: String,
    /// How the value is written.
    pub encoding: SecretEncoding,
    /// What happens when the key is absent.
    pub absent_key: AbsentKey,
    /// Text before a resolved value.
    pub before: &'static str,
    /// Text after a resolved value.
    pub after: &'static str,
    /// What stands here when nothing was resolved.
    pub unresolved: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Slot(Box<Slot>),
}

/// JSON text with slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

/// What is known of a Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// Its data, possibly of a Secret that has vanished since.
    Data(&'a BTreeMap<String, Vec<u8>>),
    /// It was looked for and does not exist.
    Missing,
    /// Nobody has looked yet.
    Unknown,
}

/// A filled template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rendered {
    /// Every slot is settled.
    Whole(Bytes),
    /// Some Secret has not been looked up yet.
    Waiting,
    /// Some Secret does not exist; its slots are left unresolved.
    Partial(Bytes),
    /// The object cannot be served, and why.
    Refused(String),
}

enum Filled {
    Resolved,
    Missing,
    Waiting,
    Refused(String),
}

impl Template {
    /// The names of the Secrets the slots refer to; a name may repeat.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Slot(slot) => Some(slot.secret.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Fills the slots.
    pub fn render<'a>(&self, lookup: impl Fn(&str) -> Lookup<'a>) -> Rendered {
        let mut out = Vec::new();
        let mut missing = false;
        for part in &self.parts {
            let slot = match part {
                Part::Text(text) => {
                    out.extend_from_slice(text);
                    continue;
                }
                Part::Slot(slot) => slot,
            };
            match slot.fill(lookup(&slot.secret), &mut out) {
                Filled::Resolved => {}
                Filled::Missing => missing = true,
                Filled::Waiting => return Rendered::Waiting,
                Filled::Refused(reason) => return Rendered::Refused(reason),
            }
        }
        if missing { Rendered::Partial(out.into()) } else { Rendered::Whole(out.into()) }
    }

    /// The text with every slot left unresolved.
    pub fn unresolved(&self) -> Bytes {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Slot(slot) => out.extend_from_slice(&slot.unresolved),
            }
        }
        out.into()
    }
}

impl Slot {
    fn fill(&self, lookup: Lookup<'_>, out: &mut Vec<u8>) -> Filled {
        if self.absent_key == AbsentKey::Refuses && self.key.is_empty() {
            return Filled::Refused(format!("secret key is required for header {}", self.pair));
        }
        match lookup {
            Lookup::Unknown => Filled::Waiting,
            Lookup::Missing if self.absent_key == AbsentKey::Refuses => {
                let Self { secret, pair, .. } = self;
                Filled::Refused(format!(
                    "failed to get secret {secret} for header {pair}: Secret \"{secret}\" not found"
                ))
            }
            Lookup::Missing => {
                out.extend_from_slice(&self.unresolved);
                Filled::Missing
            }
            Lookup::Data(data) => self.fill_from(data, out),
        }
    }

    fn fill_from(&self, data: &BTreeMap<String, Vec<u8>>, out: &mut Vec<u8>) -> Filled {
        let key = if self.key.is_empty() { &self.secret } else { &self.key };
        if let Some(value) = data.get(key) {
            out.extend_from_slice(self.before.as_bytes());
            match self.encoding {
                SecretEncoding::Plain => golang::push_json_bytes(value, out),
                SecretEncoding::Base64 => {
                    let text = base64::engine::general_purpose::STANDARD.encode(value);
                    golang::push_json_string(&text, out);
                }
            }
            out.extend_from_slice(self.after.as_bytes());
            return Filled::Resolved;
        }
        match self.absent_key {
            AbsentKey::KeepsValue => out.extend_from_slice(&self.unresolved),
            AbsentKey::MakesNull => {
                out.extend_from_slice(self.before.as_bytes());
                out.extend_from_slice(b"null");
                out.extend_from_slice(self.after.as_bytes());
            }
            AbsentKey::Refuses => {
                return Filled::Refused(format!("key {key} not found in secret {}", self.secret));
            }
        }
        Filled::Resolved
    }
}

/// A template being written.
#[derive(Debug, Default)]
pub struct Draft {
    parts: Vec<Part>,
    text: Vec<u8>,
}

/// A place in a draft to come back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    parts: usize,
    text: usize,
}

impl Draft {
    /// The buffer that text is appended to.
    pub fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Appends a slot.
    pub fn slot(&mut self, slot: Slot) {
        self.parts.push(Part::Text(std::mem::take(&mut self.text)));
        self.parts.push(Part::Slot(Box::new(slot)));
    }

    /// The present end.
    pub fn mark(&self) -> Mark {
        Mark { parts: self.parts.len(), text: self.text.len() }
    }

    /// The text since `mark`, if it holds no slot.
    pub fn since(&self, mark: Mark) -> Option<&[u8]> {
        (self.parts.len() == mark.parts).then(|| &self.text[mark.text..])
    }

    /// Takes back the text since `mark`, which holds no slot.
    pub fn rewind(&mut self, mark: Mark) {
        debug_assert_eq!(self.parts.len(), mark.parts, "a slot is never taken back");
        self.text.truncate(mark.text);
    }

    /// The finished template.
    pub fn finish(mut self) -> Template {
        self.parts.push(Part::Text(self.text));
        Template { parts: self.parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(absent_key: AbsentKey, encoding: SecretEncoding) -> Template {
        let mut draft = Draft::default();
        draft.text().extend_from_slice(b"[");
        draft.slot(Slot {
            secret: "redis".into(),
            key: "password".into(),
            pair: "redisPassword".into(),
            encoding,
            absent_key,
            before: "",
            after: "",
            unresolved: b"\"old\"".to_vec(),
        });
        draft.text().extend_from_slice(b"]");
        draft.finish()
    }

    fn data(key: &str) -> BTreeMap<String, Vec<u8>> {
        BTreeMap::from([(key.to_owned(), b"a<b".to_vec())])
    }

    #[test]
    fn a_known_key_is_written_as_base64_or_as_plain_text() {
        let data = data("password");
        let base64 = template(AbsentKey::KeepsValue, SecretEncoding::Base64);
        assert_eq!(base64.render(|_| Lookup::Data(&data)), Rendered::Whole("[\"YTxi\"]".into()));
        let plain = template(AbsentKey::Refuses, SecretEncoding::Plain);
        assert_eq!(plain.render(|_| Lookup::Data(&data)), Rendered::Whole("[\"a\\u003cb\"]".into()));
    }

    #[test]
    fn an_absent_key_keeps_the_value_or_makes_it_null_or_refuses() {
        let data = data("other");
        let render = |absent| template(absent, SecretEncoding::Base64).render(|_| Lookup::Data(&data));
        assert_eq!(render(AbsentKey::KeepsValue), Rendered::Whole("[\"old\"]".into()));
        assert_eq!(render(AbsentKey::MakesNull), Rendered::Whole("[null]".into()));
        assert_eq!(render(AbsentKey::Refuses), Rendered::Refused("key password not found in secret redis".into()));
    }

    #[test]
    fn a_missing_secret_leaves_its_slots_unresolved() {
        let template = template(AbsentKey::MakesNull, SecretEncoding::Base64);
        assert_eq!(template.render(|_| Lookup::Missing), Rendered::Partial("[\"old\"]".into()));
        assert_eq!(template.render(|_| Lookup::Unknown), Rendered::Waiting);
        assert_eq!(template.unresolved(), "[\"old\"]");
        assert_eq!(template.secrets().collect::<Vec<_>>(), ["redis"]);
    }
}
