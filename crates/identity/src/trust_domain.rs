//! A SPIFFE trust domain: the first part of every workload's name.
//!
//! Parsing follows go-spiffe, whose texts reach users through sentry's refusals: a bare
//! name is checked character by character, anything that contains `:/` is read as a whole
//! SPIFFE ID and its trust domain taken. A `TrustDomain` that exists is valid.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{SpiffeUri, spiffe_uri::NameError};

/// A valid trust domain: not empty, only lowercase letters, digits, dots, dashes, underscores.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The trust domain of workloads that name none.
    pub const DEFAULT_WORKLOAD: &'static str = "public";

    /// Reads a bare trust domain, or the trust domain of a whole `spiffe://` ID.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::MissingTrustDomain);
        }
        if text.contains(":/") {
            return SpiffeUri::parse(text).map(|uri| uri.trust_domain().clone());
        }
        Self::parse_bare(text)
    }

    /// Reads a bare trust domain only.
    pub(crate) fn parse_bare(text: &str) -> Result<Self, NameError> {
        if !text.bytes().all(is_trust_domain_byte) {
            return Err(NameError::TrustDomainChar);
        }
        if text.is_empty() {
            return Err(NameError::MissingTrustDomain);
        }
        Ok(Self(text.into()))
    }

    /// The default trust domain of workloads, `public`.
    pub fn public() -> Self {
        Self(Self::DEFAULT_WORKLOAD.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_trust_domain_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')
}

impl FromStr for TrustDomain {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<TrustDomain> for String {
    fn from(name: TrustDomain) -> Self {
        name.as_str().to_owned()
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
