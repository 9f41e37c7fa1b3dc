//! Upstream Dapr built from its Go module: the unmodified `daprd`, the scheduler that our chart
//! runs, and upstream's own control plane for comparisons and upgrade tests.
//!
//! The module is copied out of Go's module cache because two of its modules cannot be fetched from
//! the module proxy: a Pulsar fork (dropped together with all component files we do not use) and
//! one version of durabletask-go (replaced by its nearest neighbour).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cache::{Cache, Entry};
use crate::command;
use crate::images::Image;
use crate::modules::{go_build, package_folder};

/// One released version and what its build needs.
#[derive(Debug)]
pub struct Release {
    /// Version without the `v`.
    pub version: &'static str,
    /// Checksum of the module as Go computes it.
    sum: &'static str,
    /// The version of durabletask-go that replaces the one it asks for.
    durabletask: &'static str,
    /// The Pulsar replacement to drop, where the release has one.
    pulsar: Option<&'static str>,
}

/// The release whose control plane this project replaces.
pub const V1_18: Release = Release {
    version: "1.18.3",
    sum: "h1:iVTqJHRfJlUfiSyhJH4c1mJZ+4PH3cf/QwJcAJL2ROo=",
    durabletask: "v0.12.1",
    pulsar: Some("github.com/apache/pulsar-client-go@v0.18.0"),
};

/// The previous release, whose sidecars must work with our control plane.
pub const V1_17: Release = Release {
    version: "1.17.5",
    sum: "h1:I1753p3Mk7969zGzBNpJxnUJkb9RmhECvp6QLZZgMYI=",
    durabletask: "v0.11.3",
    pulsar: None,
};

/// The oldest release whose sidecars must work with our control plane.
pub const V1_16: Release = Release {
    version: "1.16.5",
    sum: "h1:kMM2K0dZRGYRZe+U2wgu2iJwqAA1o74a6YRi9era5Lo=",
    durabletask: "v0.10.2",
    pulsar: None,
};

/// A group of programs that are built and cached together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The sidecar.
    Daprd,
    /// The scheduler, which our chart runs as it is.
    Scheduler,
    /// Upstream's operator, sentry, placement and injector, and its chart.
    ControlPlane,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Daprd => "daprd",
            Self::Scheduler => "scheduler",
            Self::ControlPlane => "upstream-control-plane",
        }
    }

    const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Daprd => &["daprd"],
            Self::Scheduler => &["scheduler"],
            Self::ControlPlane => &["operator", "sentry", "placement", "injector"],
        }
    }
}

/// The component files that stay in the sidecar; each is a file of `cmd/daprd/components`.
const COMPONENTS: &[&str] = &[
    "bindings_aws_s3.go",
    "bindings_cron.go",
    "bindings_http.go",
    "bindings_kafka.go",
    "bindings_localstorage.go",
    "bindings_redis.go",
    "configuration_redis.go",
    "conversation_echo.go",
    "lock_redis.go",
    "middleware_http_bearer.go",
    "middleware_http_ratelimit.go",
    "middleware_http_routeralias.go",
    "middleware_http_routerchecker.go",
    "middleware_http_uppercase.go",
    "nameresolution_kubernetes.go",
    "nameresolution_mdns.go",
    "nameresolution_nameformat.go",
    "pubsub_in-memory.go",
    "pubsub_kafka.go",
    "pubsub_redis.go",
    "secretstores_hashicorp_vault.go",
    "secretstores_kubernetes.go",
    "secretstores_local_env.go",
    "secretstores_local_file.go",
    "state_in-memory.go",
    "state_redis.go",
];

/// What `go mod download -json` says of a module.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    dir: PathBuf,
    sum: String,
}

impl Release {
    /// The folder with the programs of `part`, built if the cache lacks them.
    pub fn build(&self, cache: &Cache, part: Part) -> Result<PathBuf> {
        let sums = self.sums()?;
        let recipe = format!("{self:?}{COMPONENTS:?}{sums}");
        let entry = Entry { name: part.name(), version: self.version, recipe: recipe.as_bytes() };
        cache.get(&entry, |to, log| {
            let source = to.join("source");
            self.copy_source(&source, &sums)?;
            let version = format!("-s -w -X github.com/dapr/dapr/pkg/buildinfo.version={}", self.version);
            for program in part.programs() {
                let mut go = go_build(&version, &to.join(program));
                // Without a tag the programs panic at start; `stablecomponents` lacks the lock store.
                go.args(["-tags", "allcomponents"]).arg(format!("./cmd/{program}")).current_dir(&source);
                command::logged(&mut go, log)?;
            }
            if part == Part::ControlPlane {
                fs::rename(source.join("charts/dapr"), to.join("chart")).context("keep upstream's chart")?;
            }
            fs::remove_dir_all(&source).context("remove the copied source")
        })
    }

    /// The published name of this release's sidecar.
    pub fn sidecar_image_name(&self) -> String {
        format!("ghcr.io/dapr/daprd:{}", self.version)
    }

    /// The image of this release's sidecar under its published name.
    pub fn sidecar_image(&self, cache: &Cache) -> Result<Image> {
        let program = self.build(cache, Part::Daprd)?.join("daprd");
        Image::of_program(&self.sidecar_image_name(), "daprd", &program)
    }

    /// The checksums that upstream's `go.sum` lacks for the replaced module.
    fn sums(&self) -> Result<String> {
        let all = fs::read_to_string(package_folder().join("modules/upstream/go.sum.extra"))
            .context("read the sums of upstream's replaced modules")?;
        let version = format!(" {}", self.durabletask);
        let own: Vec<&str> = all.lines().filter(|line| line.contains(&version)).collect();
        ensure!(!own.is_empty(), "go.sum.extra has no line for durabletask-go {}", self.durabletask);
        Ok(own.join("\n") + "\n")
    }

    /// A module may not ask for an older Go than one it needs, and the replacement may need a newer one
    /// than the replaced did. Raised, the program still behaves as under the release's own version.
    fn raise_go(&self, source: &Path) -> Result<()> {
        let replacement = downloaded(&format!("github.com/dapr/durabletask-go@{}", self.durabletask))?;
        let (own, wanted) = (go_version(&source.join("go.mod"))?, go_version(&replacement.dir.join("go.mod"))?);
        if numbers(&own) >= numbers(&wanted) {
            return Ok(());
        }
        let language: Vec<&str> = own.split('.').take(2).collect();
        let behaviour = format!("-godebug=default=go{}", language.join("."));
        let mut edit = Command::new("go");
        edit.args(["mod", "edit", &format!("-go={wanted}"), &behaviour]).current_dir(source);
        command::output(&mut edit).map(drop)
    }

    fn copy_source(&self, to: &Path, sums: &str) -> Result<()> {
        let module = format!("github.com/dapr/dapr@v{}", self.version);
        let downloaded = downloaded(&module)?;
        ensure!(downloaded.sum == self.sum, "module {module} has sum {}, expected {}", downloaded.sum, self.sum);
        command::output(Command::new("cp").arg("-r").arg(&downloaded.dir).arg(to))?;
        command::output(Command::new("chmod").args(["-R", "u+w"]).arg(to))?;
        let components = to.join("cmd/daprd/components");
        for file in fs::read_dir(&components).context("list upstream's components")? {
            let file = file?;
            if !COMPONENTS.iter().any(|kept| file.file_name() == *kept) {
                fs::remove_file(file.path())?;
            }
        }
        let mut edit = Command::new("go");
        edit.args(["mod", "edit"]).current_dir(to);
        if let Some(pulsar) = self.pulsar {
            edit.arg(format!("-dropreplace={pulsar}"));
        }
        let durabletask = "github.com/dapr/durabletask-go";
        edit.arg(format!("-replace={durabletask}={durabletask}@{}", self.durabletask));
        command::output(&mut edit)?;
        self.raise_go(to)?;
        let sum_file = to.join("go.sum");
        let mut all = fs::read_to_string(&sum_file).context("read upstream's go.sum")?;
        all.push_str(sums);
        fs::write(&sum_file, all).context("add to upstream's go.sum")
    }
}

/// A module in Go's module cache, fetched if it is not there.
fn downloaded(module: &str) -> Result<Downloaded> {
    let mut download = Command::new("go");
    download.args(["mod", "download", "-json", module]).current_dir("/");
    serde_json::from_str(&command::output(&mut download)?).with_context(|| format!("read what go says of {module}"))
}

/// The `go` line of a `go.mod`.
fn go_version(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let version = text.lines().find_map(|line| line.strip_prefix("go "));
    version.map(|version| version.trim().to_owned()).with_context(|| format!("{} has no go line", file.display()))
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_compared_as_numbers() {
        assert!(numbers("1.25.9") < numbers("1.26.0") && numbers("1.9") < numbers("1.10"));
    }

    #[test]
    fn the_go_line_of_a_module_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("go.mod");
        fs::write(&file, "module m\n\ngo 1.25.9\n\nrequire x v1\n").unwrap();
        assert_eq!(go_version(&file).unwrap(), "1.25.9");
    }
}
