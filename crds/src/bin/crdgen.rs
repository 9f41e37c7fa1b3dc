//! Writes the definitions of the custom resources into a folder (`charts/dapr/crds` by default).

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

fn main() -> ExitCode {
    let folder = std::env::args_os().nth(1).map_or_else(chart_folder, PathBuf::from);
    match write_all(&folder) {
        Ok(count) => {
            println!("{count} definitions written to {}", folder.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn chart_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/dapr/crds")
}

fn write_all(folder: &Path) -> Result<usize, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(folder)?;
    let definitions = crds::definitions();
    for definition in &definitions {
        let file = folder.join(definition.file);
        std::fs::write(&file, definition.yaml()?).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(definitions.len())
}
