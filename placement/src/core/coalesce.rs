//! When a pending change may start a round.
//!
//! Adaptive (window 0): the first change of a quiet namespace goes at once. Under a burst the wait
//! grows with every round, is cut short as soon as changes pause, and never keeps a departed host in
//! the table for more than [`DEPARTURE_BOUND`]. A configured window follows upstream instead: it is
//! armed at the end of every round and holds back everything but reports of known streams.

use std::time::Duration;

use super::moment::Moment;

/// No departed host stays in the table longer (RULINGS 20); the LOCK phase is part of it.
const DEPARTURE_BOUND: Duration = Duration::from_secs(1);
/// Without a change for this long a namespace counts as quiet.
const QUIET: Duration = Duration::from_secs(1);
/// The waits a burst climbs through, one step a round.
const STEPS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];
/// Least time kept of the departure bound for the LOCK phase.
const LEAST_MARGIN: Duration = Duration::from_millis(10);

/// The adaptive wait.
#[derive(Clone, Debug, Default)]
pub struct Adaptive {
    step: usize,
    last_change: Option<Moment>,
    margin: Duration,
}

impl Adaptive {
    /// A change of the membership was seen.
    pub fn changed(&mut self, now: Moment) {
        if self.last_change.is_none_or(|last| now - last >= QUIET) {
            self.step = 0;
        }
        self.last_change = Some(now);
    }

    /// A round started for the pending changes.
    pub fn started(&mut self) {
        self.step = (self.step + 1).min(STEPS.len() - 1);
    }

    /// A table was fixed `lock_took` after its round started.
    pub fn fixed(&mut self, lock_took: Duration) {
        self.margin = (lock_took * 5 / 4 + LEAST_MARGIN).min(DEPARTURE_BOUND / 2);
    }

    /// When a round may start, given the oldest pending change and the oldest pending departure.
    pub fn due(&self, oldest: Moment, oldest_departure: Option<Moment>) -> Moment {
        let step = STEPS[self.step];
        let paused = self.last_change.unwrap_or(oldest) + step / 2;
        let due = (oldest + step).min(paused);
        match oldest_departure {
            Some(left) => due.min(left + DEPARTURE_BOUND.saturating_sub(self.margin.max(LEAST_MARGIN))),
            None => due,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms))
    }

    #[test]
    fn the_first_change_of_a_quiet_namespace_is_due_at_once() {
        let mut wait = Adaptive::default();
        wait.changed(at(5000));
        assert_eq!(wait.due(at(5000), None), at(5000));
        wait.started();
        wait.changed(at(6000));
        assert_eq!(wait.due(at(6000), None), at(6000));
    }

    #[test]
    fn the_wait_grows_under_a_burst_and_ends_when_changes_pause() {
        let mut wait = Adaptive::default();
        wait.changed(at(0));
        wait.started();
        wait.changed(at(10));
        assert_eq!(wait.due(at(10), None), at(135));
        wait.changed(at(200));
        assert_eq!(wait.due(at(10), None), at(260));
        wait.started();
        wait.changed(at(300));
        assert_eq!(wait.due(at(300), None), at(800));
    }

    #[test]
    fn a_departure_is_due_early_enough_for_its_lock_phase() {
        let mut wait = Adaptive::default();
        for ms in 0..5 {
            wait.changed(at(ms));
            wait.started();
        }
        wait.fixed(Duration::from_millis(100));
        wait.changed(at(900));
        assert_eq!(wait.due(at(0), Some(at(0))), at(865));
    }
}
