//! Chance without a shared generator: every draw is keyed by what it decides, so the order in which
//! tasks of one instant run changes nothing.

use std::time::Duration;

/// Draws from a seed and the names of what is decided.
pub fn roll(seed: u64, key: &[u64]) -> u64 {
    key.iter().fold(mix(seed), |state, part| mix(state ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Between two durations.
pub fn between(draw: u64, least: Duration, most: Duration) -> Duration {
    let span = u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(u64::MAX).max(1);
    least + Duration::from_micros(draw % span)
}

/// True this often in a thousand.
pub fn per_mille(draw: u64, often: u64) -> bool {
    draw % 1000 < often
}

fn mix(state: u64) -> u64 {
    let a = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let b = (a ^ (a >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let c = (b ^ (b >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    c ^ (c >> 31)
}
