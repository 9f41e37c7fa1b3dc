//! How measurements are shown.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::Measurement;
use super::calls::{Second, errors};
use super::scenarios::Outcome;

/// How many overlaps and kinds of errors are shown of a scenario.
const SHOWN: usize = 3;

/// The measurements as a Markdown table.
pub fn print(all: &[Measurement]) -> String {
    let mut out = String::from(
        "| placement | daprd | scenario | calls | ok | failed | slow | longest s without a success | … of one actor | turns | overlapping turns | beside cut-off code |\n\
         |---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for Measurement { placement, sidecar, outcomes } in all {
        for outcome in outcomes {
            let summary = outcome.summary();
            let Second { ok, failed, slow, overlapping } = summary.total;
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "| {placement} | {sidecar} | {} | {} | {ok} | {failed} | {slow} | {} | {} | {} | {overlapping} | {} |",
                outcome.scenario.name(),
                ok + failed,
                tenths(summary.silence),
                tenths(summary.silence_of_one),
                outcome.turns.len(),
                outcome.beside_cut_off(),
            );
        }
    }
    out
}

/// Nanoseconds as seconds with one digit.
fn tenths(nanoseconds: i64) -> String {
    let tenths = (nanoseconds + 50_000_000) / 100_000_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// One scenario in words: what was done when, the seconds in which something went wrong, errors and
/// overlaps.
pub fn story(outcome: &Outcome) -> String {
    let mut lines: Vec<(i64, String)> = Vec::new();
    for (at, what) in &outcome.events {
        lines.push((at - outcome.window.begin, format!("-- {what}")));
    }
    for (index, second) in outcome.seconds().into_iter().enumerate().filter(|(_, second)| second.disturbed()) {
        let Second { ok, failed, slow, overlapping } = second;
        let at = i64::try_from(index).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        lines.push((at, format!("{ok} ok, {failed} failed, {slow} slow, {overlapping} overlapping")));
    }
    lines.sort_by_key(|(at, _)| *at);
    let mut out = String::new();
    for (at, line) in lines {
        let _ = writeln!(out, "  {:>6} s  {line}", tenths(at));
    }
    for (count, text) in errors(&outcome.calls).into_iter().take(SHOWN) {
        let _ = writeln!(out, "  {count} × {text}");
    }
    for overlap in outcome.overlaps.iter().take(SHOWN) {
        let _ = writeln!(out, "  {overlap}");
    }
    if outcome.unended() > 0 {
        let _ = writeln!(out, "  {} turns whose end was not written down", outcome.unended());
    }
    out
}

/// One file for each scenario: its seconds.
pub fn record(measured: &Measurement, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    for outcome in &measured.outcomes {
        let name = format!("{}-{}-{:?}.csv", measured.placement, measured.sidecar, outcome.scenario);
        let path = folder.join(name.to_lowercase());
        std::fs::write(&path, csv(outcome)).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn csv(outcome: &Outcome) -> String {
    let mut out = String::from("second,ok,failed,slow,overlapping,events\n");
    for (index, second) in outcome.seconds().into_iter().enumerate() {
        let Second { ok, failed, slow, overlapping } = second;
        let from = outcome.window.begin + i64::try_from(index).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        let happened = outcome.events.iter().filter(|(at, _)| (from..from + 1_000_000_000).contains(at));
        let events: Vec<&str> = happened.map(|(_, what)| what.as_str()).collect();
        let _ = writeln!(out, "{index},{ok},{failed},{slow},{overlapping},\"{}\"", events.join("; "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::calls::{Call, Window};
    use super::super::scenarios::Scenario;
    use super::super::turns::{Turn, overlaps};
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn outcome() -> Outcome {
        let turn = |id: &str, host: &str, begin, end| Turn {
            id: id.into(),
            actor: "x".into(),
            host: host.into(),
            begin,
            end,
            ended: true,
            cut: None,
        };
        let turns = vec![turn("t1", "a", 0, SECOND), turn("t2", "b", SECOND / 2, SECOND)];
        let call = |begin, error: &str| Call {
            actor: "x".into(),
            begin,
            took: SECOND / 4,
            turn_ms: 200,
            turn: "t1".into(),
            error: error.into(),
        };
        Outcome {
            scenario: Scenario::LeaderKilled,
            window: Window { begin: 0, end: 3 * SECOND },
            calls: vec![call(0, ""), call(SECOND, "no 17"), call(2 * SECOND, "")],
            overlaps: overlaps(&turns),
            turns,
            events: vec![(SECOND / 2, "killing the leader".into())],
        }
    }

    #[test]
    fn a_row_has_the_figures_of_its_scenario() {
        let measured = Measurement { placement: "ours", sidecar: "1.18.3", outcomes: vec![outcome()] };
        let row = "| ours | 1.18.3 | leader killed | 3 | 2 | 1 | 0 | 2.0 | 2.0 | 2 | 1 | 0 |";
        assert_eq!(print(&[measured]).lines().last(), Some(row));
    }

    #[test]
    fn the_story_tells_events_bad_seconds_errors_and_overlaps_in_order() {
        let story = story(&outcome());
        let wanted = [
            "  0.0 s  1 ok, 0 failed, 0 slow, 1 overlapping",
            "  0.5 s  -- killing the leader",
            "  1.0 s  0 ok, 1 failed, 0 slow, 0 overlapping",
            "1 × no N",
            "x: b began 500 ms after a had, both ran for 500 ms",
        ];
        for (line, wanted) in story.lines().zip(wanted) {
            assert!(line.contains(wanted), "{line} lacks {wanted}");
        }
        assert_eq!(story.lines().count(), wanted.len());
    }

    #[test]
    fn the_file_has_every_second_and_what_happened_in_it() {
        let text = csv(&outcome());
        assert_eq!(text.lines().count(), 4);
        assert_eq!(text.lines().nth(1), Some("0,1,0,0,1,\"killing the leader\""));
    }

    #[test]
    fn a_scenario_with_two_owners_fails_only_where_one_is_demanded() {
        assert!(outcome().ensure_one_owner().is_err());
        Outcome { scenario: Scenario::SidecarStopped, ..outcome() }.ensure_one_owner().unwrap();
        Outcome { overlaps: Vec::new(), ..outcome() }.ensure_one_owner().unwrap();
        let mut cut_off = outcome();
        cut_off.overlaps[0].running.cut = Some(SECOND / 4);
        cut_off.ensure_one_owner().unwrap();
        assert_eq!((cut_off.beside_cut_off(), outcome().beside_cut_off()), (1, 0));
    }

    #[test]
    fn a_lost_turn_or_a_scenario_that_moved_nothing_is_noticed() {
        outcome().ensure_complete().unwrap();
        outcome().ensure_meaningful().unwrap();
        let lost = Outcome { turns: outcome().turns.split_off(1), ..outcome() };
        assert!(lost.ensure_complete().is_err() && lost.ensure_meaningful().is_err());
        assert!(Outcome { scenario: Scenario::Scale, ..outcome() }.ensure_meaningful().is_err());
        assert!(Outcome { window: Window { begin: 0, end: 40 * SECOND }, ..outcome() }.ensure_meaningful().is_err());
    }
}
