//! Reading `dapr.io/*` annotations into typed values, with upstream's forgiveness.
//!
//! A value that is not what its annotation wants never refuses a pod: it is ignored, or used
//! as upstream would use it, and a warning says so. The reader gathers those warnings.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::values::{clean_address, is_truthy, parse_int};

/// Whether the pod wants a sidecar.
pub const ENABLED: &str = "dapr.io/enabled";
/// The app id.
pub const APP_ID: &str = "dapr.io/app-id";
/// Whether component containers are to be added.
pub const INJECT_COMPONENTS: &str = "dapr.io/inject-pluggable-components";
/// On a Component resource: the container that serves it.
pub const COMPONENT_CONTAINER: &str = "dapr.io/component-container";

/// What `dapr.io/enabled` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enabled<'a> {
    /// Exactly `true`, in any case.
    Yes,
    /// A word the operator takes for yes and injection does not.
    Almost(&'a str),
    /// Absent or anything else.
    No,
}

impl<'a> Enabled<'a> {
    /// Reads the annotation of `pod`.
    pub fn of(pod: &'a Pod) -> Self {
        match annotation(pod, ENABLED) {
            Some(value) if value.eq_ignore_ascii_case("true") => Self::Yes,
            Some(value) if is_truthy(value) => Self::Almost(value),
            _ => Self::No,
        }
    }
}

/// Whether the pod asks for containers declared on Component resources.
pub fn wants_components(pod: &Pod) -> bool {
    annotation(pod, INJECT_COMPONENTS).is_some_and(is_truthy)
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Typed access to one pod's annotations; keys are given without `dapr.io/`.
#[derive(Debug)]
pub struct Reader<'a> {
    annotations: Option<&'a BTreeMap<String, String>>,
    /// What was found odd so far.
    pub warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    /// A reader over the annotations of `pod`.
    pub fn new(pod: &'a Pod) -> Self {
        Self { annotations: pod.metadata.annotations.as_ref(), warnings: Vec::new() }
    }

    /// The value as written, empty included; absent is `None`.
    pub fn opt_text(&self, key: &str) -> Option<&'a str> {
        self.annotations?.get(&format!("dapr.io/{key}")).map(String::as_str)
    }

    /// The value as written, else `default`.
    pub fn text(&self, key: &str, default: &str) -> String {
        self.opt_text(key).unwrap_or(default).to_owned()
    }

    /// The value as written, if it is not empty.
    pub fn non_empty(&self, key: &str) -> Option<String> {
        self.opt_text(key).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// The value, kept even when it is empty; a flag that would get nothing is worth a warning.
    pub fn opt_flag_text(&mut self, key: &str) -> Option<String> {
        let value = self.opt_text(key)?;
        if value.is_empty() {
            self.warn(format!("dapr.io/{key} is empty: the sidecar will refuse to start"));
        }
        Some(value.to_owned())
    }

    /// An address without surrounding quotes and spaces; `Some("")` if nothing else is there.
    pub fn opt_address(&self, key: &str) -> Option<String> {
        self.opt_text(key).map(|value| clean_address(value).to_owned())
    }

    /// Truthy or not; `None` if absent.
    pub fn opt_flag(&self, key: &str) -> Option<bool> {
        self.opt_text(key).map(is_truthy)
    }

    /// Truthy or not, else `default`.
    pub fn flag(&self, key: &str, default: bool) -> bool {
        self.opt_flag(key).unwrap_or(default)
    }

    /// An integer; `None` if absent or not one.
    pub fn opt_int(&mut self, key: &str) -> Option<i64> {
        let value = self.opt_text(key)?;
        let parsed = parse_int(value);
        if parsed.is_none() {
            self.warn(format!("dapr.io/{key}: {value:?} is not an integer and is ignored"));
        }
        parsed
    }

    /// An integer, else `default`.
    pub fn int(&mut self, key: &str, default: i64) -> i64 {
        self.opt_int(key).unwrap_or(default)
    }

    /// An integer of which only the low 32 bits count, else `default`.
    pub fn int32(&mut self, key: &str, default: i32) -> i32 {
        let Some(value) = self.opt_int(key) else {
            return default;
        };
        #[expect(clippy::cast_possible_truncation, reason = "upstream keeps the low 32 bits")]
        let low = value as i32;
        if i64::from(low) != value {
            self.warn(format!("dapr.io/{key}: {value} does not fit 32 bits and becomes {low}"));
        }
        low
    }

    /// As [`Reader::int32`], warning of what cannot be a port.
    pub fn port(&mut self, key: &str, default: i32) -> i32 {
        let port = self.int32(key, default);
        if !(0..=65535).contains(&port) || (port == 0 && default != 0) {
            self.warn(format!("dapr.io/{key}: {port} is not a port (1 to 65535)"));
        }
        port
    }

    /// The value, else `default`, warning when it is none of `allowed` (in any case).
    pub fn word(&mut self, key: &str, default: &str, allowed: &[&str]) -> String {
        let value = self.text(key, default);
        if !allowed.contains(&value.to_lowercase().as_str()) {
            self.warn(format!("dapr.io/{key}: {value:?} is none of {}", allowed.join(", ")));
        }
        value
    }

    /// Notes something worth telling the requester.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(pairs: &[(&str, &str)]) -> Pod {
        let mut pod = Pod::default();
        let pairs = pairs.iter().map(|(k, v)| (format!("dapr.io/{k}"), (*v).to_owned()));
        pod.metadata.annotations = Some(pairs.collect());
        pod
    }

    #[test]
    fn enabled_means_true_in_any_case_and_nothing_else() {
        for yes in ["true", "TRUE", "True"] {
            assert_eq!(Enabled::of(&pod(&[("enabled", yes)])), Enabled::Yes);
        }
        for almost in ["yes", "1", " true", "on"] {
            assert_eq!(Enabled::of(&pod(&[("enabled", almost)])), Enabled::Almost(almost));
        }
        for no in ["", "false", "0"] {
            assert_eq!(Enabled::of(&pod(&[("enabled", no)])), Enabled::No);
        }
        assert_eq!(Enabled::of(&Pod::default()), Enabled::No);
    }

    #[test]
    fn a_bad_integer_keeps_the_default_and_warns() {
        let pod = pod(&[("app-port", "eighty"), ("app-max-concurrency", "")]);
        let mut reader = Reader::new(&pod);
        assert_eq!(reader.int32("app-port", 0), 0);
        assert_eq!(reader.opt_int("app-max-concurrency"), None);
        assert_eq!(reader.warnings.len(), 2, "{:?}", reader.warnings);
    }

    #[test]
    fn a_wide_integer_wraps_as_upstream_does_and_warns() {
        let pod = pod(&[("app-port", "4294967297")]);
        let mut reader = Reader::new(&pod);
        assert_eq!(reader.port("app-port", 0), 1);
        assert_eq!(reader.warnings, ["dapr.io/app-port: 4294967297 does not fit 32 bits and becomes 1"]);
    }

    #[test]
    fn present_and_empty_differs_from_absent() {
        let pod = pod(&[("enable-api-logging", ""), ("config", ""), ("log-level", "")]);
        let mut reader = Reader::new(&pod);
        assert_eq!(reader.opt_flag("enable-api-logging"), Some(false));
        assert_eq!(reader.opt_flag("enable-metrics"), None);
        assert_eq!(reader.non_empty("config"), None);
        assert_eq!(reader.word("log-level", "info", &["info"]), "");
        assert_eq!(reader.warnings.len(), 1);
    }
}
