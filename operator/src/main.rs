//! The `operator` binary: parse, log, run.

use std::process::ExitCode;

use operator::args::{Args, Config};

fn main() -> ExitCode {
    let args: Args = runtime::args::parse("operator");
    runtime::block_on(async move {
        runtime::logging::init("dapr.operator", args.log())?;
        let config = Config::read(args, |name| std::env::var(name).ok())?;
        operator::run(config).await
    })
}
