//! A service as a child process, with what the kernel says it used.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::http;

/// Ticks a second in `/proc/<pid>/stat`: fixed by the kernel's interface, whatever it uses inside.
const USER_HZ: u64 = 100;
/// How long a service may take to be ready.
const READY: Duration = Duration::from_mins(1);
/// How often readiness is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How much of a log is repeated in an error.
const TAIL: usize = 3_000;

/// The ports that a service was given.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// gRPC.
    pub grpc: u16,
    /// Health.
    pub health: u16,
    /// Metrics.
    pub metrics: u16,
    /// Raft.
    pub raft: u16,
}

impl Ports {
    fn free() -> Result<Self> {
        // All are held until all are known, so that none is given out twice.
        let held = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0"));
        let mut ports = [0; 4];
        for (port, listener) in ports.iter_mut().zip(held) {
            *port = listener.context("find a free port")?.local_addr()?.port();
        }
        let [grpc, health, metrics, raft] = ports;
        Ok(Self { grpc, health, metrics, raft })
    }

    /// The flags that all services share.
    pub fn flags(self) -> Vec<String> {
        vec![
            format!("--port={}", self.grpc),
            "--listen-address=127.0.0.1".into(),
            format!("--healthz-port={}", self.health),
            format!("--metrics-port={}", self.metrics),
        ]
    }
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Time on a CPU, in user and kernel mode.
    pub cpu: Duration,
    /// `VmHWM`: the most resident memory so far, in KiB.
    pub peak_kib: u64,
    /// `VmRSS` in KiB.
    pub rss_kib: u64,
    /// `RssAnon` in KiB: without the pages of the program file.
    pub anon_kib: u64,
}

/// A running service; dropped, it is killed.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: PathBuf,
    folder: TempDir,
    /// Its ports.
    pub ports: Ports,
}

/// How to start a service.
#[derive(Debug)]
pub struct Start {
    /// The program.
    pub program: PathBuf,
    /// Its own folder, for files and the log.
    pub folder: TempDir,
    /// Its ports.
    pub ports: Ports,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Start {
    /// A program on free ports, with the flags that all services share.
    pub fn new(program: PathBuf) -> Result<Self> {
        let ports = Ports::free()?;
        let folder = tempfile::tempdir().context("make a folder for a service")?;
        Ok(Self { program, folder, ports, arguments: ports.flags(), environment: Vec::new() })
    }

    /// Adds a flag.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.arguments.push(flag.into());
        self
    }

    /// Adds a variable; nothing is inherited.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A file of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it and waits until it is healthy.
    pub fn run(self) -> Result<Server> {
        let log = self.path("log");
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        let mut server = Server { child, log, folder: self.folder, ports: self.ports };
        server.wait("/healthz", self.ports.health, |answer| answer.status == 200)?;
        server.wait_until("accepts gRPC", |ports| TcpStream::connect(("127.0.0.1", ports.grpc)).is_ok())?;
        Ok(server)
    }
}

impl Server {
    /// Waits until an HTTP answer of this service is as wanted.
    pub fn wait(&mut self, path: &str, port: u16, wanted: impl Fn(&http::Answer) -> bool) -> Result<()> {
        self.wait_until(path, |_| http::get("127.0.0.1", port, path).is_ok_and(|answer| wanted(&answer)))
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn(Ports) -> bool) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            if is_so(self.ports) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the service ended with {status}:\n{}", self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("the service is not ready ({what}) after {READY:?}:\n{}", self.log_tail());
            }
            sleep(POLL);
        }
    }

    /// Where its gRPC server listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.grpc)
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What it has used so far.
    pub fn usage(&self) -> Result<Usage> {
        let folder = Path::new("/proc").join(self.child.id().to_string());
        let read = |file: &str| {
            let path = folder.join(file);
            fs::read_to_string(&path).with_context(|| format!("read {}:\n{}", path.display(), self.log_tail()))
        };
        let usage = parse(&read("stat")?, &read("status")?);
        usage.with_context(|| format!("understand {}/stat and status", folder.display()))
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(TAIL)..]).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(stat: &str, status: &str) -> Option<Usage> {
    // The name may hold spaces and brackets: fields are counted from its end.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some(Usage {
        cpu: Duration::from_millis(ticks * 1000 / USER_HZ),
        peak_kib: kib("VmHWM:")?,
        rss_kib: kib("VmRSS:")?,
        anon_kib: kib("RssAnon:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_memory_are_read_from_proc() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        let status = "Name:\ta\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\nRssAnon:\t  100 kB\n";
        let usage = parse(stat, status).unwrap();
        assert_eq!(usage.cpu, Duration::from_secs(2));
        assert_eq!((usage.peak_kib, usage.rss_kib, usage.anon_kib), (300, 200, 100));
    }

    #[test]
    fn a_process_sees_its_own_figures() {
        let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap();
        let usage = parse(&read("stat"), &read("status")).unwrap();
        assert!(usage.peak_kib >= usage.rss_kib && usage.rss_kib > usage.anon_kib, "{usage:?}");
    }
}
