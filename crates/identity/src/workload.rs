//! The identity a control-plane component obtains from sentry and keeps fresh.
//!
//! [`Workload`] is a cheap handle on two watched values: the current SVID and the current
//! trust anchors. [`Task`] is their only writer: it follows the anchors, fetches the first
//! SVID, renews it at half of its life, and renews it at once when the anchors change. An
//! SVID or anchors that went bad never replace good ones. The process ends, by the task's
//! error, only if sentry refuses the first SVID for good (contract sentry.md §14).

mod anchor_file;
mod csr;
mod fetch;
mod options;
mod rotation;
mod task;
mod token;

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::{Alpn, AnchorsRx, PeerRule, SpiffeId, Svid, SvidRx, TrustAnchors, tls};

pub use csr::KeyKind;
pub use fetch::FetchError;
pub use options::{AnchorSource, OptionsError, Timing, WorkloadOptions};
pub use task::{Task, WorkloadError};
pub use token::{Host, TokenError, TokenSource, TokenValidator};

/// The identity's task ended before there was an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the identity task has stopped")]
pub struct Stopped;

/// A handle on a component's own identity.
#[derive(Debug, Clone)]
pub struct Workload {
    svid: SvidRx,
    anchors: AnchorsRx,
}

impl Workload {
    /// Prepares an identity; nothing happens until the returned task runs.
    pub fn start(options: WorkloadOptions) -> Result<(Self, Task), OptionsError> {
        options.check()?;
        let (svid_tx, svid) = watch::channel(None);
        let (anchors_tx, anchors) = watch::channel(None);
        let workload = Self { svid, anchors };
        let task = Task::new(options, svid_tx, anchors_tx);
        Ok((workload, task))
    }

    /// Waits for the first SVID; anchors are there by then too.
    pub async fn ready(&self) -> Result<(), Stopped> {
        let mut svid = self.svid.clone();
        svid.wait_for(Option::is_some).await.map(|_svid| ()).map_err(|_closed| Stopped)
    }

    /// The SVID in use now, once there is one.
    pub fn current_svid(&self) -> Option<Arc<Svid>> {
        self.svid.borrow().clone()
    }

    /// Follows the SVID in use.
    pub fn svid_rx(&self) -> SvidRx {
        self.svid.clone()
    }

    /// The trust anchors in use now, once they were read.
    pub fn trust_anchors(&self) -> Option<Arc<TrustAnchors>> {
        self.anchors.borrow().clone()
    }

    /// Follows the trust anchors in use.
    pub fn trust_anchors_rx(&self) -> AnchorsRx {
        self.anchors.clone()
    }

    /// A gRPC server that admits any valid SPIFFE ID under the anchors.
    pub fn server_mtls(&self) -> Arc<ServerConfig> {
        self.server(PeerRule::AnySpiffeId)
    }

    /// A gRPC server that admits only clients that fit `rule`.
    pub fn server(&self, rule: PeerRule) -> Arc<ServerConfig> {
        tls::server_mtls(self.svid_rx(), self.trust_anchors_rx(), rule)
    }

    /// A server that asks for no client certificate: webhooks.
    pub fn server_auth_only(&self, alpn: Alpn) -> Arc<ServerConfig> {
        tls::server_auth_only(self.svid_rx(), alpn)
    }

    /// A gRPC client of the server that is exactly `expected`.
    pub fn client(&self, expected: SpiffeId) -> Arc<ClientConfig> {
        let rule = PeerRule::Exactly(expected);
        tls::client_mtls(self.svid_rx(), self.trust_anchors_rx(), rule)
    }
}
