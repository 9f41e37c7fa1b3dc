//! Shell-like patterns for service-account names, with the meaning of Go's `path.Match`.
//!
//! `*` matches any run without `/`, `?` one character other than `/`, `[a-z]` a class,
//! `[^a-z]` its negation, `\c` the character `c`. A pattern is checked whole when it is
//! parsed, so that matching cannot fail.

/// One parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    AnyOne,
    AnyRun,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// The pattern has an unfinished or empty class, or ends in `\`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

impl Glob {
    /// Reads a pattern.
    pub fn parse(pattern: &str) -> Result<Self, BadPattern> {
        let mut chars = pattern.chars().peekable();
        let mut tokens = Vec::new();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::AnyRun,
                '?' => Token::AnyOne,
                '\\' => Token::Literal(chars.next().ok_or(BadPattern)?),
                '[' => parse_class(&mut chars)?,
                c => Token::Literal(c),
            });
        }
        Ok(Self { tokens })
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut token, mut at) = (0, 0);
        // The last `*` passed and how much of the text it has taken so far: on a mismatch
        // it takes one more. One level is enough, a later `*` makes earlier ones settled.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let here = text.get(at).copied();
            match (self.tokens.get(token), here) {
                (None, None) => return true,
                (Some(Token::AnyRun), _) => {
                    retry = Some((token, at));
                    token += 1;
                    continue;
                }
                (Some(wanted), Some(c)) if wanted.accepts(c) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match retry {
                Some((star, taken)) if text.get(taken).is_some_and(|c| *c != '/') => {
                    retry = Some((star, taken + 1));
                    token = star + 1;
                    at = taken + 1;
                }
                _ => return false,
            }
        }
    }
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Self::Literal(wanted) => *wanted == c,
            Self::AnyOne => c != '/',
            Self::AnyRun => false,
            Self::Class { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

fn parse_class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, BadPattern> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { class_char(chars)? } else { low };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, BadPattern> {
    match chars.next() {
        None | Some('-' | ']') => Err(BadPattern),
        Some('\\') => chars.next().ok_or(BadPattern),
        Some(c) => Ok(c),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::parse(pattern).unwrap().matches(text)
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "abc"),
            ("a*c", "abbbc"),
            ("a*b*c", "aXbYbZc"),
            ("staging-?", "staging-A"),
            ("[a-c]x", "bx"),
            ("[^a-c]x", "dx"),
            ("[!a]", "!"),
            ("v[0-9]*", "v1beta"),
            ("\\*", "*"),
            ("[\\]]", "]"),
            ("", ""),
        ] {
            assert!(matches(pattern, text), "{pattern:?} {text:?}");
        }
        for (pattern, text) in [
            ("staging-?", "staging-AB"),
            ("staging-?", "staging-"),
            ("*", "a/b"),
            ("?", "/"),
            ("[a-c]", "d"),
            ("[^a-c]", "a"),
            ("deployment-controller", "deployment-controller-extra"),
            ("a*c", "ab"),
            ("", "x"),
        ] {
            assert!(!matches(pattern, text), "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn unfinished_patterns_are_refused() {
        for bad in ["[", "[a", "[]", "[]a]", "[-]", "[a-]", "[^]", "\\", "a[b\\"] {
            assert_eq!(Glob::parse(bad), Err(BadPattern), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_literal_name_matches_itself_only(name in "[a-z0-9.-]{1,20}", other in "[a-z0-9.-]{1,20}") {
            let glob = Glob::parse(&name).unwrap();
            prop_assert!(glob.matches(&name));
            prop_assert_eq!(glob.matches(&other), name == other);
        }

        #[test]
        fn any_pattern_and_text_are_answered(pattern in ".{0,20}", text in ".{0,20}") {
            if let Ok(glob) = Glob::parse(&pattern) {
                let _ = glob.matches(&text);
            }
        }
    }
}
