//! Writes the definitions of the custom resources into `charts/dapr/crds`; with `--check` it only
//! says which files differ, and fails if any does.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => write_all(),
        ["--check"] => check_all(),
        _ => Err("usage: crdgen [--check]".into()),
    };
    match outcome {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<String, Box<dyn std::error::Error>>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/dapr/crds")
}

fn write_all() -> Outcome {
    let definitions = crds::definitions();
    for definition in &definitions {
        let file = folder().join(definition.file);
        std::fs::write(&file, definition.yaml()?).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(format!("{} definitions written", definitions.len()))
}

fn check_all() -> Outcome {
    let mut differing = Vec::new();
    for definition in crds::definitions() {
        let found = std::fs::read_to_string(folder().join(definition.file)).unwrap_or_default();
        if found != definition.yaml()? {
            differing.push(definition.file);
        }
    }
    if differing.is_empty() {
        return Ok("the chart's definitions are what the types say".to_owned());
    }
    Err(format!("charts/dapr/crds differs from the types in {}; `make fix` rewrites it", differing.join(", ")).into())
}
