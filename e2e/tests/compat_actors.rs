//! Actors with unmodified sidecars of three releases while their hosts are scaled and placement's
//! replicas are killed and restarted: no actor may have two owners. Long, so `make test-compat` runs it.

use anyhow::Result;
use e2e::Cluster;
use e2e::actors::{Measurement, RELEASES, measure};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs daprd 1.17 and 1.16, and minutes: run `make test-compat`"]
async fn no_actor_has_two_owners_while_hosts_are_scaled_and_placement_is_disturbed() -> Result<()> {
    let cluster = Cluster::current()?;
    let mut measured = Vec::new();
    for release in RELEASES {
        measured.push(measure(&cluster, release).await?);
    }
    for one in &measured {
        println!("{}", one.print());
    }
    measured.iter().try_for_each(Measurement::judge)
}
