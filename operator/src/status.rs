//! What a caller is answered instead of resources. Codes and texts are upstream's where
//! sidecars key on them (contract operator.md §3.3, §7.2).

use tonic::{Code, Status};

use crate::hub::Unavailable;

/// A call gets no resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The peer has no Dapr identity.
    #[error("failed to determine identity")]
    NoIdentity,
    /// The peer asks for a namespace that is not its own.
    #[error("identity does not match requested namespace exp={requested} got={identity}")]
    OtherNamespace {
        /// What it asks for.
        requested: String,
        /// Its own.
        identity: String,
    },
    /// The same, for the one method that wraps the text.
    #[error("failed to authorize configuration update request: rpc error: code = PermissionDenied desc = {0}")]
    Configuration(Box<Refusal>),
    /// The namespace is outside `--watch-namespace`.
    #[error("{action}: unable to get: {namespace} because of unknown namespace for the cache")]
    Unwatched {
        /// What was tried.
        action: &'static str,
        /// The namespace.
        namespace: String,
    },
    /// There is no such object.
    #[error("{action}: {kind}.dapr.io \"{name}\" not found")]
    NotFound {
        /// What was tried.
        action: String,
        /// The kind.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The secrets of a Configuration cannot be resolved.
    #[error("error processing configuration secrets: {0}")]
    ConfigurationSecrets(String),
    /// It may work later.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The process stops.
    #[error("operator is shutting down")]
    ShuttingDown,
}

impl Refusal {
    fn code(&self) -> Code {
        match self {
            Self::NoIdentity | Self::OtherNamespace { .. } | Self::Configuration(_) => Code::PermissionDenied,
            // Upstream's code for a plain error. Sidecars fail on it at once, as they should:
            // trying again does not help.
            Self::Unwatched { .. } | Self::NotFound { .. } | Self::ConfigurationSecrets(_) => Code::Unknown,
            // Sidecars try these again.
            Self::Unavailable(_) | Self::ShuttingDown => Code::Unavailable,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_upstreams_code_and_text() {
        let other = Refusal::OtherNamespace { requested: "a".into(), identity: "b".into() };
        let rows = [
            (Refusal::NoIdentity, Code::PermissionDenied, "failed to determine identity"),
            (other.clone(), Code::PermissionDenied, "identity does not match requested namespace exp=a got=b"),
            (
                Refusal::Configuration(Box::new(other)),
                Code::PermissionDenied,
                "failed to authorize configuration update request: rpc error: code = PermissionDenied desc = identity does not match requested namespace exp=a got=b",
            ),
            (
                Refusal::NotFound {
                    action: "error getting configuration a/c".into(),
                    kind: "Configuration",
                    name: "c".into(),
                },
                Code::Unknown,
                "error getting configuration a/c: Configuration.dapr.io \"c\" not found",
            ),
            (
                Refusal::Unwatched { action: "error getting components", namespace: "a".into() },
                Code::Unknown,
                "error getting components: unable to get: a because of unknown namespace for the cache",
            ),
            (Refusal::ConfigurationSecrets("x".into()), Code::Unknown, "error processing configuration secrets: x"),
            (
                Unavailable::NotLoaded { kind: "Component" }.into(),
                Code::Unavailable,
                "Component resources are not loaded yet",
            ),
            (Refusal::ShuttingDown, Code::Unavailable, "operator is shutting down"),
        ];
        for (refusal, code, text) in rows {
            let status = Status::from(refusal);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }
}
