//! The `e2e` program: reads the command line, runs the command, tells the exit code.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command as Program, ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use e2e::args::{Arguments, Command, Test};
use e2e::artifacts::{Artifacts, BackendArtifacts, NodeArtifacts};
use e2e::cache::Cache;
use e2e::mode::Mode;
use e2e::packages::{self, Purpose};
use e2e::upstream::{V1_16, V1_17};
use e2e::{Cluster, bench, progress, quickstart, samples, up};

fn main() -> ExitCode {
    progress::start();
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<bool> {
    match command {
        Command::Up(options) => {
            let cluster = up::up(&options)?;
            println!("export KUBECONFIG={}", cluster.kubeconfig().display());
            Ok(true)
        }
        Command::Run(options) => {
            let cluster = up::up(&options)?;
            quickstart::run(&cluster)
        }
        Command::Test(options) => test(&options),
        Command::Actors(options) => {
            let _turn = up::take_turn()?;
            e2e::actors::run(&Cluster::current()?, &options).map(|()| true)
        }
        Command::Down => up::down().map(|()| true),
        Command::Status => {
            // A reader that stops early, like `head`, is no failure.
            let _ = writeln!(std::io::stdout(), "{}", up::status()?);
            Ok(true)
        }
        Command::Build => build().map(|()| true),
        Command::Bench(options) => bench::run(&options).map(|()| true),
        Command::Kubectl { arguments } => {
            become_program(&mut Cluster::current()?.kubectl_command(arguments)).map(|()| true)
        }
        Command::Helm { arguments } => become_program(Cluster::current()?.helm().args(arguments)).map(|()| true),
    }
}

/// Everything that a local node needs, so that a later `up` needs no network.
fn build() -> Result<()> {
    packages::ensure(Purpose::Node)?;
    let cache = Cache::of_user()?;
    Artifacts::build(&cache)?;
    NodeArtifacts::build(&cache)?;
    BackendArtifacts::build(&cache)?;
    samples::images(&cache)?;
    println!("everything is in {}", cache.root().display());
    Ok(())
}

fn test(options: &Test) -> Result<bool> {
    // Kept until the tests are done: an `up` or `down` meanwhile would take their cluster away.
    let turn = up::take_turn()?;
    let cluster = up::up_in_turn(&options.up, &turn)?;
    if cluster.mode() != Mode::Processes && !quickstart::run(&cluster)? {
        return Ok(false);
    }
    if options.compat {
        let cache = Cache::of_user()?;
        for release in [&V1_17, &V1_16] {
            cluster.load_image(&release.sidecar_image(&cache)?)?;
        }
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tests = Program::new(cargo);
    tests.args(["test", "--package", "e2e", "--no-fail-fast"]);
    let all = ["*".to_owned()];
    for name in if options.only.is_empty() { all.as_slice() } else { &options.only } {
        tests.args(["--test", name]);
    }
    if options.compat {
        tests.args(["--", "--include-ignored", "--nocapture"]);
    }
    tests.current_dir(e2e::modules::package_folder()).env(up::TURN_IS_TAKEN, "yes");
    Ok(tests.status().context("start the tests")?.success())
}

/// Replaces this process, so that the program's own exit code and terminal are what the user gets.
fn become_program(program: &mut Program) -> Result<()> {
    Err(program.exec()).with_context(|| format!("start {}", program.get_program().display()))
}
