//! What came of the calls: per second and altogether, and how long nobody was answered.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::turns::Overlap;

/// An answer that took this much longer than the turn itself is slow.
pub const SLOW: i64 = 1_000_000_000;
const SECOND: i64 = 1_000_000_000;

/// One call; times in nanoseconds of the node's clock.
#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    /// The actor that was called.
    pub actor: String,
    /// When the call began.
    pub begin: i64,
    /// How long it took.
    pub took: i64,
    /// How long the turn was asked to be, in milliseconds.
    pub turn_ms: i64,
    /// The turn that answered; empty for a call that failed.
    #[serde(default)]
    pub turn: String,
    /// What the caller was told.
    #[serde(default)]
    pub error: String,
}

impl Call {
    /// Whether it was answered.
    pub fn ok(&self) -> bool {
        self.error.is_empty()
    }

    fn slow(&self) -> bool {
        self.ok() && self.took - self.turn_ms * 1_000_000 > SLOW
    }

    fn end(&self) -> i64 {
        self.begin + self.took
    }
}

/// A stretch of time.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Its begin in nanoseconds.
    pub begin: i64,
    /// Its end in nanoseconds.
    pub end: i64,
}

/// One second: the calls that began in it and what came of them, the turns that began in it while
/// another host ran the same actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Second {
    /// Calls that were answered.
    pub ok: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Answered calls that were slow.
    pub slow: u64,
    /// Turns with a second owner.
    pub overlapping: u64,
}

impl Second {
    /// Whether something went wrong in it.
    pub fn disturbed(self) -> bool {
        self.failed + self.slow + self.overlapping > 0 || self.ok == 0
    }
}

/// A whole window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// All seconds together.
    pub total: Second,
    /// The longest stretch in which no call was answered.
    pub silence: i64,
    /// The longest stretch in which one actor answered no call.
    pub silence_of_one: i64,
}

/// The seconds of a window. What began outside of it is left out.
pub fn seconds(window: Window, calls: &[Call], overlaps: &[Overlap]) -> Vec<Second> {
    let count = usize::try_from((window.end - window.begin + SECOND - 1) / SECOND).unwrap_or(0);
    let mut all = vec![Second::default(); count];
    let index = |at: i64| usize::try_from((at - window.begin).div_euclid(SECOND)).unwrap_or(usize::MAX);
    for call in calls {
        if let Some(second) = all.get_mut(index(call.begin)) {
            second.ok += u64::from(call.ok());
            second.failed += u64::from(!call.ok());
            second.slow += u64::from(call.slow());
        }
    }
    for overlap in overlaps.iter().filter(|overlap| overlap.has_two_owners()) {
        if let Some(second) = all.get_mut(index(overlap.begun.begin)) {
            second.overlapping += 1;
        }
    }
    all
}

/// A window altogether.
pub fn summary(window: Window, calls: &[Call], overlaps: &[Overlap]) -> Summary {
    let total = seconds(window, calls, overlaps).into_iter().fold(Second::default(), |sum, second| Second {
        ok: sum.ok + second.ok,
        failed: sum.failed + second.failed,
        slow: sum.slow + second.slow,
        overlapping: sum.overlapping + second.overlapping,
    });
    let actors: BTreeSet<&str> = calls.iter().map(|call| call.actor.as_str()).collect();
    let of_one = |actor| longest_silence(window, calls.iter().filter(|call| call.actor == actor));
    Summary {
        total,
        silence: longest_silence(window, calls.iter()),
        silence_of_one: actors.into_iter().map(of_one).max().unwrap_or(window.end - window.begin),
    }
}

/// The longest stretch of the window in which none of the calls was answered.
fn longest_silence<'a>(window: Window, calls: impl Iterator<Item = &'a Call>) -> i64 {
    let answered = calls.filter(|call| call.ok()).map(Call::end);
    let mut points: Vec<i64> = answered.filter(|at| (window.begin..window.end).contains(at)).collect();
    points.extend([window.begin, window.end]);
    points.sort_unstable();
    points.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

/// What failed calls were told, most frequent first; numbers and names of actors are left out, so
/// that alike texts count as one.
pub fn errors(calls: &[Call]) -> Vec<(usize, String)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for call in calls.iter().filter(|call| !call.ok()) {
        *counts.entry(without_numbers(&call.error.replace(&call.actor, "ACTOR"))).or_default() += 1;
    }
    let mut all: Vec<_> = counts.into_iter().map(|(text, count)| (count, text)).collect();
    all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    all
}

fn without_numbers(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars() {
        if !c.is_ascii_digit() {
            short.push(c);
        } else if !short.ends_with('N') {
            short.push('N');
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::super::turns::Turn;
    use super::*;

    const WINDOW: Window = Window { begin: 1_000, end: 1_000 + 4 * SECOND };

    fn call(at_ms: i64, took_ms: i64, error: &str) -> Call {
        Call {
            actor: "x".into(),
            begin: WINDOW.begin + at_ms * 1_000_000,
            took: took_ms * 1_000_000,
            turn_ms: 200,
            turn: "t".into(),
            error: error.into(),
        }
    }

    fn overlap(at_ms: i64) -> Overlap {
        let begin = WINDOW.begin + at_ms * 1_000_000;
        let turn = |host: &str| Turn {
            id: host.into(),
            actor: "x".into(),
            host: host.into(),
            begin,
            end: begin + 1,
            ended: true,
            cut: None,
        };
        Overlap { running: turn("a"), begun: turn("b") }
    }

    #[test]
    fn calls_count_in_the_second_in_which_they_began() {
        let calls = [call(0, 200, ""), call(999, 1500, ""), call(1000, 10, "no"), call(-1, 1, "no"), call(4000, 1, "")];
        let all = seconds(WINDOW, &calls, &[overlap(3_500)]);
        assert_eq!(all[0], Second { ok: 2, slow: 1, ..Second::default() });
        assert_eq!(all[1], Second { failed: 1, ..Second::default() });
        assert_eq!(all[3], Second { overlapping: 1, ..Second::default() });
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|second| second.disturbed()));
    }

    #[test]
    fn a_long_turn_is_not_slow_for_its_length() {
        let long = Call { turn_ms: 1_500, ..call(0, 2_400, "") };
        assert!(!long.slow() && call(0, 1_300, "").slow() && !call(0, 5_000, "no").slow());
    }

    #[test]
    fn the_longest_silence_lies_between_answers_and_reaches_to_both_ends() {
        let all = |calls: &[Call]| summary(WINDOW, calls, &[]).silence / 1_000_000;
        assert_eq!(all(&[]), 4_000);
        assert_eq!(all(&[call(0, 100, ""), call(100, 2_400, "no"), call(2_400, 100, "")]), 2_400);
        assert_eq!(all(&[call(100, 100, ""), call(2_900, 100, ""), call(2_950, 9_000, "")]), 2_800);
    }

    #[test]
    fn an_actor_that_is_silent_alone_is_noticed() {
        let other = |at| Call { actor: "y".into(), ..call(at, 0, "") };
        let calls = [call(0, 0, ""), call(3_999, 0, ""), other(1_000), other(2_000), other(3_000)];
        let summary = summary(WINDOW, &calls, &[]);
        assert_eq!((summary.silence / 1_000_000, summary.silence_of_one / 1_000_000), (1_000, 3_999));
    }

    #[test]
    fn errors_that_differ_in_numbers_only_are_one() {
        let calls =
            [call(0, 1, "dial 10.0.0.1: x"), call(0, 1, "dial 10.0.12.7: x"), call(0, 1, "other"), call(0, 1, "")];
        assert_eq!(errors(&calls), [(2, "dial N.N.N.N: ACTOR".to_owned()), (1, "other".to_owned())]);
    }
}
