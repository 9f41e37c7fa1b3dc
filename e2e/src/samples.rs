//! The sample applications under `e2e/samples`, built and put into images like everything else.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};

use crate::cache::{Cache, Entry};
use crate::command;
use crate::images::Image;
use crate::modules::{go_build, package_folder};

/// Each is a folder, a program and an image.
pub const NAMES: [&str; 4] = ["actor-host", "order-processor", "order-service", "payment-service"];

/// The images of the samples, their programs built if the cache lacks them.
pub fn images(cache: &Cache) -> Result<Vec<Image>> {
    let folder = build(cache)?;
    NAMES
        .iter()
        .map(|name| Image::of_program(&format!("localhost/fuse/{name}:latest"), name, &folder.join(name)))
        .collect()
}

/// Changes whenever the sources of the samples do.
pub fn fingerprint() -> Result<String> {
    Ok(hex::encode(&digest(&SHA256, &recipe()?).as_ref()[..8]))
}

fn recipe() -> Result<Vec<u8>> {
    let mut recipe = Vec::new();
    add_sources(&package_folder().join("samples"), &mut recipe)?;
    Ok(recipe)
}

fn build(cache: &Cache) -> Result<PathBuf> {
    let sources = package_folder().join("samples");
    let recipe = recipe()?;
    let entry = Entry { name: "samples", version: "1", recipe: &recipe };
    cache.get(&entry, |to, log| {
        for name in NAMES {
            let mut go = go_build("-s -w", &to.join(name));
            go.arg(format!("./{name}")).current_dir(&sources);
            command::logged(&mut go, log)?;
        }
        Ok(())
    })
}

/// Adds the name and content of every file of Go's below `folder`, in a fixed order.
fn add_sources(folder: &Path, recipe: &mut Vec<u8>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            add_sources(&path, recipe)?;
        } else if path.extension().is_some_and(|kind| ["go", "mod", "sum"].iter().any(|known| kind == *known)) {
            recipe.extend(path.display().to_string().into_bytes());
            recipe.extend(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
    }
    Ok(())
}
