//! Reads flags and environment, starts logging, runs the injector.

use std::process::ExitCode;

use injector::args::{Args, Config, Given};

fn main() -> ExitCode {
    let args: Args = runtime::args::parse("injector");
    let log = args.log.clone();
    runtime::block_on(async move {
        runtime::logging::init("dapr.injector", &log)?;
        tracing::info!(version = runtime::VERSION, "starting Dapr sidecar injector");
        let given = Given {
            variable: &|name| std::env::var(name).ok(),
            resolv_conf: &|| std::fs::read_to_string("/etc/resolv.conf"),
        };
        injector::run(Config::new(args, &given)?).await
    })
}
