//! What `make run` shows once the cluster and the chart are up: the user's manifests applied, the
//! samples running with their sidecars, every building block tried, and all of it in one table.

pub mod access;
mod blocks;
pub mod load;
pub mod manifests;
pub mod metrics;
pub mod services;
mod table;

use std::fmt::Write;
use std::ops::Add;

use anyhow::{Context, Result, bail};

use self::access::Access;
use self::blocks::Samples;
use self::metrics::Scrape;
use self::services::Service;
use self::table::Row;
use crate::cluster::Cluster;
use crate::mode::Mode;
use crate::state::Record;

/// Runs the quick start on a running cluster and prints its table. True if every row is ok.
pub fn run(cluster: &Cluster) -> Result<bool> {
    let record = cluster.record();
    if record.mode == Mode::Processes {
        bail!(
            "this cluster runs no pods, so no application can be tried; docker with kind, or root on Linux, allow more. \
             The control plane runs: KUBECONFIG={} {} get components -A",
            record.kubeconfig.display(),
            record.kubectl.display()
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(show(cluster))
}

async fn show(cluster: &Cluster) -> Result<bool> {
    let access = Access::to(cluster).await?;
    manifests::bring_applications(&access, None).await?;
    let samples = Samples::find(&access).await?;
    let rows = Box::pin(samples.try_all()).await?;
    let services = services::look(&access).await?;
    let counted = counted(&access).await?;
    let seven = metrics::seven(&access).await?;
    println!("\n{}", report(cluster.record(), &services, &rows, &counted, &seven)?);
    Ok(rows.iter().all(|row| !row.failed()) && services.iter().all(|service| service.ready))
}

/// Brings the applications up with another sidecar, tries every building block and prints the rows.
/// True if every row is ok.
pub async fn try_sidecar(access: &Access, image: Option<&str>) -> Result<bool> {
    manifests::bring_applications(access, image).await?;
    try_blocks(access).await
}

/// Tries every building block with the applications as they are and prints the rows. True if every
/// row is ok.
pub async fn try_blocks(access: &Access) -> Result<bool> {
    let rows = Box::pin(Samples::find(access).await?.try_all()).await?;
    println!("{}", table::print_rows(&rows));
    Ok(rows.iter().all(|row| !row.failed()))
}

/// Certificates that sentry issued, and what the operator serves to whom, by their own metrics.
async fn counted(access: &Access) -> Result<String> {
    let issued = |pod: &Scrape| pod.sum("dapr_sentry_cert_sign_success_total").unwrap_or(0.0);
    let sentry = services::scrape_each(access, "dapr-sentry").await?;
    let operator = services::scrape_each(access, "dapr-operator").await?;
    let certificates = sentry.iter().map(issued).fold(0.0, f64::add);
    // Every replica serves the same objects, each to sidecars of its own.
    let objects = operator.iter().filter_map(|pod| pod.sum("dapr_operator_objects")).fold(0.0, f64::max);
    let streams = operator.iter().filter_map(|pod| pod.sum("dapr_operator_streams")).fold(0.0, f64::add);
    let mut out = format!("  certificates issued by sentry   {certificates}\n");
    writeln!(out, "  resources served by operator    {objects}, over {streams} open streams of sidecars")?;
    Ok(out)
}

fn report(record: &Record, services: &[Service], rows: &[Row], counted: &str, seven: &str) -> Result<String> {
    let mut out = String::new();
    writeln!(out, "Control plane in namespace {}\n{}", services::NAMESPACE, services::print(services))?;
    writeln!(out, "{counted}")?;
    writeln!(out, "Building blocks and backends\n{}", table::print_rows(rows))?;
    writeln!(out, "The metrics you watch\n{seven}")?;
    let failed = rows.iter().filter(|row| row.failed()).count();
    let unready = services.iter().filter(|service| !service.ready).count();
    if failed + unready == 0 {
        writeln!(out, "Everything works.\n")?;
    } else {
        writeln!(out, "{failed} rows failed, {unready} control-plane pods are not ready.\n")?;
    }
    writeln!(out, "Point kubectl at the cluster:")?;
    writeln!(out, "  export KUBECONFIG={}", record.kubeconfig.display())?;
    writeln!(out, "  alias kubectl={}", record.kubectl.display())?;
    writeln!(out, "Then try:")?;
    writeln!(out, "  kubectl -n {} get pods,components,subscriptions,resiliencies", manifests::NAMESPACE)?;
    writeln!(out, "  kubectl -n {} rollout restart deploy/dapr-sentry   # sidecars keep working", services::NAMESPACE)?;
    writeln!(
        out,
        "  kubectl get --raw '/api/v1/namespaces/fuse/pods/<an order-processor pod>:8080/proxy/check/actors'"
    )?;
    writeln!(out, "  make test    # proves it again, with every control-plane pod taken away in turn")?;
    writeln!(out, "  make stop    # leaves nothing behind")?;
    Ok(out)
}
