//! What goes wrong with a request, and what the API server is told.
//!
//! Requests that are no admission review get an HTTP error, with upstream's texts; everything
//! that concerns a pod is HTTP 200 with `allowed: false`. Whether pods then start without a
//! sidecar is the chart's `failurePolicy`, never decided here.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{
    cluster::ListError,
    core::{
        Refusal,
        review::{UnreadableObject, Verdict},
    },
};

/// The request is no admission review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// No body, or one that could not be read.
    #[error("empty body")]
    Empty,
    /// Not JSON, or not said to be.
    #[error("invalid Content-Type, expected `application/json`")]
    ContentType,
    /// Larger than any review the API server sends.
    #[error("body exceeds {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("body was not received in time")]
    TooSlow,
}

impl IntoResponse for BadRequest {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Empty => StatusCode::BAD_REQUEST,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        };
        (status, format!("{self}\n")).into_response()
    }
}

/// A pod that asked for a sidecar cannot get one.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// The pod cannot be read.
    #[error("could not unmarshal raw object: {0}")]
    Object(#[from] UnreadableObject),
    /// The review asks nothing.
    #[error("the admission review has no request")]
    NoRequest,
    /// There is nothing a sidecar could trust.
    #[error("trust anchors are not available yet")]
    NoTrustAnchors,
    /// The pod asks for component containers and they cannot be listed.
    #[error("error when fetching components: {0}")]
    Components(#[from] ListError),
    /// The pod itself is wrong.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl InjectError {
    /// Whether the control plane is at fault, not the pod or its sender.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::NoTrustAnchors | Self::Components(_) => true,
            Self::Object(_) | Self::NoRequest | Self::Refused(_) => false,
        }
    }

    /// The answer. Upstream denies in all of these cases with the error's text, which users
    /// see and tools match.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Object(_) | Self::NoRequest | Self::NoTrustAnchors | Self::Components(_) | Self::Refused(_) => {
                Verdict::Deny { message: self.to_string() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_request_has_its_status() {
        for (bad, status) in [
            (BadRequest::Empty, 400),
            (BadRequest::ContentType, 415),
            (BadRequest::TooLarge { limit: 1 }, 413),
            (BadRequest::TooSlow, 408),
        ] {
            assert_eq!(bad.into_response().status().as_u16(), status, "{bad:?}");
        }
    }
}
