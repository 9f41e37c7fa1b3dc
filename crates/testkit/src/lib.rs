//! Helpers for tests: golden files, the purity check, waiting for a condition, a certificate
//! authority. A dev-dependency only; its functions panic, as assertions do.
#![allow(clippy::panic, clippy::missing_panics_doc, reason = "these are assertions")]

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub mod ca;

/// Compares `actual` with the file `path`, relative to the crate at `manifest_dir`
/// (`env!("CARGO_MANIFEST_DIR")`). With `UPDATE_GOLDEN=1` (`make golden`) it writes the file instead.
pub fn golden(manifest_dir: &str, path: &str, actual: &str) {
    let file = Path::new(manifest_dir).join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let folder = file.parent().expect("a golden file lies in a folder");
        std::fs::create_dir_all(folder).expect("the folder of golden files can be made");
        std::fs::write(&file, actual).expect("a golden file can be written");
        return;
    }
    let expected = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("golden file {}: {error}; `make golden` writes it", file.display()));
    assert!(
        expected == actual,
        "{} differs; `make golden` rewrites it, then review the diff.\n{}",
        file.display(),
        first_difference(&expected, actual)
    );
}

fn first_difference(expected: &str, actual: &str) -> String {
    let pairs = expected.lines().zip(actual.lines()).enumerate().find(|(_, (e, a))| e != a);
    match pairs {
        Some((index, (e, a))) => format!("line {}:\n  expected: {e}\n  actual:   {a}", index + 1),
        None => format!("{} lines expected, {} found", expected.lines().count(), actual.lines().count()),
    }
}

/// What a pure core must not name.
const IMPURE: [&str; 14] = [
    "tokio::",
    "kube::",
    "tonic::",
    "axum::",
    "hyper::",
    "std::net",
    "std::fs",
    "std::env",
    "std::process",
    "Instant::now",
    "SystemTime::now",
    "rand::",
    "async fn",
    ".await",
];

/// Fails if a file below `src/core` of the crate at `manifest_dir` names a clock, socket, runtime,
/// random number, file or environment. Test modules, kept at the end of a file, may.
pub fn assert_core_is_pure(manifest_dir: &str) {
    let core = Path::new(manifest_dir).join("src/core");
    let files = rust_files(&core);
    assert!(!files.is_empty(), "{} holds no Rust files", core.display());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file is readable");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (index, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for word in IMPURE {
                assert!(!line.contains(word), "{}:{}: the core is pure, but names `{word}`", file.display(), index + 1);
            }
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Waits until `condition` gives a value, polling; panics naming `what` after `deadline`.
pub async fn wait_until<T, F: Future<Output = Option<T>>>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    const POLL: Duration = Duration::from_millis(20);
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core_with(code: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("src/core")).expect("a folder");
        std::fs::write(folder.path().join("src/core/mod.rs"), code).expect("a file");
        folder
    }

    fn check(folder: &tempfile::TempDir) {
        assert_core_is_pure(folder.path().to_str().expect("UTF-8"));
    }

    #[test]
    fn a_pure_core_may_read_the_clock_in_its_tests() {
        check(&core_with("fn a() {}\n// tokio:: is named in prose\n#[cfg(test)]\nmod tests { use std::fs; }\n"));
    }

    #[test]
    #[should_panic(expected = "names `SystemTime::now`")]
    fn a_core_that_reads_the_clock_is_refused() {
        check(&core_with("fn a() { SystemTime::now(); }\n"));
    }

    #[test]
    #[should_panic(expected = "line 2")]
    fn a_golden_file_that_differs_shows_where() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("golden"), "a\nb\n").expect("a file");
        golden(folder.path().to_str().expect("UTF-8"), "golden", "a\nc\n");
    }
}
