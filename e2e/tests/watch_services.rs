//! The control plane as it stands after the quick start, before anything is taken away from it.

use anyhow::{Result, bail, ensure};
use e2e::quickstart::access::Access;
use e2e::quickstart::metrics::INJECTIONS;
use e2e::quickstart::services;

/// Bounds for an idle service in KiB (RULINGS 5).
const RSS_BOUND: u64 = 15 * 1024;
const ANON_BOUND: u64 = 8 * 1024;

#[tokio::test]
async fn every_service_is_ready_and_none_was_restarted() -> Result<()> {
    let access = Access::running().await?;
    for service in services::look(&access).await? {
        ensure!(service.ready, "{} is not ready", service.pod);
        if service.restarts > 0 {
            let log = services::last_words(&access, &service.pod).await?;
            bail!("{} was restarted {} times; its last words: {log}", service.pod, service.restarts);
        }
    }
    Ok(())
}

#[tokio::test]
async fn idle_memory_of_our_services_is_within_its_bounds() -> Result<()> {
    let access = Access::running().await?;
    for service in services::look(&access).await?.into_iter().filter(|s| !s.name.contains("upstream")) {
        let Some((rss, anon)) = service.memory else {
            // Only a cluster on this machine's own kernel shows its processes.
            println!("{}: memory cannot be read from this machine's /proc", service.pod);
            continue;
        };
        ensure!(rss <= RSS_BOUND && anon <= ANON_BOUND, "{}: VmRSS {rss} KiB, RssAnon {anon} KiB", service.pod);
    }
    Ok(())
}

#[tokio::test]
async fn the_injector_counts_requests_under_the_users_name() -> Result<()> {
    let access = Access::running().await?;
    let metrics = services::scrape(&access, "dapr-sidecar-injector").await?;
    let counted = metrics.sum(INJECTIONS);
    ensure!(counted.is_some_and(|count| count >= 4.0), "{INJECTIONS} is {counted:?} after four pods were injected");
    Ok(())
}
