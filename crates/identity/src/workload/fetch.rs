//! One exchange with sentry: fresh key, token, CSR, new connection, signed chain.
//!
//! Dialling goes on until it succeeds: sentry may come up later, and an untrusted one must
//! not be spoken to. On the connection the call is tried a few times, but only for answers
//! that another try can change.

use std::{sync::Arc, time::Duration};

use proto::sentry::v1::{SignCertificateRequest, ca_client::CaClient};
use rustls::ClientConfig;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, transport::Channel};

use crate::{
    Svid, SvidError,
    client::{self, AddressError, Connector},
};

use super::{
    TokenError, WorkloadOptions,
    csr::{self, Request},
};

/// One try of the call.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);
const ATTEMPTS: u32 = 5;
/// The wait after the nth try is n times this, give or take a tenth.
const BACKOFF: Duration = Duration::from_millis(50);
/// The wait between dials grows from the first to the second.
const DIAL_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Why no SVID was obtained.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The token cannot be read.
    #[error("failed to obtain the sentry token: {0}")]
    Token(#[from] TokenError),
    /// No key or CSR could be made.
    #[error("failed to create the certificate signing request: {reason}")]
    Csr {
        /// What happened.
        reason: String,
    },
    /// Sentry's address is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Sentry answered with an error.
    #[error("error from sentry SignCertificate: {}: {}", .0.code(), .0.message())]
    Refused(Box<Status>),
    /// Sentry signed something that cannot be used.
    #[error("sentry returned an unusable certificate: {0}")]
    Svid(#[from] SvidError),
}

impl FetchError {
    /// Whether the same request may succeed later, nothing else changing.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Refused(status) if may_change(status))
    }
}

/// Whether another try can bring another answer. A status with a source is none of sentry's:
/// the connection broke, which tonic reports under several codes.
fn may_change(status: &Status) -> bool {
    let retried = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded);
    retried || std::error::Error::source(status).is_some()
}

/// Obtains an SVID; waits as long as sentry cannot be reached.
pub(super) async fn fetch(options: &WorkloadOptions, tls: &Arc<ClientConfig>) -> Result<Svid, FetchError> {
    let channel = dial(&options.sentry_address, tls).await?;
    let kind = options.key;
    let Request { key, csr_pem } = tokio::task::spawn_blocking(move || csr::new_request(kind))
        .await
        .map_err(|error| csr_error(&error))?
        .map_err(|error| csr_error(&error))?;
    let request = request(options, csr_pem).await?;
    let chain = call(channel, request).await?;
    Ok(Svid::from_pem(&chain, key)?)
}

fn csr_error(error: &dyn std::error::Error) -> FetchError {
    FetchError::Csr { reason: error.to_string() }
}

async fn request(options: &WorkloadOptions, csr_pem: String) -> Result<SignCertificateRequest, TokenError> {
    let (token, validator) = options.token.read().await?;
    Ok(SignCertificateRequest {
        id: options.app_id.to_string(),
        token,
        trust_domain: options.requested_trust_domain().map(ToString::to_string).unwrap_or_default(),
        namespace: options.namespace.to_string(),
        certificate_signing_request: csr_pem.into_bytes(),
        token_validator: validator.wire(),
        jwt_audiences: Vec::new(),
    })
}

/// A new connection to sentry, however long it takes.
async fn dial(address: &str, tls: &Arc<ClientConfig>) -> Result<Channel, AddressError> {
    let endpoint = client::endpoint(address)?;
    let (mut wait, longest) = DIAL_BACKOFF;
    loop {
        let connector = Connector::new(Some(Arc::clone(tls)));
        match endpoint.connect_with_connector(connector).await {
            Ok(channel) => return Ok(channel),
            Err(error) => {
                let error = chain_text(&error);
                tracing::warn!(%error, address, "waiting for a connection to sentry");
            }
        }
        sleep(jittered(wait)).await;
        wait = (wait * 2).min(longest);
    }
}

async fn call(channel: Channel, request: SignCertificateRequest) -> Result<Vec<u8>, FetchError> {
    let mut client = CaClient::new(channel);
    let mut tried = 0;
    loop {
        tried += 1;
        let answer = timeout(ATTEMPT_LIMIT, client.sign_certificate(request.clone()))
            .await
            .unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("no answer within 3s")));
        match answer {
            Ok(response) => return Ok(response.into_inner().workload_certificate),
            Err(status) if tried < ATTEMPTS && may_change(&status) => {
                tracing::debug!(code = %status.code(), error = status.message(), tried, "sentry will be asked again");
                sleep(jittered(BACKOFF * tried)).await;
            }
            Err(status) => return Err(FetchError::Refused(Box::new(status))),
        }
    }
}

/// `wait`, give or take a tenth.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.9..=1.1))
}

/// The whole cause of a transport error, whose own text says only that there was one.
fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
