//! Older sidecars under this control plane: every building block again, with unmodified daprd 1.17
//! and 1.16. Long, so `make test-compat` runs it: that builds those sidecars first.

use anyhow::{Result, ensure};
use e2e::quickstart::access::Access;
use e2e::quickstart::manifests::{APPLICATIONS, NAMESPACE};
use e2e::quickstart::try_sidecar;
use e2e::upstream::{Release, V1_16, V1_17};

async fn tried_with(release: &Release) -> Result<()> {
    let access = Access::running().await?;
    let image = release.sidecar_image_name();
    let worked = try_sidecar(&access, Some(&image)).await;
    for (app, _) in APPLICATIONS {
        for pod in access.pods(NAMESPACE, app).await? {
            let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
            let used: Vec<_> = statuses.iter().filter(|s| s.name == "daprd").map(|s| s.image.as_str()).collect();
            ensure!(used == [image.as_str()], "{app} ran with {used:?}, not with {image}");
        }
    }
    try_sidecar(&access, None).await?;
    ensure!(worked?, "a building block failed with daprd {}, see the rows above", release.version);
    Ok(())
}

#[tokio::test]
#[ignore = "needs daprd 1.17 and 1.16, minutes to build: run `make test-compat`"]
async fn every_building_block_works_with_older_sidecars() -> Result<()> {
    tried_with(&V1_17).await?;
    tried_with(&V1_16).await
}
