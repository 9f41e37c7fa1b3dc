//! The token a component shows sentry, read again for every fetch.

use std::{
    io,
    path::{Path, PathBuf},
};

use proto::sentry::v1::sign_certificate_request::TokenValidator as WireValidator;

/// Where the projected token with sentry as audience is mounted.
const SENTRY_TOKEN: &str = "/var/run/secrets/dapr.io/sentrytoken/token";
/// The service account's own token, used only where the former does not exist.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Which of sentry's validators shall check the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenValidator {
    /// Sentry's default.
    Unspecified,
    /// The Kubernetes token review.
    Kubernetes,
    /// A key set.
    Jwks,
}

impl TokenValidator {
    pub(super) fn wire(self) -> i32 {
        match self {
            Self::Unspecified => WireValidator::Unknown.into(),
            Self::Kubernetes => WireValidator::Kubernetes.into(),
            Self::Jwks => WireValidator::Jwks.into(),
        }
    }
}

/// Where a component's token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// No token: sentry outside Kubernetes without validators.
    None,
    /// The token files of a Kubernetes pod.
    KubernetesPod,
    /// A file named by the environment variable `DAPR_SENTRY_TOKEN_FILE`.
    File {
        /// The file.
        path: PathBuf,
        /// What checks it.
        validator: TokenValidator,
    },
}

/// The token cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// `DAPR_SENTRY_TOKEN_FILE` is set but empty.
    #[error("environment variable DAPR_SENTRY_TOKEN_FILE is set but empty; give it a file or unset it")]
    EmptyVariable,
    /// The file cannot be read.
    #[error("sentry token file {path:?} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The file is empty.
    #[error("sentry token file {path:?} is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Where a component runs, which decides its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// In a pod.
    Kubernetes,
    /// Anywhere else.
    Standalone,
}

impl TokenSource {
    /// The rule of contract sentry.md §14: `token_file` is the value of the environment
    /// variable `DAPR_SENTRY_TOKEN_FILE`, `None` if unset.
    pub fn choose(host: Host, token_file: Option<&str>) -> Result<Self, TokenError> {
        match (token_file, host) {
            (Some(""), _) => Err(TokenError::EmptyVariable),
            (Some(path), _) => Ok(Self::File {
                path: path.into(),
                validator: match host {
                    Host::Kubernetes => TokenValidator::Kubernetes,
                    Host::Standalone => TokenValidator::Jwks,
                },
            }),
            (None, Host::Kubernetes) => Ok(Self::KubernetesPod),
            (None, Host::Standalone) => Ok(Self::None),
        }
    }

    /// The token now and what checks it.
    pub(super) async fn read(&self) -> Result<(String, TokenValidator), TokenError> {
        match self {
            Self::None => Ok((String::new(), TokenValidator::Unspecified)),
            Self::File { path, validator } => Ok((read_file(path).await?, *validator)),
            Self::KubernetesPod => {
                let token = read_pod(Path::new(SENTRY_TOKEN), Path::new(SERVICE_ACCOUNT_TOKEN));
                Ok((token.await?, TokenValidator::Kubernetes))
            }
        }
    }
}

/// The second file counts only if the first does not exist.
async fn read_pod(projected: &Path, fallback: &Path) -> Result<String, TokenError> {
    match read_file(projected).await {
        Err(TokenError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            read_file(fallback).await
        }
        other => other,
    }
}

async fn read_file(path: &Path) -> Result<String, TokenError> {
    match tokio::fs::read_to_string(path).await {
        Ok(token) if token.is_empty() => Err(TokenError::Empty { path: path.into() }),
        Ok(token) => Ok(token),
        Err(source) => Err(TokenError::Unreadable { path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_service_accounts_token_counts_only_where_the_projected_one_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let (projected, fallback) = (folder.path().join("sentry"), folder.path().join("account"));
        std::fs::write(&fallback, "account").unwrap();
        assert_eq!(read_pod(&projected, &fallback).await.unwrap(), "account");
        std::fs::write(&projected, "").unwrap();
        let empty = read_pod(&projected, &fallback).await.unwrap_err();
        assert!(matches!(empty, TokenError::Empty { path } if path == projected));
        std::fs::write(&projected, "sentry").unwrap();
        assert_eq!(read_pod(&projected, &fallback).await.unwrap(), "sentry");
        std::fs::remove_file(&projected).unwrap();
        std::fs::create_dir(&projected).unwrap();
        let unreadable = read_pod(&projected, &fallback).await.unwrap_err();
        assert!(matches!(unreadable, TokenError::Unreadable { path, .. } if path == projected));
    }

    #[test]
    fn the_validator_follows_where_the_component_runs() {
        let choose = |host| match TokenSource::choose(host, Some("/token")).unwrap() {
            TokenSource::File { validator, .. } => validator,
            other => panic!("{other:?}"),
        };
        assert_eq!(choose(Host::Kubernetes), TokenValidator::Kubernetes);
        assert_eq!(choose(Host::Standalone), TokenValidator::Jwks);
    }
}
