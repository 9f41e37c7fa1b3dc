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
pub use tasks::{BoxError, TaskError, TaskSet, block_on, block_on_with};
pub use tokio_util::sync::CancellationToken;

/// The version of this control plane: that of the runtime whose control plane it replaces.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether this process runs as root; false where the kernel does not say.
pub fn is_root() -> bool {
    effective_user() == Some(0)
}

/// The effective user, from the kernel; `None` where it does not say.
fn effective_user() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_effective_user_is_known_here() {
        assert!(super::effective_user().is_some());
    }
}
