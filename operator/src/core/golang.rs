//! Go's ways of writing text, where the wire or an annotation fixes them: JSON strings,
//! compact JSON, and what counts as true.
//!
//! Sidecars compare dynamic values byte for byte with what upstream's Go encoder wrote
//! (RULINGS 22), so these follow `encoding/json` exactly.

/// Appends `text` as Go's `encoding/json` writes a string, quotes included.
///
/// `<`, `>`, `&`, U+2028 and U+2029 become `\u` escapes; other non-ASCII stays UTF-8.
pub fn push_json_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        push_json_char(c, out);
    }
    out.push(b'"');
}

/// Appends `bytes` as Go writes a string that holds them: invalid UTF-8 becomes `\ufffd`.
pub fn push_json_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_json_char(c, out);
        }
        // Go replaces every single invalid byte, not every maximal invalid run.
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.push(b'"');
}

fn push_json_char(c: char, out: &mut Vec<u8>) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => push_escape(c, out),
        _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn push_escape(c: char, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let code = u32::from(c);
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(HEX[(code >> shift & 0xf) as usize]);
    }
}

/// Appends valid JSON as Go re-emits a raw message: insignificant space dropped, the five
/// characters above escaped, every other byte untouched.
pub fn push_compact(json: &str, out: &mut Vec<u8>) {
    let mut in_string = false;
    let mut escaped = false;
    for c in json.chars() {
        if !in_string {
            in_string = c == '"';
            if !c.is_ascii_whitespace() {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            continue;
        }
        if matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') {
            push_escape(c, out);
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        in_string = escaped || c != '"';
        escaped = !escaped && c == '\\';
    }
}

/// Whether an annotation or flag value means yes: `y`, `yes`, `true`, `t`, `on` or `1`.
pub fn is_truthy(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "y" | "yes" | "true" | "t" | "on" | "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &str) -> String {
        let mut out = Vec::new();
        push_json_string(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn compact(json: &str) -> String {
        let mut out = Vec::new();
        push_compact(json, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        assert_eq!(quoted("a<b>&\u{2028}\u{2029}"), r#""a\u003cb\u003e\u0026\u2028\u2029""#);
        assert_eq!(quoted("\"\\\u{8}\u{c}\n\r\t\u{1}"), r#""\"\\\b\f\n\r\t\u0001""#);
        assert_eq!(quoted("\u{1F600}/\u{7f}"), "\"\u{1F600}/\u{7f}\"");
    }

    #[test]
    fn each_invalid_byte_becomes_one_replacement_escape() {
        let mut out = Vec::new();
        push_json_bytes(b"a\xff\xe2\x82b", &mut out);
        assert_eq!(out, br#""a\ufffd\ufffd\ufffdb""#);
    }

    #[test]
    fn raw_values_lose_space_outside_strings_and_keep_their_spelling() {
        assert_eq!(
            compact("{ \"a b\" : [1.50, 1e3 ,\n\"x \\\" < \\\\\" , true ] }"),
            r#"{"a b":[1.50,1e3,"x \" \u003c \\",true]}"#
        );
    }

    #[test]
    fn only_the_six_yes_words_are_truthy() {
        for yes in ["y", "YES", " true ", "T", "on", "1"] {
            assert!(is_truthy(yes), "{yes:?}");
        }
        for no in ["", "0", "false", "enabled", "2"] {
            assert!(!is_truthy(no), "{no:?}");
        }
    }
}
