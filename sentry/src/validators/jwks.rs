//! Tokens signed by a key of a JWKS (contract §4.4): the set is given inline, in a file that is
//! followed, or at an URL that is fetched again as its cache headers say and, at most every ten
//! seconds, when a token names a key that is not in it.

mod fetch;

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use identity::{AppId, Namespace, SpiffeId};
use runtime::{BoxError, CancellationToken, duration::GoDuration, health::Target};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout_at},
};

use super::AuthError;
use crate::{
    clock::unix_now,
    core::{
        asked::{self, Asked, Caller, Refusal},
        jwks::{JwkSet, JwksError},
        jws::{Expected, TokenFault, verify},
    },
    keeper::chain,
};
use fetch::Fetcher;

/// How often a file is looked at.
const FILE_POLL: Duration = Duration::from_secs(2);
/// Pause after a failed fetch, and the least between two fetches for unknown keys.
const RETRY_EVERY: Duration = Duration::from_secs(10);
/// Default of `minRefreshInterval`.
const MIN_REFRESH: Duration = Duration::from_mins(10);
/// Default of `requestTimeout`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the validator's options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksOptionError {
    /// There is no source.
    #[error("token validator jwks: property 'location' must not be empty (option 'source')")]
    NoSource,
    /// A duration is none.
    #[error("token validator jwks: option {option}: {found:?} is neither a duration nor a number of seconds")]
    Duration {
        /// Which option.
        option: &'static str,
        /// Its value.
        found: String,
    },
    /// The inline set or file holds no keys.
    #[error("token validator jwks: source: {0}")]
    Keys(#[from] JwksError),
    /// The inline source is neither JSON nor base64.
    #[error("token validator jwks: source is neither an URL, nor a file, nor JSON, nor base64 of JSON")]
    Inline,
    /// A file cannot be read.
    #[error("token validator jwks: {path} cannot be read")]
    File {
        /// Its path.
        path: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The CA certificate cannot be used.
    #[error("token validator jwks: option caCertificate: {0}")]
    Ca(String),
}

enum Source {
    Inline,
    File(PathBuf),
    Url(Box<Fetcher>),
}

/// The shared state of validator and follower. Owner of the keys: the follower task.
#[derive(Debug)]
struct Keys {
    set: ArcSwapOption<JwkSet>,
    generation: watch::Sender<u64>,
    unknown_key: Notify,
}

impl Keys {
    fn replace(&self, set: JwkSet) {
        self.set.store(Some(Arc::new(set)));
        self.generation.send_modify(|generation| *generation += 1);
    }
}

/// Checks tokens.
#[derive(Debug)]
pub struct JwksValidator {
    keys: Arc<Keys>,
    audience: String,
    refetches: bool,
}

/// Keeps the key set current.
pub struct JwksFollower {
    keys: Arc<Keys>,
    source: Source,
    min_refresh: Duration,
}

/// Sets a validator up from its options (names in lower case).
pub async fn from_options(
    options: &[(String, String)],
    sentry: &SpiffeId,
) -> Result<(JwksValidator, JwksFollower), JwksOptionError> {
    let option = |name: &str| {
        let found = options.iter().find(|(option, _)| option == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    let location = option("source").ok_or(JwksOptionError::NoSource)?;
    let min_refresh = duration("minRefreshInterval", option("minrefreshinterval"))?
        .filter(|interval| *interval > Duration::from_secs(1))
        .unwrap_or(MIN_REFRESH);
    let request_timeout = duration("requestTimeout", option("requesttimeout"))?
        .filter(|limit| *limit > Duration::from_millis(1))
        .unwrap_or(REQUEST_TIMEOUT);
    let keys =
        Arc::new(Keys { set: ArcSwapOption::empty(), generation: watch::Sender::new(0), unknown_key: Notify::new() });
    let is_url = location.starts_with("https://") || location.starts_with("http://");
    let source = if is_url {
        if location.starts_with("http://") {
            tracing::warn!("token validator jwks: the key set is fetched without TLS");
        }
        Source::Url(Box::new(Fetcher::new(location, option("cacertificate"), request_timeout).await?))
    } else if tokio::fs::try_exists(location).await.unwrap_or(false) {
        let path = PathBuf::from(location);
        keys.replace(read_file(&path).await?);
        Source::File(path)
    } else {
        keys.replace(inline(location)?);
        Source::Inline
    };
    let validator = JwksValidator { keys: Arc::clone(&keys), audience: sentry.to_string(), refetches: is_url };
    Ok((validator, JwksFollower { keys, source, min_refresh }))
}

async fn read_file(path: &PathBuf) -> Result<JwkSet, JwksOptionError> {
    let json = tokio::fs::read(path)
        .await
        .map_err(|source| JwksOptionError::File { path: path.display().to_string(), source })?;
    Ok(checked(&json)?)
}

fn checked(json: &[u8]) -> Result<JwkSet, JwksError> {
    let set = JwkSet::parse(json)?;
    if set.keys.is_empty() { Err(JwksError::Empty) } else { Ok(set) }
}

fn inline(text: &str) -> Result<JwkSet, JwksOptionError> {
    if text.trim_start().starts_with('{') {
        return Ok(checked(text.as_bytes())?);
    }
    let text = text.trim().trim_end_matches('=');
    let json =
        STANDARD_NO_PAD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).map_err(|_| JwksOptionError::Inline)?;
    Ok(checked(&json)?)
}

/// A Go duration, or a bare number of seconds.
fn duration(option: &'static str, text: Option<&str>) -> Result<Option<Duration>, JwksOptionError> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Some(Duration::from_secs(seconds)));
    }
    let parsed = text.parse::<GoDuration>().ok().and_then(GoDuration::to_std);
    parsed.map(Some).ok_or_else(|| JwksOptionError::Duration { option, found: text.into() })
}

impl JwksValidator {
    pub(super) async fn authenticate(
        &self,
        asked: &Asked<'_>,
        token: &str,
        deadline: Instant,
    ) -> Result<Caller, AuthError> {
        if token.is_empty() {
            return Err(Refusal::NoToken.into());
        }
        let trust_domain = asked::check(asked)?;
        let not_ready = || AuthError::Unavailable("jwks validator not ready".into());
        let mut generation = self.keys.generation.subscribe();
        // The sender lives in `self`.
        let first = timeout_at(deadline, generation.wait_for(|generation| *generation > 0)).await;
        first.map_err(|_| not_ready())?.map_err(|_| not_ready())?;
        let refused = |error: identity::NameError| {
            Refusal::Token(format!("failed to construct SPIFFE ID for requestor: {error}"))
        };
        let namespace = Namespace::parse(asked.namespace).map_err(refused)?;
        let app_id = AppId::parse(asked.app_id).map_err(refused)?;
        let subject = SpiffeId::new(trust_domain.clone(), namespace, app_id).to_string();
        let mut verdict = self.verify(token, &subject);
        if self.refetches && matches!(verdict, Err(TokenFault::UnknownKey(_))) {
            generation.mark_unchanged();
            self.keys.unknown_key.notify_one();
            if timeout_at(deadline, generation.changed()).await.is_ok() {
                verdict = self.verify(token, &subject);
            }
        }
        verdict.map_err(|fault| Refusal::Token(fault.to_string()))?;
        Ok(Caller { trust_domain, service_account: None, pod: None })
    }

    fn verify(&self, token: &str, subject: &str) -> Result<(), TokenFault> {
        let keys = self.keys.set.load_full().unwrap_or_default();
        let expected = Expected { audience: &self.audience, subject };
        verify(token, &keys, expected, unix_now())
    }
}

impl JwksFollower {
    /// Follows the source until `stop`; `target` is ready once there are keys.
    pub async fn run(self, target: Target, stop: CancellationToken) -> Result<(), BoxError> {
        let follow = async {
            match &self.source {
                Source::Inline => {
                    target.ready();
                    std::future::pending::<()>().await;
                }
                Source::File(path) => {
                    target.ready();
                    self.follow_file(path).await;
                }
                Source::Url(fetcher) => self.follow_url(fetcher, &target).await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            () = follow => Ok(()),
        }
    }

    async fn follow_file(&self, path: &PathBuf) {
        let mut complained = false;
        loop {
            sleep(FILE_POLL).await;
            match read_file(path).await {
                Ok(set) => {
                    complained = false;
                    if self.keys.set.load().as_deref() != Some(&set) {
                        tracing::info!(path = %path.display(), "key set loaded");
                        self.keys.replace(set);
                    }
                }
                Err(error) if !std::mem::replace(&mut complained, true) => {
                    tracing::error!(error = %chain(&error), "key set cannot be used, the last good one stays");
                }
                Err(_) => {}
            }
        }
    }

    async fn follow_url(&self, fetcher: &Fetcher, target: &Target) {
        loop {
            let pause = match fetcher.fetch().await {
                Ok((json, max_age)) => match checked(&json) {
                    Ok(set) => {
                        self.keys.replace(set);
                        target.ready();
                        max_age.unwrap_or_default().max(self.min_refresh)
                    }
                    Err(error) => {
                        tracing::error!(%error, "key set cannot be used, the last good one stays");
                        RETRY_EVERY
                    }
                },
                Err(error) => {
                    tracing::warn!(error, "key set cannot be fetched, the last good one stays");
                    RETRY_EVERY
                }
            };
            let until = Instant::now() + pause;
            sleep(RETRY_EVERY.min(pause)).await;
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.keys.unknown_key.notified() => {}
            }
        }
    }
}
