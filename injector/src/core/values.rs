//! How annotation and environment text becomes a value: upstream's rules, byte for byte.
//!
//! Nothing here fails: text that is not the wanted kind is `None` (or false), and the
//! caller decides whether that deserves a warning.

/// Whether `text` means yes: `y`, `yes`, `true`, `t`, `on` or `1`, trimmed, in any case.
pub fn is_truthy(text: &str) -> bool {
    matches!(text.trim().to_lowercase().as_str(), "y" | "yes" | "true" | "t" | "on" | "1")
}

/// As [`is_truthy`], but empty text means yes.
pub fn is_truthy_or_empty(text: &str) -> bool {
    text.is_empty() || is_truthy(text)
}

/// A base-10 signed 64-bit integer; spaces are not forgiven.
pub fn parse_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// An address without the quotes and spaces around it.
pub fn clean_address(text: &str) -> &str {
    text.trim_matches(['"', '\'']).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truthy_words_are_trimmed_and_case_blind_and_everything_else_is_false() {
        for yes in ["y", "YES", " true ", "T", "On", "1"] {
            assert!(is_truthy(yes), "{yes:?}");
        }
        for no in ["", "0", "no", "truee", "enabled", "2", "t rue"] {
            assert!(!is_truthy(no), "{no:?}");
        }
        assert!(is_truthy_or_empty(""));
        assert!(!is_truthy_or_empty(" "));
    }

    #[test]
    fn integers_are_strict() {
        assert_eq!(parse_int("-1"), Some(-1));
        assert_eq!(parse_int("+7"), Some(7));
        for bad in ["", " 1", "1 ", "0x10", "1_000", "9223372036854775808", "1.0"] {
            assert_eq!(parse_int(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn addresses_made_of_quotes_and_spaces_are_empty() {
        assert_eq!(clean_address("''"), "");
        assert_eq!(clean_address("\" \""), "");
        assert_eq!(clean_address("\"host:1\""), "host:1");
    }
}
