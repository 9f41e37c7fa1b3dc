//! Metrics: what every process reports of itself, and the two text formats.
//!
//! Each service registers its metrics in a [`Registry`]; `prometheus-client` appends `_total` to
//! counters by itself. [`exposition`] prints the classic Prometheus text format, in which the type
//! line of a counter carries the sample's full name, as upstream's does.

use std::fmt::Write as _;

pub use prometheus_client::registry::Registry;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// An empty registry that reports the process itself (`process_*`).
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    registry
}

/// Kernel ticks per second in `/proc/<pid>/stat`: fixed by Linux's ABI (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self` at scrape time.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let usage = Usage::read();
        encode(
            &mut encoder,
            "process_cpu_seconds",
            "CPU time used, user and system",
            &ConstCounter::new(usage.cpu_seconds),
        )?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Memory resident (VmRSS)", usage.resident_bytes),
            (
                "process_resident_anonymous_memory_bytes",
                "Memory resident that no file backs (RssAnon)",
                usage.anonymous_bytes,
            ),
            ("process_virtual_memory_bytes", "Address space (VmSize)", usage.virtual_bytes),
            ("process_open_fds", "Open file descriptors", usage.open_fds),
            ("process_start_time_seconds", "Start, in seconds since the Unix epoch", usage.start_seconds),
        ] {
            encode(&mut encoder, name, help, &ConstGauge::new(value))?;
        }
        Ok(())
    }
}

fn encode(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, metric: &impl EncodeMetric) -> std::fmt::Result {
    let metric_encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(metric_encoder)
}

/// What the kernel says of this process; zero for what it does not say.
#[derive(Debug, Default)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: i64,
    anonymous_bytes: i64,
    virtual_bytes: i64,
    open_fds: i64,
    start_seconds: i64,
}

impl Usage {
    fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        // Fields after the command name, which may hold spaces: state is number 3 of proc(5).
        let fields: Vec<f64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect())
            .unwrap_or_default();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
        let boot_seconds = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<i64>().ok()).unwrap_or(0);
        #[expect(clippy::cast_possible_truncation, reason = "seconds since boot fit")]
        let start_seconds = boot_seconds + (field(22) / TICKS_PER_SECOND) as i64;
        Self {
            cpu_seconds: (field(14) + field(15)) / TICKS_PER_SECOND,
            resident_bytes: kibibytes(&status, "VmRSS:"),
            anonymous_bytes: kibibytes(&status, "RssAnon:"),
            virtual_bytes: kibibytes(&status, "VmSize:"),
            open_fds: std::fs::read_dir("/proc/self/fd").map_or(0, |dir| i64::try_from(dir.count()).unwrap_or(0)),
            start_seconds,
        }
    }
}

fn kibibytes(status: &str, key: &str) -> i64 {
    status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<i64>().ok()).unwrap_or(0)
        * 1024
}

/// Prints `registry` in the Prometheus text format, version 0.0.4.
pub fn exposition(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut open_metrics = String::new();
    prometheus_client::encoding::text::encode(&mut open_metrics, registry)?;
    let mut counters = std::collections::HashSet::new();
    for line in open_metrics.lines() {
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter")) {
            counters.insert(name.to_owned());
        }
    }
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        match line.strip_prefix("# ") {
            None => writeln!(text, "{line}")?,
            Some(comment) => write_comment(&mut text, comment, &counters)?,
        }
    }
    Ok(text)
}

/// Keeps HELP and TYPE, with a counter's full name; drops what the classic format lacks.
fn write_comment(text: &mut String, comment: &str, counters: &std::collections::HashSet<String>) -> std::fmt::Result {
    let mut words = comment.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some(kind @ ("HELP" | "TYPE")), Some(name), Some(rest)) => {
            let suffix = if counters.contains(name) { "_total" } else { "" };
            let rest = if rest == "unknown" { "untyped" } else { rest };
            writeln!(text, "# {kind} {name}{suffix} {rest}")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

    #[test]
    fn a_counter_has_one_name_in_type_line_and_sample() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("dapr_sample", "A sample", counter.clone());
        registry.register("dapr_level", "A level", Gauge::<i64>::default());
        counter.inc();
        let text = exposition(&registry).expect("writing to a string cannot fail");
        assert_eq!(
            text,
            "# HELP dapr_sample_total A sample.\n# TYPE dapr_sample_total counter\ndapr_sample_total 1\n\
             # HELP dapr_level A level.\n# TYPE dapr_level gauge\ndapr_level 0\n"
        );
    }

    #[test]
    fn the_process_reports_memory_that_it_has() {
        let usage = Usage::read();
        assert!(usage.resident_bytes > 100 * 1024, "{usage:?}");
        assert!(usage.anonymous_bytes > 0 && usage.anonymous_bytes <= usage.resident_bytes, "{usage:?}");
        assert!(usage.open_fds > 0 && usage.start_seconds > 1_600_000_000, "{usage:?}");
    }
}
