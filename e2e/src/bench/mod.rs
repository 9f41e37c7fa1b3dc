//! Benchmarks: our placement and sentry beside upstream's, in one run on one machine.
//!
//! The services run as child processes on free ports of the loopback, each measurement in a fresh
//! one; their CPU time and memory are the kernel's figures from `/proc`. The load comes from this
//! process and is the same for both sides. What counts are ratios: load and server share the cores.
//!
//! | module | what it does |
//! |---|---|
//! | `programs` | our release binaries and upstream's |
//! | `server` | a child process under measurement |
//! | `tls`, `credentials` | TLS as sidecars speak it; certificates for the load |
//! | `samples`, `report` | quantiles; the table of figures beside the bounds |
//! | `placement` | sidecars that keep a stream and acknowledge at once |
//! | `sentry` | callers that want certificates, and the API server that sentry asks |

mod credentials;
pub mod placement;
mod programs;
mod report;
mod samples;
pub mod sentry;
mod server;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};

/// How long a service or stream is idle before its memory is read.
const IDLE: Duration = Duration::from_secs(10);
/// Bounds for an idle service (RULINGS 5).
const IDLE_RSS_MIB: f64 = 15.0;
const IDLE_ANON_MIB: f64 = 8.0;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Bench {
    /// Folder with our placement and sentry already built; default: built here in release mode.
    #[arg(long, value_name = "FOLDER", global = true)]
    pub binaries: Option<PathBuf>,
    /// How often each comparison is repeated; medians are shown.
    #[arg(long, value_name = "TIMES", default_value_t = 3, global = true)]
    pub repeat: usize,
    /// The service.
    #[command(subcommand)]
    pub subject: Subject,
}

/// The services with a benchmark.
#[derive(Debug, Clone, Subcommand)]
pub enum Subject {
    /// Placement: sidecars that join at once, change and stay.
    Placement(placement::Options),
    /// Sentry: certificates on kept and on new connections, memory with many pods.
    Sentry(sentry::Options),
}

/// Measures and prints the table. Missed bounds are shown in it and are no error.
pub fn run(bench: &Bench) -> Result<()> {
    match &bench.subject {
        Subject::Placement(options) => placement::run(bench, options),
        Subject::Sentry(options) => sentry::run(bench, options),
    }
}
