//! The two names that fill a SPIFFE path: the namespace and the app id.
//!
//! Both are one legal path segment and nothing more: stricter rules (length, no dots in an
//! app id, Kubernetes' own name rules) belong to whoever hands the name out. A value that
//! exists can stand in a SPIFFE ID.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::spiffe_uri::NameError;

/// Checks that `text` may be one segment of a SPIFFE path.
pub(crate) fn check_segment(text: &str) -> Result<(), NameError> {
    match text {
        "" => Err(NameError::EmptySegment),
        "." | ".." => Err(NameError::DotSegment),
        _ if text.bytes().all(is_segment_byte) => Ok(()),
        _ => Err(NameError::SegmentChar),
    }
}

pub(crate) fn is_segment_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

macro_rules! segment {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Reads one legal SPIFFE path segment.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check_segment(text).map(|()| Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// For names known to be legal: our own constants, and segments already checked.
            pub(crate) fn from_legal(text: &str) -> Self {
                debug_assert!(check_segment(text).is_ok());
                Self(text.into())
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    };
}

segment! {
    /// The namespace a workload runs in.
    Namespace
}

segment! {
    /// The app id of a workload, or a control-plane service's fixed one.
    AppId
}
