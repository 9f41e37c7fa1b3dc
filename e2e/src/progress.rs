//! Progress lines for a person: what is happening now and how long the whole command has run.

use std::sync::OnceLock;
use std::time::Instant;

static STARTED: OnceLock<Instant> = OnceLock::new();

/// Starts the clock that every later line counts from.
pub fn start() {
    let _ = STARTED.get_or_init(Instant::now);
}

/// Prints one line, preceded by the seconds since [`start`].
pub fn say(line: impl AsRef<str>) {
    let elapsed = STARTED.get_or_init(Instant::now).elapsed().as_secs_f32();
    println!("[{elapsed:>6.1}s] {}", line.as_ref());
}
