//! Long tasks and the life of the process.
//!
//! Every long task belongs to the process's one [`TaskSet`]. The first to end before shutdown, be it
//! by return, error or panic, takes the process down with its name: nothing dies silently.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// What a task may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why the process must end with a failure.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task returned although nothing asked it to.
    #[error("task {name} ended unexpectedly")]
    Ended {
        /// The task.
        name: &'static str,
    },
    /// A task failed.
    #[error("task {name} failed")]
    Failed {
        /// The task.
        name: &'static str,
        /// Its own error.
        #[source]
        source: BoxError,
    },
    /// A task panicked.
    #[error("task {name} panicked: {detail}")]
    Panicked {
        /// The task.
        name: &'static str,
        /// The panic's message.
        detail: String,
    },
    /// A second signal asked to end at once.
    #[error("second signal received, ending at once")]
    SecondSignal,
    /// Signal handlers could not be installed.
    #[error("cannot install signal handlers")]
    Signals(#[source] io::Error),
}

/// The long tasks of one process.
#[derive(Default)]
pub struct TaskSet {
    set: JoinSet<Result<(), BoxError>>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
}

impl fmt::Debug for TaskSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSet").field("tasks", &self.names.values()).finish_non_exhaustive()
    }
}

impl TaskSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task. `task` gets the token that is cancelled at shutdown, and must end soon after.
    pub fn spawn<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let handle = self.set.spawn(task(self.stop.clone()));
        self.names.insert(handle.id(), name);
    }

    /// The token that is cancelled at shutdown.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits for SIGINT or SIGTERM, then stops all tasks and waits at most `deadline` for them;
    /// what still runs then is aborted, with a warning.
    pub async fn until_shutdown(self, deadline: Duration) -> Result<(), TaskError> {
        self.until_shutdown_after(async {}, deadline).await
    }

    /// Like [`TaskSet::until_shutdown`], but runs `hand_over` between the signal and the stop, while
    /// all tasks still run (leadership, readiness: RULINGS 4). `deadline` covers both.
    pub async fn until_shutdown_after(
        mut self,
        hand_over: impl Future<Output = ()>,
        deadline: Duration,
    ) -> Result<(), TaskError> {
        let mut signals = Signals::install().map_err(TaskError::Signals)?;
        STARTED.store(true, Ordering::Release);
        let mut outcome = tokio::select! {
            biased;
            name = signals.next() => {
                tracing::info!(signal = name, "received signal, shutting down");
                Ok(())
            }
            error = self.first_end() => Err(error),
        };
        let orderly = async {
            if outcome.is_ok() {
                tokio::select! {
                    () = hand_over => {}
                    error = self.first_end() => outcome = Err(error),
                }
            }
            self.stop.cancel();
            while let Some(joined) = self.set.join_next_with_id().await {
                if let Err(error) = self.ended(joined)
                    && outcome.is_ok()
                {
                    outcome = Err(error);
                }
            }
        };
        let finished = tokio::select! {
            biased;
            _ = signals.next() => return Err(TaskError::SecondSignal),
            finished = tokio::time::timeout(deadline, orderly) => finished.is_ok(),
        };
        if !finished {
            tracing::warn!(?deadline, tasks = self.running(), "ending although some tasks still run");
        }
        outcome
    }

    /// Waits until some task ends, which before shutdown is an error whatever the task returned.
    /// Never ends for an empty set.
    async fn first_end(&mut self) -> TaskError {
        match self.set.join_next_with_id().await {
            None => std::future::pending().await,
            Some(joined) => {
                let name = self.name(&joined);
                self.ended(joined).err().unwrap_or(TaskError::Ended { name })
            }
        }
    }

    fn name(&self, joined: &Joined) -> &'static str {
        let id = match joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        self.names.get(&id).copied().unwrap_or("unnamed")
    }

    fn ended(&mut self, joined: Joined) -> Result<(), TaskError> {
        let name = self.name(&joined);
        match joined {
            Ok((id, result)) => {
                self.names.remove(&id);
                result.map_err(|source| TaskError::Failed { name, source })
            }
            Err(error) => Err(TaskError::Panicked { name, detail: error.to_string() }),
        }
    }

    /// The tasks that still run, comma separated.
    fn running(&self) -> String {
        let mut names: Vec<_> = self.names.values().copied().collect();
        names.sort_unstable();
        names.join(", ")
    }
}

type Joined = Result<(Id, Result<(), BoxError>), JoinError>;

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupt",
            _ = self.terminate.recv() => "terminated",
        }
    }
}

/// Set once a [`TaskSet`] answers the signals. Before that the service still starts, and has nothing
/// to hand over.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Ends when a signal arrives while the service still starts. Without it process 1 of a container,
/// which the kernel gives no default handlers, could not be stopped while it waits for something.
async fn stopped_while_starting() -> Result<(), BoxError> {
    let mut signals = Signals::install()?;
    loop {
        let name = signals.next().await;
        if !STARTED.load(Ordering::Acquire) {
            tracing::info!(signal = name, "received signal while starting, ending");
            return Ok(());
        }
    }
}

/// Runs a service to its end: exit code 0 for `Ok`, else a fatal log line with the whole chain of
/// causes and exit code 1.
///
/// Two workers: these services wait for the network, and each worker's stack counts as memory.
pub fn block_on<E: Into<BoxError>>(service: impl Future<Output = Result<(), E>>) -> ExitCode {
    block_on_with(2, service)
}

/// As [`block_on`], with so many workers.
pub fn block_on_with<E: Into<BoxError>>(workers: usize, service: impl Future<Output = Result<(), E>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fatal(&error),
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            biased;
            outcome = stopped_while_starting() => outcome,
            outcome = service => outcome.map_err(Into::into),
        }
    });
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fatal(error.as_ref()),
    }
}

fn fatal(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    crate::logging::fatal(&text);
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_task_that_returns_before_shutdown_ends_the_process() {
        let mut tasks = TaskSet::new();
        tasks.spawn("waits", |stop| async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.spawn("returns", |_| async { Ok(()) });
        let error = tasks.until_shutdown(DEADLINE).await.expect_err("a task ended");
        assert!(matches!(error, TaskError::Ended { name: "returns" }), "{error}");
    }

    #[tokio::test]
    async fn a_task_that_fails_is_named_with_its_error() {
        let mut tasks = TaskSet::new();
        tasks.spawn("fails", |_| async { Err("broken".into()) });
        let error = tasks.until_shutdown(DEADLINE).await.expect_err("a task failed");
        assert!(matches!(error, TaskError::Failed { name: "fails", .. }), "{error}");
    }

    #[tokio::test]
    async fn a_panic_is_noticed() {
        let mut tasks = TaskSet::new();
        tasks.spawn("panics", |_| async { panic!("on purpose") });
        let error = tasks.until_shutdown(DEADLINE).await.expect_err("a task panicked");
        assert!(matches!(error, TaskError::Panicked { name: "panics", .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_is_reported_even_if_another_task_is_stuck() {
        let mut tasks = TaskSet::new();
        tasks.spawn("stuck", |_| std::future::pending());
        tasks.spawn("returns", |_| async { Ok(()) });
        let error = tasks.until_shutdown(DEADLINE).await.expect_err("a task ended");
        assert!(matches!(error, TaskError::Ended { name: "returns" }), "{error}");
    }
}
