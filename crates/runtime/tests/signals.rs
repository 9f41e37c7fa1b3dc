//! Signals, as a process of its own sees them: the test runs itself again as that process.

use std::{
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use runtime::{BoxError, TaskSet, block_on};

/// Names the part to play in the child.
const PART: &str = "RUNTIME_SIGNAL_TEST_PART";

/// Runs the test `name` again as a child, sends it SIGTERM once it says "up"; gives its exit code and
/// what it said after that.
fn after_sigterm(name: &str) -> (Option<i32>, Vec<String>) {
    let mut child = Command::new(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", name, "--nocapture"])
        .env(PART, name)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test can run itself");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("up")), "the child ended before it was up");
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(killed.expect("kill exists").success());
    (child.wait().expect("the child ends").code(), lines.collect())
}

/// Ends this process, the child, with the code of `service`.
fn play(service: impl Future<Output = Result<(), BoxError>>) -> ! {
    let code = block_on(service);
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

fn is_child() -> bool {
    std::env::var_os(PART).is_some()
}

#[test]
fn a_signal_while_starting_ends_with_code_zero() {
    if is_child() {
        play(async {
            println!("up");
            std::future::pending().await
        });
    }
    let (code, _) = after_sigterm("a_signal_while_starting_ends_with_code_zero");
    assert_eq!(code, Some(0));
}

#[test]
fn a_signal_hands_over_stops_the_tasks_and_ends_with_code_zero() {
    if is_child() {
        play(async {
            let mut tasks = TaskSet::new();
            tasks.spawn("waits", |stop| async move {
                stop.cancelled().await;
                println!("stopped");
                Ok(())
            });
            let hand_over = async { println!("handed over") };
            // The first poll of the first future installs the handlers; only then the second speaks.
            let (ended, ()) =
                tokio::join!(tasks.until_shutdown_after(hand_over, Duration::from_secs(30)), async { println!("up") });
            Ok(ended?)
        });
    }
    let (code, said) = after_sigterm("a_signal_hands_over_stops_the_tasks_and_ends_with_code_zero");
    assert_eq!((code, said.join(" ").as_str()), (Some(0), "handed over stopped"));
}
