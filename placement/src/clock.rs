//! The one place that reads the clock for the core.

use std::time::Duration;

use tokio::time::Instant;

use crate::core::Moment;

/// Moments since the process started; follows tokio's time, so tests can pause it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts at one second, so that moments before the start can be told from "never".
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment::at(self.origin.elapsed() + Duration::from_secs(1))
    }

    /// The instant of a moment.
    pub fn instant(&self, moment: Moment) -> Instant {
        self.origin + moment.since_origin().saturating_sub(Duration::from_secs(1))
    }
}
