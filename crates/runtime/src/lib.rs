//! The process shell that every service shares: flags, logs, health, metrics, tasks, shutdown and
//! the way to the API server. It knows no component.
//!
//! A service's `main.rs` parses ([`args::parse`]), starts logging ([`logging::init`]) and calls
//! [`block_on`]; its `lib.rs` fills a [`TaskSet`] and waits in [`TaskSet::until_shutdown`].

pub mod admin;
pub mod args;
pub mod duration;
pub mod health;
mod kube_client;
pub mod lease;
pub mod logging;
pub mod metrics;
mod tasks;

pub use kube_client::{KubeConfigError, kube_client};
pub use tasks::{BoxError, TaskError, TaskSet, block_on};
pub use tokio_util::sync::CancellationToken;

/// The version of this control plane: that of the runtime whose control plane it replaces.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
