//! The `sentry` binary: reads its flags and runs the service.

use std::process::ExitCode;

use sentry::args::Args;

fn main() -> ExitCode {
    let args: Args = runtime::args::parse("sentry");
    if let Err(error) = runtime::logging::init("dapr.sentry", &args.log) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    match args.into_config(std::env::var("NAMESPACE").ok()) {
        Ok(config) => runtime::block_on(sentry::run(config)),
        Err(error) => {
            runtime::logging::fatal(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
