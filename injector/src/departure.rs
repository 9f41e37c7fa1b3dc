//! When a stopping injector may close its door.
//!
//! The API server goes on sending pods here until every node has learned that this endpoint
//! is gone. So a stopping injector first reports itself not ready, then serves for a least
//! time, then until no new connection has come for a while, but never beyond a most time
//! (RULINGS 4). Only then does it drain.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use runtime::health::Target;
use tokio::time::{Instant, sleep};

/// Endpoints take about a second to move on a calm cluster; leave it several.
const LEAST: Duration = Duration::from_secs(5);
/// Without a new connection for this long, nobody is left who believes in us.
const QUIET: Duration = Duration::from_secs(2);
/// With the drain after it, this stays below the usual 30 s until a pod is killed.
const MOST: Duration = Duration::from_secs(15);

/// Remembers when the last connection came. Clones share it; the lock is held for a copy only.
#[derive(Debug, Clone)]
pub struct Arrivals {
    last: Arc<Mutex<Instant>>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())) }
    }
}

impl Arrivals {
    /// A connection was accepted.
    pub fn note(&self) {
        *self.last.lock() = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.last.lock()
    }
}

/// Reports not ready, then waits until the endpoints have moved.
pub async fn until_endpoints_moved(service: &Target, arrivals: &Arrivals) {
    service.not_ready();
    let start = Instant::now();
    sleep(LEAST).await;
    while start.elapsed() < MOST {
        let quiet = arrivals.last().elapsed();
        if quiet >= QUIET {
            return;
        }
        sleep(QUIET.saturating_sub(quiet).min(MOST.saturating_sub(start.elapsed()))).await;
    }
}

#[cfg(test)]
mod tests {
    use runtime::health::Health;

    use super::*;

    fn ready() -> (Health, Target) {
        let health = Health::new();
        let target = health.target("injector-service");
        target.ready();
        (health, target)
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_injector_leaves_after_the_least_time_and_is_not_ready_from_the_start() {
        let (health, target) = ready();
        let arrivals = Arrivals::default();
        let start = Instant::now();
        let leaving = until_endpoints_moved(&target, &arrivals);
        tokio::pin!(leaving);
        tokio::select! {
            biased;
            () = &mut leaving => panic!("left at once"),
            () = sleep(Duration::from_millis(1)) => assert!(!health.is_ready()),
        }
        leaving.await;
        assert_eq!(start.elapsed(), LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn new_connections_keep_it_serving_but_not_for_ever() {
        let (_health, target) = ready();
        let arrivals = Arrivals::default();
        let start = Instant::now();
        let busy = async {
            loop {
                arrivals.note();
                sleep(Duration::from_millis(500)).await;
            }
        };
        tokio::select! {
            () = until_endpoints_moved(&target, &arrivals) => {}
            () = busy => {}
        }
        assert_eq!(start.elapsed(), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn it_leaves_once_connections_have_stopped_coming() {
        let (_health, target) = ready();
        let arrivals = Arrivals::default();
        let start = Instant::now();
        let last = async {
            sleep(Duration::from_secs(6)).await;
            arrivals.note();
            std::future::pending::<()>().await;
        };
        let early = async {
            sleep(Duration::from_millis(4500)).await;
            arrivals.note();
            last.await;
        };
        tokio::select! {
            () = until_endpoints_moved(&target, &arrivals) => {}
            () = early => {}
        }
        assert_eq!(start.elapsed(), Duration::from_millis(6500));
    }
}
