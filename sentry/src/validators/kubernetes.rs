//! Service account tokens, reviewed by the API server and traced to a pod (contract §4.3).

use std::time::Duration;

use identity::{SpiffeId, TrustDomain};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::AuthError;
use crate::{
    core::{
        asked::{self, Asked, Caller, Refusal},
        pod_identity::{Domain, Pod, Review, ServiceAccount, claimed_pod, configured_domain, identify},
    },
    directory::{Directory, LookupError},
    keeper::chain,
    metrics::{Metrics, Reason},
    signing::fraction,
};

/// The audience of tokens before 1.0, still accepted as upstream does.
const LEGACY_AUDIENCE: &str = "dapr.io/sentry";
/// Reviews under way at once. At 20 ms each this is 6,400 callers a second, far above what
/// one replica signs, and few enough that the API server's own queue stays short.
const REVIEWS_AT_ONCE: usize = 128;
/// One attempt may take this long: the caller's budget of 2.5 s holds two and a reserve.
const ATTEMPT: Duration = Duration::from_secs(1);
/// With less than this left, an attempt is not begun: its answer would come too late, and the
/// place goes to a call that still has time.
const LEAST_LEFT: Duration = Duration::from_millis(20);
/// The first pause after a failed attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause: the call is used to its end.
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// One attempt's end.
enum Attempt {
    Refused(Refusal),
    Transient(&'static str, String),
}

impl From<Refusal> for Attempt {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<LookupError> for Attempt {
    fn from(error: LookupError) -> Self {
        Self::Transient("lookup", chain(&error))
    }
}

/// Authenticates pods.
pub struct KubernetesValidator {
    reviews: Api<TokenReview>,
    directory: Directory,
    sentry: SpiffeId,
    places: Semaphore,
    metrics: Metrics,
}

impl std::fmt::Debug for KubernetesValidator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesValidator").field("sentry", &self.sentry).finish_non_exhaustive()
    }
}

impl KubernetesValidator {
    /// Authenticates for the sentry of this name.
    pub fn new(client: Client, directory: Directory, sentry: SpiffeId, metrics: Metrics) -> Self {
        Self { reviews: Api::all(client), directory, sentry, places: Semaphore::new(REVIEWS_AT_ONCE), metrics }
    }

    pub(super) async fn authenticate(
        &self,
        asked: &Asked<'_>,
        token: &str,
        deadline: Instant,
    ) -> Result<Caller, AuthError> {
        // What is wrong with the request itself needs no API server.
        asked::check(asked)?;
        if timeout_at(deadline, self.directory.synced()).await.is_err() {
            return Err(AuthError::Unavailable("validator not ready".into()));
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let (reason, error) = match self.in_turn(asked, token, deadline).await {
                Ok(caller) => return Ok(caller),
                Err(Attempt::Refused(refusal)) => return Err(refusal.into()),
                Err(Attempt::Transient(reason, error)) => (reason, error),
            };
            self.metrics.retries.get_or_create(&Reason { reason }).inc();
            tracing::debug!(reason, error, "attempt to authenticate failed");
            let next = Instant::now() + pause.mul_f64(0.75 + 0.5 * fraction());
            if next >= deadline {
                return Err(AuthError::Unavailable(error));
            }
            sleep_until(next).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One attempt, begun only when there is a place and dropped when its time is over.
    async fn in_turn(&self, asked: &Asked<'_>, token: &str, deadline: Instant) -> Result<Caller, Attempt> {
        let overdue = |what: &str| Attempt::Transient("overload", format!("{what} took too long"));
        self.metrics.waiting.inc();
        let place = timeout_at(deadline, self.places.acquire()).await;
        self.metrics.waiting.dec();
        let _place = place.map_err(|_| overdue("waiting for a token review"))?.expect("the semaphore is never closed");
        let left = deadline.saturating_duration_since(Instant::now()).min(ATTEMPT);
        if left < LEAST_LEFT {
            return Err(overdue("waiting for a token review"));
        }
        match timeout(left, self.attempt(asked, token)).await {
            Ok(done) => done,
            Err(_) => Err(Attempt::Transient("timeout", "token review or pod look-up took too long".into())),
        }
    }

    async fn attempt(&self, asked: &Asked<'_>, token: &str) -> Result<Caller, Attempt> {
        let account = ServiceAccount::of_review(&self.review(token).await?)?;
        let pod_name = claimed_pod(token)?;
        let domain = self.identify(&pod_name, &account, asked).await?;
        Ok(Caller {
            trust_domain: self.trust_domain(domain, asked.namespace).await?,
            service_account: Some(account.name),
            pod: Some(pod_name),
        })
    }

    async fn review(&self, token: &str) -> Result<Review, Attempt> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![LEGACY_AUDIENCE.into(), self.sentry.to_string()]),
                token: Some(token.into()),
            },
            ..TokenReview::default()
        };
        match self.reviews.create(&PostParams::default(), &review).await {
            Ok(review) => {
                let status = review.status.unwrap_or_default();
                Ok(Review {
                    authenticated: status.authenticated.unwrap_or_default(),
                    error: status.error.unwrap_or_default(),
                    username: status.user.and_then(|user| user.username).unwrap_or_default(),
                })
            }
            // The API server's answer to this very request: it will not change.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 413 | 422) => {
                Err(Refusal::ReviewRefused(status.message.clone()).into())
            }
            Err(error) => Err(Attempt::Transient("token_review", format!("token review failed: {}", chain(&error)))),
        }
    }

    /// Finds the pod and checks it; what the cache would refuse is looked up live once, for
    /// the pod may be newer than the cache or have been replaced under its name.
    async fn identify(&self, name: &str, account: &ServiceAccount, asked: &Asked<'_>) -> Result<Domain, Attempt> {
        let check = |pod: &Pod| identify(pod, account, asked, self.sentry.namespace().as_str());
        if let Some(pod) = self.directory.cached_pod(&account.namespace, name)
            && let Ok(domain) = check(&pod)
        {
            return Ok(domain);
        }
        let pod = self.directory.live_pod(&account.namespace, name).await?;
        Ok(check(&pod.ok_or(Refusal::NoSuchPod)?)?)
    }

    async fn trust_domain(&self, domain: Domain, namespace: &str) -> Result<TrustDomain, Attempt> {
        match domain {
            Domain::ControlPlane => Ok(self.sentry.trust_domain().clone()),
            Domain::Default => Ok(TrustDomain::public()),
            Domain::Configuration(name) => {
                let configured = self.directory.trust_domain_of(namespace, &name).await?;
                Ok(configured_domain(Some(&configured.ok_or(Refusal::NoSuchConfiguration)?))?)
            }
        }
    }
}
