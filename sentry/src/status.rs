//! From what happened to what the caller sees, and to the reason code of the audit log.
//!
//! Codes and texts are upstream's where existing clients see them (contract §3.4): a refusal by
//! a validator is `PermissionDenied`. What is ours is `Internal` with a fixed text.

use tonic::{Code, Status};

use crate::{
    core::{asked::ApproveError, csr::CsrError},
    issuer::IssueError,
    signing::CryptoError,
    validators::AuthError,
};

/// Why a call got no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The caller was not authenticated.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The caller's request cannot be signed.
    #[error(transparent)]
    Approve(#[from] ApproveError),
    /// The issuer did not sign.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A token was not signed.
    #[error("failed to generate JWT: {0}")]
    Jwt(CryptoError),
    /// A token for one audience was not signed.
    #[error("failed to generate JWT for audience {audience}: {source}")]
    AudienceJwt {
        /// The audience.
        audience: String,
        /// Why.
        source: CryptoError,
    },
}

impl SignError {
    /// The reason code of audit log and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Auth(AuthError::MustSpecify | AuthError::NotEnabled) => "validator",
            Self::Auth(AuthError::Refused(refusal)) => refusal.reason(),
            Self::Auth(AuthError::Unavailable(_)) => "unavailable",
            Self::Approve(ApproveError::Csr(_)) => "csr",
            Self::Approve(ApproveError::Name { .. }) => "name",
            Self::Issue(IssueError::Expiring(_)) => "issuer_expired",
            Self::Issue(IssueError::Crypto(_)) | Self::Jwt(_) | Self::AudienceJwt { .. } => "internal",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Auth(AuthError::MustSpecify | AuthError::NotEnabled)
            | Self::Approve(ApproveError::Csr(
                CsrError::NotACsr | CsrError::Unreadable { .. } | CsrError::Signature(_),
            )) => Code::InvalidArgument,
            Self::Auth(AuthError::Refused(_)) => Code::PermissionDenied,
            Self::Auth(AuthError::Unavailable(_)) => Code::Unavailable,
            Self::Issue(IssueError::Expiring(_)) => Code::FailedPrecondition,
            // Upstream notices illegal names only when it signs.
            Self::Approve(ApproveError::Name { .. })
            | Self::Issue(IssueError::Crypto(_))
            | Self::Jwt(_)
            | Self::AudienceJwt { .. } => Code::Internal,
        }
    }
}

impl From<&SignError> for Status {
    fn from(error: &SignError) -> Self {
        let text = match error {
            SignError::Approve(ApproveError::Name { .. }) | SignError::Issue(IssueError::Crypto(_)) => {
                "failed to sign certificate".into()
            }
            SignError::Auth(_)
            | SignError::Approve(ApproveError::Csr(_))
            | SignError::Issue(IssueError::Expiring(_))
            | SignError::Jwt(_)
            | SignError::AudienceJwt { .. } => error.to_string(),
        };
        Self::new(error.code(), text)
    }
}
