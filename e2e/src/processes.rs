//! Long-running programs that outlive the command that started them.
//!
//! A program's id is kept in the state folder together with its start time and the machine's boot
//! id, and only a process for which all three still agree is ever signalled: an id that the kernel
//! has since given to somebody else is left alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::state::State;

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(50);
/// How long a program may take to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(15);

/// A program to run until it is stopped.
#[derive(Debug, Clone)]
pub struct Program {
    /// Name of its log and its record.
    pub name: String,
    /// The program and its arguments and environment.
    pub path: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment beside `PATH` and `HOME`; nothing else is inherited.
    pub env: Vec<(String, String)>,
    /// File of the network namespace it runs in; none is the machine's own.
    pub netns: Option<PathBuf>,
}

impl Program {
    /// A program in the machine's own network namespace.
    pub fn new(name: &str, path: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), path: path.into(), args: Vec::new(), env: Vec::new(), netns: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Puts it into a network namespace.
    #[must_use]
    pub fn in_netns(mut self, netns: &Path) -> Self {
        self.netns = Some(netns.into());
        self
    }
}

/// A process as the kernel tells it from every other one, ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot, from `/proc/<pid>/stat`.
    pub started: u64,
    /// The boot in which both are valid.
    pub boot: String,
}

impl Identity {
    /// The process that has this id now.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: start_time(pid)?, boot: boot_id()? })
    }

    /// Whether that very process still runs.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Sends a signal to that very process, if it still runs.
    pub fn signal(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        // The handle is opened first and the identity checked after: from then on it cannot change.
        if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
            && self.is_alive()
        {
            let _ = pidfd_send_signal(handle, signal);
        }
    }

    /// Asks it to end, then makes it; returns when it is gone.
    pub fn end(&self) -> Result<()> {
        self.signal(Signal::TERM);
        if wait_until(STOP_DEADLINE, || !self.is_alive()) {
            return Ok(());
        }
        self.signal(Signal::KILL);
        ensure!(wait_until(STOP_DEADLINE, || !self.is_alive()), "process {} does not end", self.pid);
        Ok(())
    }
}

/// The programs of one state folder.
#[derive(Debug, Clone)]
pub struct Processes {
    records: PathBuf,
    logs: PathBuf,
    /// Home of all of them: what they keep there goes with the cluster.
    home: PathBuf,
}

impl Processes {
    /// The programs recorded in `state`.
    pub fn of(state: &State) -> Result<Self> {
        Ok(Self { records: state.folder("processes")?, logs: state.folder("logs")?, home: state.folder("home")? })
    }

    /// Starts a program, unless it already runs.
    pub fn start(&self, program: &Program) -> Result<()> {
        if self.is_alive(&program.name) {
            return Ok(());
        }
        let log =
            File::create(self.log(&program.name)).with_context(|| format!("create the log of {}", program.name))?;
        // setsid and nsenter replace themselves by what they start: the id stays the same.
        let mut command = Command::new("setsid");
        if let Some(netns) = &program.netns {
            command.arg("nsenter").arg(format!("--net={}", netns.display()));
        }
        command.arg(&program.path).args(&program.args).env_clear().current_dir("/");
        command.env("PATH", path_for_children()).env("HOME", &self.home);
        command.envs(program.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", program.name))?;
        let pid = i32::try_from(child.id()).context("process id")?;
        let identity = Identity::of(pid).with_context(|| format!("{} ended at once", program.name))?;
        let record = self.record(&program.name);
        fs::write(&record, serde_json::to_vec(&identity)?).with_context(|| format!("write {}", record.display()))?;
        reap_in_background(child);
        Ok(())
    }

    /// The identity of a program, if it runs.
    pub fn identity(&self, name: &str) -> Option<Identity> {
        let text = fs::read(self.record(name)).ok()?;
        serde_json::from_slice::<Identity>(&text).ok().filter(Identity::is_alive)
    }

    /// Whether a program runs.
    pub fn is_alive(&self, name: &str) -> bool {
        self.identity(name).is_some()
    }

    /// Ends a program; nothing happens if it does not run.
    pub fn stop(&self, name: &str) -> Result<()> {
        if let Some(identity) = self.identity(name) {
            identity.end().with_context(|| format!("stop {name}"))?;
        }
        let _ = fs::remove_file(self.record(name));
        Ok(())
    }

    /// The names of all recorded programs, running or not.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.records).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| Some(e.path().file_stem()?.to_str()?.to_owned())).collect();
        names.sort();
        names
    }

    /// The log of a program.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Waits until `ready`; a program that ends meanwhile is an error with the end of its log.
    pub fn wait_ready(&self, name: &str, deadline: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let until = Instant::now() + deadline;
        loop {
            if ready() {
                return Ok(());
            }
            if !self.is_alive(name) {
                bail!("{name} ended; end of {}:\n{}", self.log(name).display(), self.log_tail(name));
            }
            if Instant::now() > until {
                bail!(
                    "{name} is not ready after {} s; end of {}:\n{}",
                    deadline.as_secs(),
                    self.log(name).display(),
                    self.log_tail(name)
                );
            }
            sleep(POLL);
        }
    }

    fn log_tail(&self, name: &str) -> String {
        let text = fs::read(self.log(name)).unwrap_or_default();
        let start = text.len().saturating_sub(2_000);
        String::from_utf8_lossy(&text[start..]).into_owned()
    }

    fn record(&self, name: &str) -> PathBuf {
        self.records.join(format!("{name}.json"))
    }
}

/// Waits until `condition` holds, at most `deadline`; returns whether it does.
pub fn wait_until(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        sleep(POLL);
    }
}

/// All processes for which `ours` holds, told by their id.
pub fn find(ours: impl Fn(i32) -> bool) -> Vec<Identity> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| ours(*pid))
        .filter_map(Identity::of)
        .collect()
}

/// Collects the child when it ends while this command still runs, so that it does not look alive.
fn reap_in_background(mut child: std::process::Child) {
    std::thread::spawn(move || {
        let _ = child.wait();
    });
}

fn path_for_children() -> String {
    format!("/usr/local/sbin:/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default())
}

fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// Field 22 of `/proc/<pid>/stat`; a zombie counts as ended.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, may contain anything: count from its closing bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes(folder: &Path) -> Processes {
        Processes::of(&State::at(folder.into())).unwrap()
    }

    #[test]
    fn a_started_program_is_alive_until_it_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let all = processes(folder.path());
        all.start(&Program::new("long", "sleep").args(["1000"])).unwrap();
        assert!(all.is_alive("long"));
        let identity = all.identity("long").unwrap();
        all.stop("long").unwrap();
        assert!(!all.is_alive("long") && !identity.is_alive());
    }

    #[test]
    fn a_process_that_only_has_the_recorded_id_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let all = processes(folder.path());
        let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(stranger.id()).unwrap();
        let mut record = Identity::of(pid).unwrap();
        record.started += 1;
        fs::write(folder.path().join("processes/old.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        all.stop("old").unwrap();
        assert!(Identity::of(pid).is_some());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_program_that_ends_while_awaited_is_an_error_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let all = processes(folder.path());
        all.start(&Program::new("short", "sh").args(["-c", "echo why; exit 1"])).unwrap();
        let error = all.wait_ready("short", Duration::from_secs(20), || false).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }
}
