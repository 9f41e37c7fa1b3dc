//! The control-plane services as they run: version, age, memory, and what their metrics count.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;

use super::access::{Access, Port};
use super::metrics::Scrape;
use super::table::print_columns;

/// The namespace of the control plane.
pub use crate::helm::NAMESPACE;
/// The services: name, label `app`, program. The scheduler is upstream's (RULINGS 1).
pub const SERVICES: [(&str, &str, &str); 5] = [
    ("operator", "dapr-operator", "operator"),
    ("sentry", "dapr-sentry", "sentry"),
    ("placement", "dapr-placement-server", "placement"),
    ("injector", "dapr-sidecar-injector", "injector"),
    ("scheduler (upstream)", "dapr-scheduler-server", "scheduler"),
];
const METRICS_PORT: u16 = 9090;

/// One pod of the control plane.
#[derive(Debug, Clone)]
pub struct Service {
    /// Name for a person.
    pub name: &'static str,
    /// The pod.
    pub pod: String,
    /// Tag of its image.
    pub version: String,
    /// How long ago it started, in seconds.
    pub age: i64,
    /// How often its container was restarted.
    pub restarts: i32,
    /// Whether it is ready.
    pub ready: bool,
    /// Its process as `/proc/<pid>`, where this machine's `/proc` shows it.
    pub process: Option<PathBuf>,
    /// Resident memory and its anonymous part in KiB.
    pub memory: Option<(u64, u64)>,
}

/// Looks at every pod of the control plane.
pub async fn look(access: &Access) -> Result<Vec<Service>> {
    let mut all = Vec::new();
    for (name, app, program) in SERVICES {
        let pods = access.pods(NAMESPACE, app).await?;
        ensure!(!pods.is_empty(), "{name} has no pod in {NAMESPACE}; look: kubectl -n {NAMESPACE} get all");
        all.extend(pods.iter().map(|pod| describe(name, program, pod)));
    }
    Ok(all)
}

/// What the container before the present one logged last.
pub async fn last_words(access: &Access, pod: &str) -> Result<String> {
    let which = LogParams { previous: true, tail_lines: Some(3), ..LogParams::default() };
    Ok(Api::<Pod>::namespaced(access.client(), NAMESPACE).logs(pod, &which).await?)
}

fn describe(name: &'static str, program: &str, pod: &Pod) -> Service {
    let status = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref()?.first());
    let image = pod.spec.as_ref().and_then(|s| s.containers.first()?.image.clone()).unwrap_or_default();
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0.as_second());
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let process = process_of(pod.metadata.uid.as_deref().unwrap_or_default(), program);
    Service {
        name,
        pod: pod.metadata.name.clone().unwrap_or_default(),
        version: image.rsplit_once(':').map_or(image.clone(), |(_, tag)| tag.to_owned()),
        age: started.map_or(0, |started| now - started),
        restarts: status.map_or(0, |s| s.restart_count),
        ready: status.is_some_and(|s| s.ready),
        memory: process.as_ref().and_then(|process| memory_in(&fs::read_to_string(process.join("status")).ok()?)),
        process,
    }
}

/// The process of that name in the pod's cgroup, if this machine's `/proc` shows it.
fn process_of(uid: &str, program: &str) -> Option<PathBuf> {
    if uid.is_empty() {
        return None;
    }
    // The systemd driver of cgroups writes the id with underscores.
    let ids = [uid.to_owned(), uid.replace('-', "_")];
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let folder = entry.path();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        if read("comm").trim_end() == program && ids.iter().any(|id| read("cgroup").contains(id)) {
            return Some(folder);
        }
    }
    None
}

/// VmRSS and RssAnon in KiB, from the text of `/proc/<pid>/status`.
fn memory_in(status: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((field("VmRSS")?, field("RssAnon")?))
}

/// The services as a table.
pub fn print(services: &[Service]) -> String {
    let lines: Vec<Vec<String>> = services
        .iter()
        .map(|service| {
            let (rss, anon) = match service.memory {
                Some((rss, anon)) => (mebibytes(rss), mebibytes(anon)),
                None => ("not reachable".into(), "not reachable".into()),
            };
            let ready = if service.ready { "yes" } else { "NO" };
            let restarts = service.restarts.to_string();
            let name = service.name.to_owned();
            vec![
                name,
                service.pod.clone(),
                service.version.clone(),
                age(service.age),
                ready.into(),
                restarts,
                rss,
                anon,
            ]
        })
        .collect();
    print_columns(&["SERVICE", "POD", "VERSION", "AGE", "READY", "RESTARTS", "VmRSS", "RssAnon"], &lines)
}

fn mebibytes(kibibytes: u64) -> String {
    format!("{}.{} MiB", kibibytes / 1024, kibibytes % 1024 * 10 / 1024)
}

fn age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

/// The metrics of every pod of one service, together.
pub async fn scrape(access: &Access, app: &str) -> Result<Scrape> {
    Ok(scrape_each(access, app).await?.into_iter().fold(Scrape::default(), Scrape::with))
}

/// The metrics of each pod of one service.
pub async fn scrape_each(access: &Access, app: &str) -> Result<Vec<Scrape>> {
    let mut all = Vec::new();
    for pod in access.pod_names(NAMESPACE, app).await? {
        let port = Port { namespace: NAMESPACE, pod: &pod, number: METRICS_PORT };
        all.push(Scrape::of(&access.ask(port, "GET", "/metrics", None).await?.body));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_a_status_file() {
        let status = "Name:\toperator\nVmRSS:\t   11264 kB\nRssAnon:\t    4096 kB\n";
        assert_eq!(memory_in(status), Some((11264, 4096)));
        assert_eq!(memory_in("Name:\tx\n"), None);
    }

    #[test]
    fn ages_and_sizes_are_short() {
        assert_eq!((age(90), age(600), age(7300)), ("90s".into(), "10m".into(), "2h".into()));
        assert_eq!(mebibytes(11_776), "11.5 MiB");
    }
}
