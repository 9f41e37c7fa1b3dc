//! Log lines in upstream's two formats: logrus' `key="value"` text and one JSON object a line.
//!
//! Fields of every line: `time` (RFC 3339 with nanoseconds), `level`, `msg`, `scope`, `type`=`log`,
//! `instance` (host name), `ver`; then the event's own fields and those of its spans. The scope is
//! the event's target where that begins with `dapr.`, else that of the process; lines from libraries
//! carry their `target` as a field. The writer is one lock in this module.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    sync::OnceLock,
};

use parking_lot::Mutex;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::{Context, Layer, SubscriberExt},
    registry::LookupSpan,
};

use crate::args::LogArgs;

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not one of upstream's levels.
    #[error("--log-level: {found:?} is not a level; allowed are debug, info, warn, error and fatal")]
    Level {
        /// What was given.
        found: String,
    },
    /// The log file cannot be opened.
    #[error("--log-file: cannot append to {path}")]
    File {
        /// What was given.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Logging was started before.
    #[error("logging was started twice")]
    Twice,
}

static SINK: OnceLock<Sink> = OnceLock::new();

/// Starts logging for the process; `scope` is its name in the lines, as in `dapr.sentry`.
pub fn init(scope: &'static str, args: &LogArgs) -> Result<(), LogError> {
    let level = level(&args.log_level)?;
    let sink = Sink::open(scope, args)?;
    SINK.set(sink).map_err(|_| LogError::Twice)?;
    // Libraries are chatty below `warn`, openraft below `error`; ours start with the component's or crate's name.
    let quiet = ["h2", "hyper", "hyper_util", "rustls", "tower", "tonic", "kube_client", "kube_runtime"];
    let filter = Targets::new()
        .with_default(level)
        .with_targets(quiet.map(|target| (target, level.min(LevelFilter::WARN))))
        .with_target("openraft", level.min(LevelFilter::ERROR));
    let subscriber = tracing_subscriber::registry().with(Lines.with_filter(filter));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)
}

/// Writes a line of level `fatal`, whatever the level is set to; to standard error if logging never
/// started.
pub fn fatal(message: &str) {
    match SINK.get() {
        Some(sink) => sink.write("fatal", sink.scope, message, BTreeMap::new()),
        None => drop(writeln!(io::stderr(), "{message}")),
    }
}

fn level(text: &str) -> Result<LevelFilter, LogError> {
    match text.to_ascii_lowercase().as_str() {
        "debug" => Ok(LevelFilter::DEBUG),
        "info" => Ok(LevelFilter::INFO),
        "warn" | "warning" => Ok(LevelFilter::WARN),
        "error" => Ok(LevelFilter::ERROR),
        "fatal" => Ok(LevelFilter::OFF),
        _ => Err(LogError::Level { found: text.to_owned() }),
    }
}

/// Where lines go, and what is the same in all of them.
struct Sink {
    scope: &'static str,
    instance: String,
    json: bool,
    file: Option<Mutex<File>>,
}

impl Sink {
    fn open(scope: &'static str, args: &LogArgs) -> Result<Self, LogError> {
        let path = &args.log_file;
        let file = if path.is_empty() {
            None
        } else {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            Some(Mutex::new(opened.map_err(|source| LogError::File { path: path.clone(), source })?))
        };
        let instance = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Ok(Self { scope, instance, json: args.log_as_json, file })
    }

    fn write(&self, level: &str, scope: &str, message: &str, mut fields: BTreeMap<String, Value>) {
        for (name, value) in
            [("instance", self.instance.as_str()), ("scope", scope), ("type", "log"), ("ver", crate::VERSION)]
        {
            fields.insert(name.to_owned(), Value::from(value));
        }
        let time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let line = if self.json { json(&time, level, message, fields) } else { text(&time, level, message, &fields) };
        // A log that cannot be written has nowhere to be reported.
        let _ = match &self.file {
            Some(file) => file.lock().write_all(line.as_bytes()),
            None => io::stdout().lock().write_all(line.as_bytes()),
        };
    }
}

fn json(time: &str, level: &str, message: &str, mut fields: BTreeMap<String, Value>) -> String {
    for (name, value) in [("time", time), ("level", level), ("msg", message)] {
        fields.insert(name.to_owned(), Value::from(value));
    }
    let mut line = serde_json::to_string(&fields).unwrap_or_default();
    line.push('\n');
    line
}

/// logrus' text form: time, level, message, then the fields by name.
fn text(time: &str, level: &str, message: &str, fields: &BTreeMap<String, Value>) -> String {
    let mut line = format!("time=\"{time}\" level={level} msg={message:?}");
    for (name, value) in fields {
        // Writing to a string cannot fail.
        let _ = match value {
            Value::String(value) if is_bare(value) => write!(line, " {name}={value}"),
            Value::String(value) => write!(line, " {name}={value:?}"),
            value => write!(line, " {name}={value}"),
        };
    }
    line.push('\n');
    line
}

/// Whether logrus prints a value without quotes.
fn is_bare(value: &str) -> bool {
    !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "-._/@^+".contains(c))
}

/// The subscriber's layer: spans keep their fields, events become lines.
struct Lines;

/// The fields of a span, kept beside it.
#[derive(Default)]
struct Fields(BTreeMap<String, Value>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.put(field, text.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(sink) = SINK.get() else { return };
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flatten().collect::<Vec<_>>().into_iter().rev() {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.0.extend(of_span.0.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
        }
        event.record(&mut fields);
        let message = match fields.0.remove("message") {
            Some(Value::String(text)) => text,
            other => other.map(|value| value.to_string()).unwrap_or_default(),
        };
        let target = event.metadata().target();
        let scope = if target.starts_with("dapr.") { target } else { sink.scope };
        sink.write(level_name(*event.metadata().level()), scope, &message, fields.0);
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> BTreeMap<String, Value> {
        BTreeMap::from([
            ("scope".to_owned(), "dapr.sentry".into()),
            ("n".to_owned(), 3.into()),
            ("why".to_owned(), "a b".into()),
        ])
    }

    #[test]
    fn text_lines_are_those_of_logrus() {
        assert_eq!(
            text("2026-01-02T03:04:05.6Z", "info", "it \"runs\"", &fields()),
            "time=\"2026-01-02T03:04:05.6Z\" level=info msg=\"it \\\"runs\\\"\" n=3 scope=dapr.sentry why=\"a b\"\n"
        );
    }

    #[test]
    fn json_lines_are_one_object() {
        let line = json("2026-01-02T03:04:05.6Z", "info", "it runs\nstill", fields());
        assert_eq!(line.matches('\n').count(), 1);
        let object: Value = serde_json::from_str(&line).expect("a JSON object");
        assert_eq!(object["msg"], "it runs\nstill");
        assert_eq!(object["scope"], "dapr.sentry");
    }

    #[test]
    fn an_unknown_level_names_the_flag_and_what_is_allowed() {
        let error = level("loud").expect_err("no such level").to_string();
        assert!(error.contains("--log-level") && error.contains("loud") && error.contains("fatal"), "{error}");
    }
}
