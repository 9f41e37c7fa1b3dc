//! The `placement` binary: reads its flags and runs the service.

use std::process::ExitCode;

use placement::args::{Args, Environment};

fn main() -> ExitCode {
    let args: Args = runtime::args::parse("placement");
    if let Err(error) = runtime::logging::init("dapr.placement", &args.log) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    match args.into_config(&Environment::read()) {
        Ok(config) => runtime::block_on(placement::run(config)),
        Err(error) => {
            runtime::logging::fatal(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
