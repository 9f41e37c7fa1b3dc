//! The lists in `dapr.io/env`, `dapr.io/env-from-secret` and the mount annotations.
//!
//! A comma separates two variables only where a new `NAME=` begins after it; every other
//! comma belongs to the value before it.

/// A `NAME=value` entry, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Everything before the first `=`.
    pub name: &'a str,
    /// Everything after it.
    pub value: &'a str,
}

/// Where the value of a secret variable comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSource<'a> {
    /// The Secret's name.
    pub secret: &'a str,
    /// The key inside it.
    pub key: &'a str,
}

/// The entries of an environment annotation, in order; parts without `=` are dropped.
pub fn entries(list: &str) -> Vec<Entry<'_>> {
    split(list)
        .into_iter()
        .filter_map(|part| part.trim().split_once('='))
        .map(|(name, value)| Entry { name, value })
        .collect()
}

/// `secret:key`, or one name for both; more than one `:` is no source at all.
pub fn secret_source(value: &str) -> Option<SecretSource<'_>> {
    let value = value.trim();
    match value.split_once(':') {
        None => Some(SecretSource { secret: value, key: value }),
        Some((_, key)) if key.contains(':') => None,
        Some((secret, key)) => Some(SecretSource { secret: secret.trim(), key: key.trim() }),
    }
}

/// The `volume:path` pairs of a mount annotation; entries of any other form are dropped.
pub fn mounts(list: &str) -> Vec<(&str, &str)> {
    list.split(',').filter_map(|entry| entry.trim().split_once(':')).filter(|(_, path)| !path.contains(':')).collect()
}

fn split(list: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(comma) = list[at..].find(',').map(|offset| at + offset) {
        if let Some(length) = new_name(&list[comma + 1..]) {
            parts.push(&list[start..comma]);
            start = comma + 1;
            at = start + length;
        } else {
            at = comma + 1;
        }
    }
    parts.push(&list[start..]);
    parts
}

/// The length of optional space, an identifier and `=` at the start of `text`.
fn new_name(text: &str) -> Option<usize> {
    let name = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (begins_well && name[end..].starts_with('=')).then(|| text.len() - name.len() + end + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(list: &str) -> Vec<(&str, &str)> {
        entries(list).into_iter().map(|e| (e.name, e.value)).collect()
    }

    #[test]
    fn commas_inside_values_stay() {
        assert_eq!(pairs("A=1,B=x,y,C=2"), [("A", "1"), ("B", "x,y"), ("C", "2")]);
        assert_eq!(pairs("R=a.b=c,d.e=f,Z=1"), [("R", "a.b=c,d.e=f"), ("Z", "1")]);
        assert_eq!(
            pairs("HTTP_PROXY=http://proxy:3128, NO_PROXY=localhost,127.0.0.1"),
            [("HTTP_PROXY", "http://proxy:3128"), ("NO_PROXY", "localhost,127.0.0.1")]
        );
    }

    #[test]
    fn odd_parts_are_kept_or_dropped_as_upstream_does() {
        assert_eq!(pairs("A = b"), [("A ", " b")]);
        assert_eq!(pairs("nothing"), []);
        assert_eq!(pairs(""), []);
        assert_eq!(pairs("A=,B="), [("A", ""), ("B", "")]);
        assert_eq!(pairs("A=1,,B=2"), [("A", "1,"), ("B", "2")]);
        assert_eq!(pairs("A=1,B =2"), [("A", "1,B =2")]);
        assert_eq!(pairs("A=1,2B=3"), [("A", "1,2B=3")]);
        assert_eq!(pairs("A=\"x,y\""), [("A", "\"x,y\"")]);
    }

    #[test]
    fn secrets_are_named_with_or_without_a_key() {
        assert_eq!(secret_source(" db : password "), Some(SecretSource { secret: "db", key: "password" }));
        assert_eq!(secret_source("token"), Some(SecretSource { secret: "token", key: "token" }));
        assert_eq!(secret_source("a:b:c"), None);
        assert_eq!(secret_source(":"), Some(SecretSource { secret: "", key: "" }));
    }

    #[test]
    fn mounts_need_exactly_one_colon() {
        assert_eq!(mounts("certs:/certs, data:/d,bad,a:b:c,"), [("certs", "/certs"), ("data", "/d")]);
    }

    proptest! {
        #[test]
        fn any_text_is_split_without_a_panic(text in "\\PC{0,40}") {
            let _ = entries(&text);
            let _ = mounts(&text);
        }
    }
}
