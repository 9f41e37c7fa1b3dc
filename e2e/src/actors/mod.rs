//! Actors with real sidecars while their hosts come and go and placement is disturbed: what callers
//! get, second by second, and whether any actor ever had two owners.
//!
//! | step | module | what it does |
//! |---|---|---|
//! | set | `stage` | namespace, hosts and callers with the sidecar of one release |
//! | disturb | `scenarios` | hosts 1 → 10 → 2, leader killed, replicas restarted, a sidecar stopped |
//! | judge | `turns`, `calls` | pure: turns with a second owner; calls per second, longest silence |
//! | show | `table` | rows for a person and for `docs/performance.md`; seconds as CSV |

pub mod calls;
pub mod scenarios;
pub mod stage;
mod table;
pub mod turns;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::scenarios::{Outcome, Scenario};
use self::stage::Stage;
use crate::cache::Cache;
use crate::cluster::Cluster;
use crate::progress::say;
use crate::quickstart::access::Access;
use crate::quickstart::services;
use crate::upstream::{Release, V1_16, V1_17, V1_18};

/// The releases whose sidecars are tried.
pub const RELEASES: [&Release; 3] = [&V1_18, &V1_17, &V1_16];

/// What to measure on the cluster that runs.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Version of the sidecar, may be repeated; default: 1.18.3, 1.17.5 and 1.16.5.
    #[arg(long = "sidecar", value_name = "VERSION", value_parser = RELEASES.map(|release| release.version))]
    pub sidecars: Vec<String>,
    /// Folder for one CSV file per scenario with the figures of each second.
    #[arg(long, value_name = "FOLDER")]
    pub record: Option<PathBuf>,
}

/// All scenarios with the sidecar of one release.
#[derive(Debug)]
pub struct Measurement {
    /// Whose placement ran: `ours` or `upstream`.
    pub placement: &'static str,
    /// Version of the sidecar.
    pub sidecar: &'static str,
    /// In the order of [`Scenario::ALL`].
    pub outcomes: Vec<Outcome>,
}

impl Measurement {
    /// The table, one row for each scenario.
    pub fn print(&self) -> String {
        table::print(std::slice::from_ref(self))
    }

    /// Every scenario was what it should be, and no actor had two owners where none may.
    pub fn judge(&self) -> Result<()> {
        for outcome in &self.outcomes {
            outcome
                .ensure_meaningful()
                .with_context(|| format!("{} with daprd {}", outcome.scenario.name(), self.sidecar))?;
            outcome.ensure_one_owner().with_context(|| format!("with daprd {}", self.sidecar))?;
        }
        Ok(())
    }
}

/// Measures and prints the table. What placement does badly is shown in it and is no error.
pub fn run(cluster: &Cluster, options: &Options) -> Result<()> {
    let wanted = |release: &&&Release| {
        options.sidecars.is_empty() || options.sidecars.iter().any(|version| version == release.version)
    };
    let releases: Vec<&Release> = RELEASES.iter().filter(wanted).copied().collect();
    let cache = Cache::of_user()?;
    for release in &releases {
        cluster.load_image(&release.sidecar_image(&cache)?)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let mut all = Vec::new();
    for release in releases {
        let measured = runtime.block_on(measure(cluster, release))?;
        if let Some(folder) = &options.record {
            table::record(&measured, folder)?;
        }
        all.push(measured);
    }
    println!("{}", table::print(&all));
    Ok(())
}

/// Plays every scenario with the sidecar of one release, whose image the cluster must have.
pub async fn measure(cluster: &Cluster, release: &'static Release) -> Result<Measurement> {
    let access = Access::to(cluster).await?;
    let placement = whose_placement(&access).await?;
    say(format!("actors with daprd {} under {placement} placement", release.version));
    let stage = Stage::set(cluster, &access, release).await?;
    let mut outcomes = Vec::new();
    let mut result = Ok(());
    for scenario in Scenario::ALL {
        say(scenario.name());
        match scenarios::play(&stage, scenario).await {
            Ok(outcome) => {
                println!("{}", table::story(&outcome));
                outcomes.push(outcome);
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    stage.remove().await?;
    result?;
    Ok(Measurement { placement, sidecar: release.version, outcomes })
}

/// Told by what its replicas count: the images may have the same names.
async fn whose_placement(access: &Access) -> Result<&'static str> {
    let services = services::look(access).await?;
    let replicas: Vec<_> = services.iter().filter(|service| service.name == "placement").collect();
    ensure!(replicas.len() >= 3, "{} replicas of placement; its leader must not be the only one", replicas.len());
    let pod = replicas.first().context("placement has no pod")?;
    let metrics = services::scrape(access, "dapr-placement-server").await?;
    // Upstream's has no such metric.
    let ours = metrics.sum("dapr_placement_raft_quorum").is_some();
    say(format!("placement {} {}", pod.pod, pod.version));
    Ok(if ours { "ours" } else { "upstream" })
}
