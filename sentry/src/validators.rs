//! The validators that are enabled, and what they answer (contract §4.5).
//!
//! A verdict on the caller is a [`Refusal`] at once. Transient trouble is retried inside the
//! call until its deadline and then reported as such, never as a verdict (RULINGS 14).

pub mod jwks;
pub mod kubernetes;

use proto::sentry::v1::sign_certificate_request::TokenValidator;
use tokio::time::Instant;

use crate::core::asked::{self, Asked, Caller, Refusal};
use jwks::JwksValidator;
use kubernetes::KubernetesValidator;

/// Why a caller was not authenticated.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The request names no validator and there is no default.
    #[error("a validator name must be specified in this environment")]
    MustSpecify,
    /// The validator is not enabled, or there is no such validator.
    #[error("the requested validator is not enabled")]
    NotEnabled,
    /// The caller is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No verdict was possible in time.
    #[error("{0}")]
    Unavailable(String),
}

/// The enabled validators.
#[derive(Debug, Default)]
pub struct Validators {
    /// Kubernetes tokens; the default where it is enabled.
    pub kubernetes: Option<KubernetesValidator>,
    /// Tokens checked against a key set; never the default.
    pub jwks: Option<JwksValidator>,
    /// No check at all; the default where it is enabled.
    pub insecure: bool,
}

impl Validators {
    /// The validator that a request with this field uses, with its name in logs and metrics.
    pub fn name(&self, requested: i32) -> &'static str {
        match self.resolve(requested) {
            Ok(TokenValidator::Kubernetes) => "kubernetes",
            Ok(TokenValidator::Jwks) => "jwks",
            Ok(TokenValidator::Insecure) => "insecure",
            Ok(TokenValidator::Unknown) | Err(_) => "none",
        }
    }

    fn resolve(&self, requested: i32) -> Result<TokenValidator, AuthError> {
        let validator = TokenValidator::try_from(requested).map_err(|_| AuthError::NotEnabled)?;
        let enabled = match validator {
            TokenValidator::Unknown if self.kubernetes.is_some() => return Ok(TokenValidator::Kubernetes),
            TokenValidator::Unknown if self.insecure => return Ok(TokenValidator::Insecure),
            TokenValidator::Unknown => return Err(AuthError::MustSpecify),
            TokenValidator::Kubernetes => self.kubernetes.is_some(),
            TokenValidator::Jwks => self.jwks.is_some(),
            TokenValidator::Insecure => self.insecure,
        };
        if enabled { Ok(validator) } else { Err(AuthError::NotEnabled) }
    }

    /// Authenticates a caller with the validator it asks for.
    pub async fn authenticate(
        &self,
        requested: i32,
        asked: &Asked<'_>,
        token: &str,
        deadline: Instant,
    ) -> Result<Caller, AuthError> {
        match (self.resolve(requested)?, &self.kubernetes, &self.jwks) {
            (TokenValidator::Kubernetes, Some(kubernetes), _) => kubernetes.authenticate(asked, token, deadline).await,
            (TokenValidator::Jwks, _, Some(jwks)) => jwks.authenticate(asked, token, deadline).await,
            (TokenValidator::Insecure, _, _) => {
                let trust_domain = asked::check(asked)?;
                Ok(Caller { trust_domain, service_account: None, pod: None })
            }
            _ => Err(AuthError::NotEnabled),
        }
    }
}
