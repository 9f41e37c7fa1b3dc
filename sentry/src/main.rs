//! The `sentry` binary: reads its flags and runs the service.

use std::process::ExitCode;

use sentry::args::Args;

/// One worker for two cores: two of them wake each other several times for each connection, which costs
/// a twentieth of a certificate; what waits for an answer needs no thread.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

fn main() -> ExitCode {
    let args: Args = runtime::args::parse("sentry");
    if let Err(error) = runtime::logging::init("dapr.sentry", &args.log) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    match args.into_config(std::env::var("NAMESPACE").ok()) {
        Ok(config) => runtime::block_on_with(workers(), sentry::run(config)),
        Err(error) => {
            runtime::logging::fatal(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
