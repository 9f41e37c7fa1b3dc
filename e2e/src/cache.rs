//! Built and downloaded things, kept outside the repository under a name that changes with the recipe.
//!
//! An entry is made in a folder beside its final place and renamed into it when it is whole, so a
//! build that broke off is never taken for a finished one. One lock per entry keeps two commands
//! from building the same thing at once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};

use crate::progress::say;

/// Names the folder that holds the cache instead of `${XDG_CACHE_HOME:-$HOME/.cache}/dapr-control-plane`.
pub const CACHE_VARIABLE: &str = "DAPRCP_CACHE";

/// The folder of all cached things.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// What an entry is made of: any change in `recipe` makes a new entry.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Short name, part of the folder's name.
    pub name: &'a str,
    /// Version, part of the folder's name.
    pub version: &'a str,
    /// Everything the result depends on: module files, flags, file lists.
    pub recipe: &'a [u8],
}

impl Cache {
    /// The cache of this user, or the one that the environment names.
    pub fn of_user() -> Result<Self> {
        let root = if let Some(named) = std::env::var_os(CACHE_VARIABLE) {
            PathBuf::from(named)
        } else if let Some(xdg) = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
            PathBuf::from(xdg).join("dapr-control-plane")
        } else {
            let home = std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
            PathBuf::from(home).join(".cache/dapr-control-plane")
        };
        Ok(Self::at(root))
    }

    /// A cache in the given folder.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the cache is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of `entry`, made by `build` if it is not there yet.
    ///
    /// `build` receives an empty folder to fill and a log file for the output of its programs.
    pub fn get(&self, entry: &Entry<'_>, build: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
        let hash = hex::encode(digest(&SHA256, entry.recipe));
        let key = format!("{}-{}-{}", entry.name, entry.version, &hash[..12]);
        let place = self.root.join(&key);
        if place.is_dir() {
            return Ok(place);
        }
        fs::create_dir_all(&self.root).with_context(|| format!("create {}", self.root.display()))?;
        let lock = File::create(self.root.join(format!("{key}.lock")))?;
        lock.lock().with_context(|| format!("lock cache entry {key}"))?;
        if place.is_dir() {
            return Ok(place);
        }
        say(format!("building {} {}", entry.name, entry.version));
        let started = std::time::Instant::now();
        let partial = self.root.join(format!("{key}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(|| format!("remove broken build {}", partial.display()))?;
        }
        fs::create_dir_all(&partial)?;
        let log = self.root.join(format!("{key}.log"));
        build(&partial, &log).with_context(|| format!("build {} {}", entry.name, entry.version))?;
        fs::rename(&partial, &place).with_context(|| format!("move {} into place", place.display()))?;
        let took = started.elapsed().as_secs();
        say(format!("built {} {} in {took} s", entry.name, entry.version));
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    const ENTRY: Entry<'_> = Entry { name: "thing", version: "1", recipe: b"r" };

    #[test]
    fn a_finished_entry_is_not_built_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        let first = cache.get(&ENTRY, |to, _| Ok(fs::write(to.join("f"), "x")?)).unwrap();
        let second = cache.get(&ENTRY, |_, _| bail!("built twice")).unwrap();
        assert_eq!(first, second);
        assert_eq!(fs::read_to_string(second.join("f")).unwrap(), "x");
    }

    #[test]
    fn a_build_that_broke_off_is_done_again_from_an_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        let broken = cache.get(&ENTRY, |to, _| {
            fs::write(to.join("half"), "x")?;
            bail!("broke off")
        });
        assert!(broken.is_err());
        let place = cache.get(&ENTRY, |to, _| Ok(fs::write(to.join("whole"), "x")?)).unwrap();
        assert!(place.join("whole").exists() && !place.join("half").exists());
    }

    #[test]
    fn another_recipe_is_another_entry() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        let one = cache.get(&ENTRY, |_, _| Ok(())).unwrap();
        let two = cache.get(&Entry { recipe: b"s", ..ENTRY }, |_, _| Ok(())).unwrap();
        assert_ne!(one, two);
    }
}
