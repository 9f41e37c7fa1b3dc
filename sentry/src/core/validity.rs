//! The validity window of a leaf (RULINGS 13).
//!
//! A leaf never outlives its issuer or root. A sidecar renews at the midpoint of
//! [NotBefore, NotAfter] without delay once that has passed, so NotBefore is never further
//! back than half of what remains: the midpoint then lies in the future. NotAfter is spread
//! downwards by up to a tenth of the lifetime so that a herd that started together does not
//! come back together.

use std::time::Duration;

/// With less than this left of the issuer, no leaf is signed: it could not be renewed in
/// time, and its sidecar would come back in a loop.
pub const MIN_REMAINING_SECS: i64 = 120;
/// The part of a lifetime by which NotAfter may be earlier, so that renewals spread.
const SPREAD: f64 = 0.1;
/// The longest accepted leaf lifetime: ten years.
const MAX_TTL: Duration = Duration::from_hours(87_600);
/// The longest accepted clock skew: one day.
const MAX_SKEW: Duration = Duration::from_hours(24);

/// How long certificates live; checked when built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    ttl: Duration,
    skew: Duration,
}

/// A lifetime setting that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec.mtls.{field} is {found:?}, allowed is {allowed}")]
pub struct LifetimeError {
    field: &'static str,
    found: Duration,
    allowed: &'static str,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { ttl: Duration::from_hours(24), skew: Duration::from_mins(15) }
    }
}

impl Lifetimes {
    /// Checks the two settings of the Configuration.
    pub fn try_new(ttl: Duration, skew: Duration) -> Result<Self, LifetimeError> {
        if ttl < Duration::from_secs(1) || ttl > MAX_TTL {
            return Err(LifetimeError { field: "workloadCertTTL", found: ttl, allowed: "1s to 87600h" });
        }
        if skew.is_zero() || skew > MAX_SKEW {
            return Err(LifetimeError { field: "allowedClockSkew", found: skew, allowed: "more than 0s to 24h" });
        }
        Ok(Self { ttl, skew })
    }

    /// How long a leaf lives.
    pub fn ttl(self) -> Duration {
        self.ttl
    }

    /// How far clocks may differ.
    pub fn skew(self) -> Duration {
        self.skew
    }
}

/// First and last second of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First second.
    pub not_before: i64,
    /// Last second.
    pub not_after: i64,
}

/// The issuer is expired or about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the issuer or its root expires in {remaining_secs}s, too soon to sign under it")]
pub struct IssuerExpiring {
    /// What is left, negative once expired.
    pub remaining_secs: i64,
}

/// The window of a leaf signed at `now` under an issuer that is good until `limit`.
/// `spread` in [0, 1) is the random share of the possible shortening.
pub fn window(lifetimes: Lifetimes, now: i64, limit: i64, spread: f64) -> Result<Window, IssuerExpiring> {
    let remaining_secs = limit - now;
    if remaining_secs < MIN_REMAINING_SECS {
        return Err(IssuerExpiring { remaining_secs });
    }
    let lifetime = secs(lifetimes.ttl).min(remaining_secs);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    let shortening = (lifetime as f64 * SPREAD * spread.clamp(0.0, 1.0)) as i64;
    let lifetime = lifetime - shortening;
    Ok(Window { not_before: now - secs(lifetimes.skew).min(lifetime / 2), not_after: now + lifetime })
}

fn secs(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 24 * 3600;

    #[test]
    fn a_leaf_gets_the_whole_ttl_and_the_whole_skew_when_nothing_limits_it() {
        let window = window(Lifetimes::default(), 1_000_000, 1_000_000 + 365 * DAY, 0.0).unwrap();
        assert_eq!(window.not_after, 1_000_000 + DAY);
        assert_eq!(window.not_before, 1_000_000 - 900);
    }

    #[test]
    fn an_issuer_with_under_two_minutes_left_signs_nothing() {
        assert_eq!(window(Lifetimes::default(), 1000, 1119, 0.0), Err(IssuerExpiring { remaining_secs: 119 }));
        assert!(window(Lifetimes::default(), 1000, 1120, 0.0).is_ok());
        assert!(window(Lifetimes::default(), 1000, 900, 0.0).is_err());
    }

    #[test]
    fn zero_and_absurd_settings_are_refused_by_name() {
        let minute = Duration::from_mins(1);
        let field = |ttl, skew| Lifetimes::try_new(ttl, skew).unwrap_err().field;
        assert_eq!(field(Duration::ZERO, minute), "workloadCertTTL");
        assert_eq!(field(MAX_TTL + minute, minute), "workloadCertTTL");
        assert_eq!(field(minute, Duration::ZERO), "allowedClockSkew");
        assert_eq!(field(minute, MAX_SKEW + minute), "allowedClockSkew");
    }

    proptest! {
        #[test]
        fn a_leaf_never_outlives_its_issuer_and_its_renewal_lies_ahead(
            ttl in 1u64..400_000_000, skew in 1u64..86_400, left in 120i64..400_000_000, spread in 0.0f64..1.0,
        ) {
            let ttl = ttl.min(MAX_TTL.as_secs());
            let lifetimes = Lifetimes::try_new(Duration::from_secs(ttl), Duration::from_secs(skew)).unwrap();
            let now = 1_700_000_000;
            let window = window(lifetimes, now, now + left, spread).unwrap();
            prop_assert!(window.not_after <= now + left);
            prop_assert!(window.not_before <= now);
            let midpoint = window.not_before + (window.not_after - window.not_before) / 2;
            prop_assert!(midpoint >= now);
            let whole = (now + left).min(now + i64::try_from(ttl).unwrap()) - now;
            prop_assert!(window.not_after - now >= whole - whole / 10 - 1);
        }
    }
}
