//! Whether a component's own traffic is mTLS or, with TLS switched off, plaintext.

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::{
    PeerRule, SpiffeId, Workload,
    workload::{self, OptionsError, Stopped, WorkloadError, WorkloadOptions},
};

/// How a component secures its own gRPC traffic.
#[derive(Debug, Clone)]
pub enum Security {
    /// With an identity from sentry.
    Mtls(Workload),
    /// Not at all: peers stay anonymous.
    Plaintext,
}

/// The task behind a [`Security`], to be run by the component's task set.
#[derive(Debug)]
pub struct Task(Option<workload::Task>);

impl Security {
    /// With options, mTLS; without, plaintext.
    pub fn start(options: Option<WorkloadOptions>) -> Result<(Self, Task), OptionsError> {
        let Some(options) = options else {
            return Ok((Self::Plaintext, Task(None)));
        };
        let (workload, task) = Workload::start(options)?;
        Ok((Self::Mtls(workload), Task(Some(task))))
    }

    /// Waits until connections can be served; at once in plaintext.
    pub async fn ready(&self) -> Result<(), Stopped> {
        match self {
            Self::Mtls(workload) => workload.ready().await,
            Self::Plaintext => Ok(()),
        }
    }

    /// For [`crate::server::Incoming`]: clients must present an identity that fits `rule`.
    pub fn server(&self, rule: PeerRule) -> Option<Arc<ServerConfig>> {
        match self {
            Self::Mtls(workload) => Some(workload.server(rule)),
            Self::Plaintext => None,
        }
    }

    /// For [`crate::client::channel`]: the server must be exactly `expected`.
    pub fn client(&self, expected: SpiffeId) -> Option<Arc<ClientConfig>> {
        match self {
            Self::Mtls(workload) => Some(workload.client(expected)),
            Self::Plaintext => None,
        }
    }

    /// The identity in use, unless in plaintext.
    pub fn workload(&self) -> Option<&Workload> {
        match self {
            Self::Mtls(workload) => Some(workload),
            Self::Plaintext => None,
        }
    }
}

impl Task {
    /// Keeps the identity fresh until stopped; in plaintext only waits.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkloadError> {
        if let Some(task) = self.0 {
            return task.run(stop).await;
        }
        stop.cancelled().await;
        Ok(())
    }
}
