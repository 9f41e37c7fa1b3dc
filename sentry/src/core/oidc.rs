//! What the OIDC discovery server answers (contract §8), from the request's parts.

use serde::Serialize;

use super::{jwks::JwkSet, jwt::Algorithm};

/// The server's settings.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// Issuer of the tokens, if configured and not empty.
    pub issuer: Option<String>,
    /// Fixed JWKS address.
    pub jwks_uri: Option<String>,
    /// Path prefix without a trailing slash.
    pub prefix: String,
    /// Allowed hosts; empty for any.
    pub allowed_hosts: Vec<String>,
    /// Algorithm of the tokens.
    pub algorithm: Algorithm,
    /// Whether the server speaks TLS.
    pub tls: bool,
}

/// The parts of a request that matter.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Method.
    pub method: &'a str,
    /// Path.
    pub path: &'a str,
    /// `Host`.
    pub host: &'a str,
    /// `X-Forwarded-Host`, or empty.
    pub forwarded_host: &'a str,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200 with JSON.
    Json(String),
    /// An error with a line of text.
    Text(u16, &'static str),
}

#[derive(Serialize)]
struct Document<'a> {
    issuer: &'a str,
    jwks_uri: &'a str,
    response_types_supported: [&'a str; 1],
    subject_types_supported: [&'a str; 1],
    id_token_signing_alg_values_supported: [&'a str; 1],
    scopes_supported: [&'a str; 1],
    claims_supported: [&'a str; 7],
}

impl Discovery {
    /// Answers: path first, then host, method and content.
    pub fn answer(&self, ask: &Ask<'_>, keys: Option<&JwkSet>) -> Answer {
        let Some(path) = ask.path.strip_prefix(self.prefix.as_str()) else {
            return Answer::Text(404, "404 page not found");
        };
        let is_jwks = match path {
            "/jwks.json" => true,
            "/.well-known/openid-configuration" => false,
            _ => return Answer::Text(404, "404 page not found"),
        };
        if !self.allows(ask) {
            return Answer::Text(403, "Forbidden: unauthorized domain");
        }
        if ask.method != "GET" {
            return Answer::Text(405, "Method not allowed");
        }
        match (is_jwks, keys.filter(|keys| !keys.keys.is_empty())) {
            (true, None) => Answer::Text(404, "JWKS not available"),
            (false, None) => Answer::Text(404, "OIDC configuration not available"),
            (true, Some(keys)) => Answer::Json(keys.to_json()),
            (false, Some(_)) => self.document(ask),
        }
    }

    fn allows(&self, ask: &Ask<'_>) -> bool {
        if self.allowed_hosts.is_empty() {
            return true;
        }
        let host = if ask.forwarded_host.is_empty() { ask.host } else { ask.forwarded_host };
        self.allowed_hosts.iter().any(|allowed| allowed == "*" || allowed == host || allowed == without_port(host))
    }

    fn document(&self, ask: &Ask<'_>) -> Answer {
        let issuer = match &self.issuer {
            Some(issuer) => issuer.clone(),
            None => match self.base(ask) {
                Some(base) => base,
                None => return Answer::Text(400, "Invalid host"),
            },
        };
        let jwks_uri = match &self.jwks_uri {
            Some(uri) => uri.clone(),
            None => match origin(&issuer) {
                Some(origin) => format!("{origin}{}/jwks.json", self.prefix),
                None => return Answer::Text(400, "Invalid host"),
            },
        };
        let document = Document {
            issuer: &issuer,
            jwks_uri: &jwks_uri,
            response_types_supported: ["id_token"],
            subject_types_supported: ["public"],
            id_token_signing_alg_values_supported: [self.algorithm.name()],
            scopes_supported: ["openid"],
            claims_supported: ["sub", "iss", "aud", "exp", "iat", "nbf", "use"],
        };
        Answer::Json(serde_json::to_string(&document).expect("a document of strings serialises"))
    }

    /// Scheme and host. A forwarded host counts only where a list of concrete hosts vouches
    /// for it.
    fn base(&self, ask: &Ask<'_>) -> Option<String> {
        let concrete = !self.allowed_hosts.is_empty() && !self.allowed_hosts.iter().any(|host| host == "*");
        let host = if concrete && !ask.forwarded_host.is_empty() { ask.forwarded_host } else { ask.host };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        let scheme = if self.tls { "https" } else { "http" };
        (!host.is_empty() && host.bytes().all(legal)).then(|| format!("{scheme}://{host}"))
    }
}

/// The host of `host[:port]`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Scheme and authority of an URL.
pub fn origin(url: &str) -> Option<&str> {
    let start = url.find("://")? + 3;
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |offset| start + offset);
    (start > 3 && end > start).then(|| &url[..end])
}

/// What Go's URL parser would refuse in `url`; upstream starts with everything else.
pub fn url_fault(url: &str) -> Option<&'static str> {
    if url.bytes().any(|byte| byte.is_ascii_control()) {
        return Some("invalid control character in URL");
    }
    let (before_query, _) = url.split_once('?').unwrap_or((url, ""));
    let mut escapes = before_query.split('%').skip(1);
    if !escapes.all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit())) {
        return Some("invalid URL escape");
    }
    let is_scheme = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let rest = match before_query.split_once(':') {
        Some(("", _)) => return Some("missing protocol scheme"),
        Some((scheme, rest)) if is_scheme(scheme) => rest,
        Some((path, _)) if !path.contains('/') => return Some("first path segment in URL cannot contain colon"),
        _ => before_query,
    };
    let authority = rest.strip_prefix("//")?.split(['/', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.contains([' ', '"', '<', '>', '\\', '^', '`', '{', '|', '}']) {
        return Some("invalid character in host name");
    }
    let after_address = host.rsplit_once(']').map_or(host, |(_, port)| port);
    let port = after_address.rsplit_once(':').map_or("", |(_, port)| port);
    (!port.bytes().all(|byte| byte.is_ascii_digit())).then_some("invalid port after host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_refused_as_go_refuses_them() {
        for good in [
            "https://a.example/x%20y?z=%zz#f",
            "issuer",
            "any text, no URL",
            "urn:a:b",
            "https://[::1]:80/",
            "https://u:p@h:1",
            "a/b:c",
        ] {
            assert_eq!(url_fault(good), None, "{good}");
        }
        for bad in ["https://a b", ":x", "https://h/%zz", "https://h/%2", "a\u{1}", "https://h:x/", "1a:b", "a b:c"] {
            assert!(url_fault(bad).is_some(), "{bad}");
        }
    }
}
