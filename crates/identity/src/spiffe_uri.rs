//! Any valid SPIFFE ID, whatever its path: what a certificate may carry.
//!
//! Parsing follows go-spiffe byte for byte, including which of several faults is reported.
//! Dapr's own shape, `/ns/<namespace>/<app id>`, is [`crate::SpiffeId`].

use std::{fmt, str::FromStr, sync::Arc};

use crate::{TrustDomain, segment::is_segment_byte};

const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE ID, trust domain or path segment; texts as go-spiffe's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("cannot be empty")]
    Empty,
    /// The text does not begin with `spiffe://`.
    #[error("scheme is missing or invalid")]
    Scheme,
    /// Nothing stands where the trust domain belongs.
    #[error("trust domain is missing")]
    MissingTrustDomain,
    /// The trust domain has an illegal character.
    #[error("trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores")]
    TrustDomainChar,
    /// A path segment has an illegal character.
    #[error("path segment characters are limited to letters, numbers, dots, dashes, and underscores")]
    SegmentChar,
    /// A path segment is empty.
    #[error("path cannot contain empty segments")]
    EmptySegment,
    /// A path segment is `.` or `..`.
    #[error("path cannot contain dot segments")]
    DotSegment,
    /// The path ends in a slash.
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
    /// The ID is valid but does not have exactly Dapr's `/ns/<namespace>/<app id>` path.
    #[error("path must be /ns/<namespace>/<app id>")]
    Shape,
}

/// A valid SPIFFE ID with any path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeUri {
    trust_domain: TrustDomain,
    path: Arc<str>,
}

impl SpiffeUri {
    /// Reads a SPIFFE ID.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(NameError::Scheme)?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = TrustDomain::parse_bare(domain)?;
        check_path(path)?;
        Ok(Self { trust_domain, path: path.into() })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path, empty or beginning with a slash.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Checks an empty path or one that begins with a slash, reporting the first fault.
fn check_path(path: &str) -> Result<(), NameError> {
    let Some(path) = path.strip_prefix('/') else {
        return Ok(());
    };
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        if !segment.bytes().all(is_segment_byte) {
            return Err(NameError::SegmentChar);
        }
        match segment {
            "" if segments.peek().is_none() => return Err(NameError::TrailingSlash),
            "" => return Err(NameError::EmptySegment),
            "." | ".." => return Err(NameError::DotSegment),
            _ => {}
        }
    }
    Ok(())
}

impl FromStr for SpiffeUri {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl fmt::Display for SpiffeUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

impl fmt::Debug for SpiffeUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
