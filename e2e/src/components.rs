//! The images that the chart asks for, made from our own binaries or from upstream's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Deserialize;
use serde_json::Value;

use crate::args::Up;
use crate::artifacts::Artifacts;
use crate::cache::Cache;
use crate::command::output;
use crate::images::Image;
use crate::modules::package_folder;
use crate::node::Runtime;
use crate::progress::say;
use crate::state::State;
use crate::upstream::{Part, V1_18};

/// The four services of the control plane.
pub const CONTROL_PLANE: [&str; 4] = ["operator", "sentry", "placement", "injector"];

/// Whose control plane runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ControlPlane {
    /// This repository's.
    #[default]
    Ours,
    /// Upstream's, for a comparison or as the start of an upgrade.
    Upstream,
}

/// Where each program is that the chart's images are made of.
#[derive(Debug, Clone)]
pub struct Binaries(BTreeMap<String, PathBuf>);

impl Binaries {
    /// Builds the control plane and adds the sidecar and the scheduler.
    pub fn build(options: &Up, artifacts: &Artifacts, cache: &Cache) -> Result<Self> {
        let folder = match (&options.binaries, options.control_plane) {
            (Some(folder), _) => folder.clone(),
            (None, ControlPlane::Ours) => build_ours(&CONTROL_PLANE)?,
            (None, ControlPlane::Upstream) => V1_18.build(cache, Part::ControlPlane)?,
        };
        let mut all: BTreeMap<String, PathBuf> =
            CONTROL_PLANE.iter().map(|&name| (name.to_owned(), folder.join(name))).collect();
        all.insert("daprd".into(), artifacts.daprd.join("daprd"));
        all.insert("scheduler".into(), artifacts.scheduler.join("scheduler"));
        Ok(Self(all))
    }

    /// The program of an image.
    pub fn path(&self, name: &str) -> Result<&Path> {
        self.0.get(name).map(PathBuf::as_path).with_context(|| format!("no program for image {name}"))
    }

    /// Makes every image that the rendered chart names and gives it to the node; returns the names
    /// of those that are not what the node had before.
    pub fn import(&self, rendered: &str, runtime: &Runtime, state: &State) -> Result<BTreeSet<String>> {
        const FILE: &str = "images.json";
        let mut known: BTreeMap<String, String> = state.load(FILE)?.unwrap_or_default();
        let mut changed = BTreeSet::new();
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        for reference in references(rendered, &names)? {
            let name = program_of(&reference);
            let program = self.path(name)?;
            let archive = state.path("images").join(format!("{name}.tar"));
            let digest = Image::of_program(&reference, name, program)?.write(&archive)?;
            if known.get(&reference) != Some(&digest) {
                say(format!("importing image {reference}"));
                runtime.import(&archive)?;
                known.insert(reference.clone(), digest);
                changed.insert(name.to_owned());
            }
            std::fs::remove_file(&archive)?;
        }
        state.save(FILE, &known)?;
        Ok(changed)
    }
}

/// Every string in the rendered chart that is the reference of an image of one of these programs.
pub fn references(rendered: &str, programs: &[&str]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for document in serde_yaml::Deserializer::from_str(rendered) {
        let value = Value::deserialize(document).context("understand the rendered chart")?;
        collect(&value, programs, &mut found);
    }
    if found.is_empty() {
        bail!("the rendered chart names no image of Dapr's");
    }
    Ok(found)
}

fn collect(value: &Value, programs: &[&str], found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if is_reference(text) && programs.contains(&program_of(text)) => {
            found.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, programs, found)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, programs, found)),
        _ => {}
    }
}

/// What `cargo metadata` says, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

/// Builds some of our binaries in release mode and returns the folder they are in.
pub fn build_ours(names: &[&str]) -> Result<PathBuf> {
    say(format!("building {}", names.join(", ")));
    let workspace = package_folder().parent().unwrap_or(Path::new("."));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(&cargo);
    build.args(["build", "--release", "--locked"]).current_dir(workspace);
    for name in names {
        build.args(["-p", name]);
    }
    // Its progress is for the person who waits.
    let status = build.status().context("start cargo")?;
    if !status.success() {
        bail!("cargo could not build the control plane ({status}); its messages are above");
    }
    let mut metadata = Command::new(&cargo);
    metadata.args(["metadata", "--no-deps", "--format-version=1", "--locked"]).current_dir(workspace);
    let metadata: Metadata = serde_json::from_str(&output(&mut metadata)?).context("read cargo's metadata")?;
    Ok(metadata.target_directory.join("release"))
}

/// The last part of a reference without its tag: `ghcr.io/dapr/daprd:1.18.3` gives `daprd`.
pub fn program_of(reference: &str) -> &str {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    last.split([':', '@']).next().unwrap_or(last)
}

/// Whether a string has the form `registry/name:tag`.
fn is_reference(text: &str) -> bool {
    let last = text.rsplit('/').next().unwrap_or(text);
    text.contains('/')
        && last.contains(':')
        && !text.contains("://")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/:.-_@".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_in_containers_and_in_environment_variables() {
        let rendered = "spec: {containers: [{image: 'localhost/dapr/sentry:1', env: [{value: 'ghcr.io/dapr/daprd:1.18.3'}]}]}\n\
                        ---\nurl: http://x/sentry:80\nother: 'busybox/sh:1'\n";
        let found = references(rendered, &["sentry", "daprd"]).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["ghcr.io/dapr/daprd:1.18.3", "localhost/dapr/sentry:1"]);
    }
}
