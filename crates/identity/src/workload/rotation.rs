//! When to renew: at half of the SVID's life by the wall clock. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The moment between two Unix times at which an SVID valid in between is renewed.
pub(super) fn renew_at(not_before: i64, not_after: i64) -> SystemTime {
    let middle = i64::midpoint(not_before, not_after);
    UNIX_EPOCH + Duration::from_secs(u64::try_from(middle).unwrap_or(0))
}

/// Whether an SVID that is valid until this Unix time no longer is.
pub(super) fn expired(now: SystemTime, not_after: i64) -> bool {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(not_after).unwrap_or(0)) < now
}

/// How long to wait before looking at the clock again; zero when it is time to renew.
pub(super) fn next_look(now: SystemTime, renew_at: SystemTime, longest: Duration) -> Duration {
    renew_at.duration_since(now).unwrap_or(Duration::ZERO).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn an_svid_is_renewed_in_the_middle_of_its_life() {
        assert_eq!(renew_at(1000, 2000), at(1500));
        assert_eq!(renew_at(i64::MAX - 2, i64::MAX), at(i64::MAX.unsigned_abs() - 1));
        assert_eq!(renew_at(-4000, 2000), UNIX_EPOCH);
    }

    #[test]
    fn an_svid_is_valid_through_its_last_second() {
        assert!(!expired(at(2000), 2000));
        assert!(expired(at(2001), 2000));
        assert!(expired(at(1), -5));
    }

    #[test]
    fn the_clock_is_looked_at_every_minute_until_it_is_time() {
        let due = renew_at(1000, 2000);
        assert_eq!(next_look(at(1000), due, MINUTE), MINUTE);
        assert_eq!(next_look(at(1490), due, MINUTE), Duration::from_secs(10));
        assert_eq!(next_look(at(1500), due, MINUTE), Duration::ZERO);
        assert_eq!(next_look(at(9999), due, MINUTE), Duration::ZERO);
    }
}
