//! One pod's wishes for its sidecar: every annotation the injector honours, typed.
//!
//! The groups follow what the values are for; the order in which flags, variables and mounts
//! come out is decided where they are built, not here.

use k8s_openapi::api::core::v1::Pod;

use super::annotations::Reader;

/// Everything the annotations of one pod say.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the sidecar reaches the application.
    pub app: AppOptions,
    /// The sidecar's own APIs.
    pub api: ApiOptions,
    /// Logs, metrics, profiling.
    pub signals: SignalOptions,
    /// Probes and shutdown.
    pub lifecycle: LifecycleOptions,
    /// Where the control plane is, and what is asked of it.
    pub control: ControlOptions,
    /// The container around the sidecar.
    pub container: ContainerOptions,
    /// Pluggable components.
    pub components: ComponentOptions,
}

/// How the sidecar reaches the application.
#[derive(Debug, Clone)]
pub struct AppOptions {
    pub(super) port: i32,
    pub(super) protocol: String,
    pub(super) ssl: bool,
    pub(super) channel_address: Option<String>,
    pub(super) max_concurrency: Option<i64>,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) binding_options_timeout: Option<String>,
}

/// The sidecar's own health check of the application.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    pub(super) path: String,
    pub(super) interval_seconds: i32,
    pub(super) timeout_milliseconds: i32,
    pub(super) threshold: i32,
}

/// The sidecar's own APIs.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    pub(super) grpc_port: i32,
    pub(super) internal_grpc_port: i32,
    pub(super) listen_addresses: String,
    pub(super) logging: Option<bool>,
    pub(super) http_max_request_size: Option<i64>,
    pub(super) max_body_size: Option<String>,
    pub(super) http_read_buffer_size: Option<i64>,
    pub(super) read_buffer_size: Option<String>,
    pub(super) socket_path: Option<String>,
    pub(super) disable_init_endpoints: Option<String>,
}

/// Logs, metrics, profiling.
#[derive(Debug, Clone)]
pub struct SignalOptions {
    pub(super) log_level: String,
    pub(super) log_as_json: bool,
    pub(super) profiling: bool,
    pub(super) metrics: bool,
    pub(super) metrics_port: i32,
}

/// Probes and shutdown.
#[derive(Debug, Clone)]
pub struct LifecycleOptions {
    pub(super) graceful_shutdown_seconds: i64,
    pub(super) block_shutdown_duration: Option<String>,
    pub(super) liveness: ProbeTimes,
    pub(super) readiness: ProbeTimes,
}

/// The four numbers of a probe.
#[derive(Debug, Clone, Copy)]
pub struct ProbeTimes {
    pub(super) delay_seconds: i32,
    pub(super) timeout_seconds: i32,
    pub(super) period_seconds: i32,
    pub(super) threshold: i32,
}

/// Where the control plane is, and what is asked of it.
#[derive(Debug, Clone)]
pub struct ControlOptions {
    pub(super) config: Option<String>,
    pub(super) placement_address: Option<String>,
    pub(super) scheduler_address: Option<String>,
    pub(super) disseminate_timeout: Option<String>,
    pub(super) jwt_audiences: Option<String>,
    pub(super) disable_builtin_secret_store: bool,
}

/// The container around the sidecar.
#[derive(Debug, Clone)]
pub struct ContainerOptions {
    pub(super) image: Option<String>,
    pub(super) env: String,
    pub(super) env_from_secret: String,
    pub(super) api_token_secret: Option<String>,
    pub(super) app_token_secret: Option<String>,
    pub(super) cpu_request: Option<String>,
    pub(super) cpu_limit: Option<String>,
    pub(super) memory_request: Option<String>,
    pub(super) memory_limit: Option<String>,
    pub(super) seccomp_profile: Option<String>,
    pub(super) mounts: String,
    pub(super) mounts_rw: String,
    pub(super) debug_port: Option<i32>,
    pub(super) native: Option<bool>,
}

/// Pluggable components.
#[derive(Debug, Clone)]
pub struct ComponentOptions {
    pub(super) names: String,
    pub(super) sockets_folder: Option<String>,
    pub(super) inject: bool,
}

const LOG_LEVELS: [&str; 5] = ["debug", "info", "warn", "error", "fatal"];
const PROTOCOLS: [&str; 5] = ["http", "grpc", "https", "grpcs", "h2c"];

impl Options {
    /// Reads the annotations of `pod`; the second value is what was found odd.
    pub fn of(pod: &Pod) -> (Self, Vec<String>) {
        let mut reader = Reader::new(pod);
        let options = Self {
            app: AppOptions::read(&mut reader),
            api: ApiOptions::read(&mut reader),
            signals: SignalOptions::read(&mut reader),
            lifecycle: LifecycleOptions::read(&mut reader),
            control: ControlOptions::read(&mut reader),
            container: ContainerOptions::read(&mut reader),
            components: ComponentOptions::read(&reader),
        };
        (options, reader.warnings)
    }

    /// The value of `APP_PROTOCOL` for the application; unknown protocols have none.
    pub fn app_protocol(&self) -> Option<&'static str> {
        let tls = |plain, secure| Some(if self.app.ssl { secure } else { plain });
        match self.app.protocol.to_lowercase().as_str() {
            "grpcs" => Some("grpcs"),
            "https" => Some("https"),
            "h2c" => Some("h2c"),
            "http" => tls("http", "https"),
            "grpc" => tls("grpc", "grpcs"),
            "" => Some("http"),
            _ => None,
        }
    }
}

impl AppOptions {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            port: reader.port("app-port", 0),
            protocol: reader.word("app-protocol", "http", &PROTOCOLS),
            ssl: reader.flag("app-ssl", false),
            channel_address: reader.non_empty("app-channel-address"),
            max_concurrency: reader.opt_int("app-max-concurrency"),
            health_check: HealthCheck::read(reader),
            binding_options_timeout: reader.opt_flag_text("app-binding-options-timeout"),
        }
    }
}

impl HealthCheck {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let check = Self {
            path: reader.text("app-health-check-path", "/healthz"),
            interval_seconds: reader.int32("app-health-probe-interval", 5),
            timeout_milliseconds: reader.int32("app-health-probe-timeout", 500),
            threshold: reader.int32("app-health-threshold", 3),
        };
        reader.flag("enable-app-health-check", false).then_some(check)
    }
}

impl ApiOptions {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            grpc_port: reader.port("grpc-port", 50001),
            internal_grpc_port: reader.port("internal-grpc-port", 50002),
            listen_addresses: reader.text("sidecar-listen-addresses", "[::1],127.0.0.1"),
            logging: reader.opt_flag("enable-api-logging"),
            http_max_request_size: reader.opt_int("http-max-request-size"),
            max_body_size: reader.non_empty("max-body-size"),
            http_read_buffer_size: reader.opt_int("http-read-buffer-size"),
            read_buffer_size: reader.non_empty("read-buffer-size"),
            socket_path: reader.non_empty("unix-domain-socket-path"),
            disable_init_endpoints: reader.opt_text("disable-init-endpoints").map(str::to_owned),
        }
    }
}

impl SignalOptions {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            log_level: reader.word("log-level", "info", &LOG_LEVELS),
            log_as_json: reader.flag("log-as-json", false),
            profiling: reader.flag("enable-profiling", false),
            metrics: reader.flag("enable-metrics", true),
            metrics_port: reader.port("metrics-port", 9090),
        }
    }
}

impl LifecycleOptions {
    fn read(reader: &mut Reader<'_>) -> Self {
        let liveness = ProbeTimes { delay_seconds: 180, timeout_seconds: 3, period_seconds: 10, threshold: 5 };
        let readiness = ProbeTimes { delay_seconds: 1, timeout_seconds: 1, period_seconds: 1, threshold: 5 };
        Self {
            graceful_shutdown_seconds: reader.int("graceful-shutdown-seconds", -1),
            block_shutdown_duration: reader.opt_flag_text("block-shutdown-duration"),
            liveness: liveness.overridden(reader, "sidecar-liveness-probe"),
            readiness: readiness.overridden(reader, "sidecar-readiness-probe"),
        }
    }
}

impl ProbeTimes {
    fn overridden(self, reader: &mut Reader<'_>, prefix: &str) -> Self {
        Self {
            delay_seconds: reader.int32(&format!("{prefix}-delay-seconds"), self.delay_seconds),
            timeout_seconds: reader.int32(&format!("{prefix}-timeout-seconds"), self.timeout_seconds),
            period_seconds: reader.int32(&format!("{prefix}-period-seconds"), self.period_seconds),
            threshold: reader.int32(&format!("{prefix}-threshold"), self.threshold),
        }
    }
}

impl ControlOptions {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            config: reader.non_empty("config"),
            placement_address: reader.opt_address("placement-host-address"),
            scheduler_address: reader.opt_address("scheduler-host-address"),
            disseminate_timeout: reader.opt_flag_text("actors-disseminate-timeout"),
            jwt_audiences: reader.non_empty("sentry-request-jwt-audiences"),
            disable_builtin_secret_store: reader.flag("disable-builtin-k8s-secret-store", false),
        }
    }
}

impl ContainerOptions {
    fn read(reader: &mut Reader<'_>) -> Self {
        let debug_port = reader.port("debug-port", 40000);
        Self {
            image: reader.opt_text("sidecar-image").map(str::to_owned),
            env: reader.text("env", ""),
            env_from_secret: reader.text("env-from-secret", ""),
            api_token_secret: reader.non_empty("api-token-secret"),
            app_token_secret: reader.non_empty("app-token-secret"),
            cpu_request: reader.non_empty("sidecar-cpu-request"),
            cpu_limit: reader.non_empty("sidecar-cpu-limit"),
            memory_request: reader.non_empty("sidecar-memory-request"),
            memory_limit: reader.non_empty("sidecar-memory-limit"),
            seccomp_profile: reader.non_empty("sidecar-seccomp-profile-type"),
            mounts: reader.text("volume-mounts", ""),
            mounts_rw: reader.text("volume-mounts-rw", ""),
            debug_port: reader.flag("enable-debug", false).then_some(debug_port),
            native: reader.opt_flag("enable-native-sidecar"),
        }
    }
}

impl ComponentOptions {
    fn read(reader: &Reader<'_>) -> Self {
        Self {
            names: reader.text("pluggable-components", ""),
            sockets_folder: reader.non_empty("pluggable-components-sockets-folder"),
            inject: reader.flag("inject-pluggable-components", false),
        }
    }
}
