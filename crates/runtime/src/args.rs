//! Command lines: Go's flag spellings, one environment variable for each flag, shared flag groups.
//!
//! Upstream's flags are Go's: `-flag` equals `--flag`, and a boolean takes its value only after `=`.
//! Such a boolean is declared as
//! `#[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]`.
//! Environment variables are `DAPRCP_<COMPONENT>_<FLAG>` (RULINGS 3).

use std::ffi::OsString;

use clap::{Args, CommandFactory, Parser, builder::OsStr};

/// Where and how log lines are written.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Least severe level written: debug, info, warn, error or fatal.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// Write each log line as one JSON object.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub log_as_json: bool,
    /// Append log lines to this file instead of standard output.
    #[arg(long, value_name = "FILE", default_value = "")]
    pub log_file: String,
}

/// The metrics endpoint.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Metrics")]
pub struct MetricsArgs {
    /// Serve Prometheus metrics.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_metrics: bool,
    /// TCP port of the metrics endpoint.
    #[arg(long, value_name = "PORT", default_value_t = 9090)]
    pub metrics_port: u16,
    /// Address the metrics endpoint listens on.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub metrics_listen_address: String,
}

/// The health endpoint.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Health")]
pub struct HealthArgs {
    /// TCP port of the health endpoint, `/healthz`.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub healthz_port: u16,
    /// Address the health endpoint listens on; empty means all.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub healthz_listen_address: String,
}

/// The way to the API server.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubeArgs {
    /// Path of a kubeconfig file; when unset: $KUBECONFIG, the pod's own credentials, ~/.kube/config.
    #[arg(long, value_name = "FILE", default_value = "")]
    pub kubeconfig: String,
}

/// Reads the command line of `component` (lower case, as in `sentry`).
///
/// Prints help or version and exits 0 when asked to; on a bad flag prints what was wrong, with a
/// hint, and exits 2, as Go's flag package does.
pub fn parse<A: Parser>(component: &str) -> A {
    let command = command::<A>(component);
    let parsed =
        command.try_get_matches_from(normalized(std::env::args_os())).and_then(|matches| A::from_arg_matches(&matches));
    match parsed {
        Ok(args) => args,
        Err(error) => error.exit(),
    }
}

/// The command behind [`parse`]: every flag bound to its environment variable.
pub fn command<A: CommandFactory>(component: &str) -> clap::Command {
    let prefix = format!("DAPRCP_{}_", component.to_uppercase());
    // As in Go, the last of several wins.
    A::command().version(crate::VERSION).args_override_self(true).mut_args(|arg| match arg.get_long() {
        None | Some("help" | "version") => arg,
        Some(long) => {
            let name = format!("{prefix}{}", long.to_uppercase().replace('-', "_"));
            arg.env(OsStr::from(OsString::from(name)))
        }
    })
}

/// Parses `arguments` (without the program's name) as [`parse`] would; for tests and tools.
pub fn try_parse<A: Parser>(component: &str, arguments: &[&str]) -> Result<A, clap::Error> {
    let line = std::iter::once(component).chain(arguments.iter().copied()).map(OsString::from);
    let matches = command::<A>(component).try_get_matches_from(normalized(line))?;
    A::from_arg_matches(&matches)
}

/// Rewrites Go's `-flag` to `--flag`; everything after a lone `--` is left alone.
fn normalized(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut raw = false;
    arguments
        .into_iter()
        .map(|argument| {
            raw |= argument == "--";
            match argument.to_str() {
                Some(text) if !raw && is_single_dash_flag(text) => format!("-{text}").into(),
                _ => argument,
            }
        })
        .collect()
}

fn is_single_dash_flag(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next() == Some('-') && chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && text.len() > 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser, Debug)]
    struct Flags {
        /// A port.
        #[arg(long, default_value_t = 1)]
        port: u16,
        #[command(flatten)]
        log: LogArgs,
        #[command(flatten)]
        metrics: MetricsArgs,
    }

    fn parsed(arguments: &[&str]) -> Flags {
        try_parse("sample", arguments).expect("these arguments are valid")
    }

    #[test]
    fn every_go_spelling_of_a_flag_is_accepted() {
        for line in [&["--port", "7"][..], &["--port=7"], &["-port", "7"], &["-port=7"]] {
            assert_eq!(parsed(line).port, 7, "{line:?}");
        }
    }

    #[test]
    fn a_boolean_takes_its_value_after_an_equals_sign_only() {
        assert!(parsed(&["--log-as-json"]).log.log_as_json);
        assert!(parsed(&["-log-as-json=true"]).log.log_as_json);
        assert!(!parsed(&["--enable-metrics=false"]).metrics.enable_metrics);
        assert!(try_parse::<Flags>("sample", &["--log-as-json", "true"]).is_err());
    }

    #[test]
    fn the_last_of_several_equal_flags_wins() {
        assert_eq!(parsed(&["--port=7", "-port", "8"]).port, 8);
    }

    #[test]
    fn an_unknown_flag_fails_with_code_two_and_a_hint() {
        let error = try_parse::<Flags>("sample", &["--prot=7"]).expect_err("no such flag");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--port"), "{error}");
    }

    #[test]
    fn every_flag_names_its_environment_variable() {
        let help = command::<Flags>("sample").render_long_help().to_string();
        assert!(help.contains("DAPRCP_SAMPLE_METRICS_PORT"), "{help}");
    }
}
