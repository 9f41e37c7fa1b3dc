//! The wall clock, in whole Unix seconds.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now. A clock before 1970 reads as 0, which every validity check refuses.
pub fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
}
