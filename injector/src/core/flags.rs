//! The sidecar's command line, in the one order that tools and tests know.
//!
//! The CLI finds values as the element after their flag, so flag and value are separate
//! elements except where `=` is written. Optional flags appear only when wanted: older
//! sidecars exit on a flag they do not know.

use super::{
    app_id::SidecarAppId,
    options::Options,
    settings::{Actors, Mtls, Settings},
};

/// The port of the sidecar's HTTP API.
pub const HTTP_PORT: i32 = 3500;
/// The port that answers health and metadata on all interfaces.
pub const PUBLIC_PORT: i32 = 3501;
/// Where the sidecar finds its Unix domain sockets.
pub const SOCKETS_PATH: &str = "/var/run/dapr-sockets";

/// The binary and the arguments after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// `/daprd`, or the debugger around it.
    pub binary: &'static str,
    /// Everything after the binary.
    pub flags: Vec<String>,
}

/// The command line for `options`.
pub fn command_line(app_id: &SidecarAppId, options: &Options, settings: &Settings<'_>) -> CommandLine {
    let mut flags = Flags::default();
    let binary = debugger(&mut flags, options);
    basics(&mut flags, app_id, options);
    control_plane(&mut flags, options, settings);
    app_health(&mut flags, options);
    switches(&mut flags, options, settings);
    sizes(&mut flags, options);
    endings(&mut flags, options, settings);
    CommandLine { binary, flags: flags.0 }
}

#[derive(Default)]
struct Flags(Vec<String>);

impl Flags {
    fn word(&mut self, word: impl Into<String>) {
        self.0.push(word.into());
    }

    fn when(&mut self, wanted: bool, flag: &str) {
        if wanted {
            self.word(flag);
        }
    }

    fn pair(&mut self, flag: &str, value: impl std::fmt::Display) {
        self.word(flag);
        self.word(format!("{value}"));
    }

    fn maybe(&mut self, flag: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.pair(flag, value);
        }
    }
}

fn debugger(flags: &mut Flags, options: &Options) -> &'static str {
    let Some(port) = options.container.debug_port else {
        return "/daprd";
    };
    flags.pair("--listen", format!(":{port}"));
    for word in ["--accept-multiclient", "--headless=true", "--log", "--api-version=2", "exec", "/daprd", "--"] {
        flags.word(word);
    }
    "/dlv"
}

fn basics(flags: &mut Flags, app_id: &SidecarAppId, options: &Options) {
    flags.pair("--dapr-http-port", HTTP_PORT);
    flags.pair("--dapr-grpc-port", options.api.grpc_port);
    flags.pair("--dapr-internal-grpc-port", options.api.internal_grpc_port);
    flags.pair("--dapr-listen-addresses", &options.api.listen_addresses);
    flags.pair("--dapr-public-port", PUBLIC_PORT);
    flags.pair("--app-id", app_id.as_str());
    flags.pair("--app-protocol", &options.app.protocol);
    flags.pair("--log-level", &options.signals.log_level);
    flags.pair("--dapr-graceful-shutdown-seconds", options.lifecycle.graceful_shutdown_seconds);
    flags.pair("--mode", "kubernetes");
}

fn control_plane(flags: &mut Flags, options: &Options, settings: &Settings<'_>) {
    let install = settings.install;
    flags.pair("--control-plane-address", install.service("dapr-api", 443));
    flags.pair("--sentry-address", install.service("dapr-sentry", 443));
    flags.maybe("--app-port", Some(options.app.port).filter(|port| *port > 0));
    if options.signals.metrics {
        flags.word("--enable-metrics");
        flags.pair("--metrics-port", options.signals.metrics_port);
    }
    flags.maybe("--config", options.control.config.as_deref());
    flags.maybe("--app-channel-address", options.app.channel_address.as_deref());
    match (options.control.placement_address.as_deref(), &install.actors) {
        (Some(address), _) if !address.is_empty() => flags.pair("--placement-host-address", address),
        (_, Actors::Other(service)) => flags.pair("--actors-service", service),
        (None, Actors::Placement(address)) => flags.pair("--placement-host-address", address),
        (_, Actors::Off | Actors::Placement(_)) => {}
    }
    flags.maybe("--reminders-service", install.reminders.as_deref());
    flags.maybe("--sentry-request-jwt-audiences", options.control.jwt_audiences.as_deref());
    if let Some(logging) = options.api.logging {
        flags.word(format!("--enable-api-logging={logging}"));
    }
    flags.when(options.control.disable_builtin_secret_store, "--disable-builtin-k8s-secret-store");
}

fn app_health(flags: &mut Flags, options: &Options) {
    let Some(check) = &options.app.health_check else {
        return;
    };
    flags.word("--enable-app-health-check");
    flags.pair("--app-health-check-path", &check.path);
    flags.pair("--app-health-probe-interval", check.interval_seconds);
    flags.pair("--app-health-probe-timeout", check.timeout_milliseconds);
    flags.pair("--app-health-threshold", check.threshold);
}

fn switches(flags: &mut Flags, options: &Options, settings: &Settings<'_>) {
    flags.maybe("--app-binding-options-timeout", options.app.binding_options_timeout.as_deref());
    flags.when(options.signals.log_as_json, "--log-as-json");
    flags.when(options.signals.profiling, "--enable-profiling");
    flags.when(settings.mtls == Mtls::On, "--enable-mtls");
    flags.when(options.app.ssl, "--app-ssl");
}

fn sizes(flags: &mut Flags, options: &Options) {
    flags.maybe("--app-max-concurrency", options.app.max_concurrency);
    flags.maybe("--dapr-http-max-request-size", options.api.http_max_request_size);
    flags.maybe("--max-body-size", options.api.max_body_size.as_deref());
    flags.maybe("--dapr-http-read-buffer-size", options.api.http_read_buffer_size);
    flags.maybe("--read-buffer-size", options.api.read_buffer_size.as_deref());
    if options.api.socket_path.is_some() {
        // The annotation says where the application sees the folder; here it is fixed.
        flags.pair("--unix-domain-socket", SOCKETS_PATH);
    }
}

fn endings(flags: &mut Flags, options: &Options, settings: &Settings<'_>) {
    flags.maybe("--dapr-block-shutdown-duration", options.lifecycle.block_shutdown_duration.as_deref());
    flags.maybe("--actors-disseminate-timeout", options.control.disseminate_timeout.as_deref());
    let derived = || settings.install.service("dapr-scheduler-server-a", 443);
    let scheduler = options.control.scheduler_address.clone();
    flags.maybe("--scheduler-host-address", scheduler.or_else(|| settings.install.scheduler.then(derived)));
    flags.maybe("--disable-init-endpoints", options.api.disable_init_endpoints.as_deref());
}
