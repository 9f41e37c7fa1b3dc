//! Turns of actors as their hosts wrote them down, and the judge of single owners: no actor may run
//! turns on two hosts at one time.
//!
//! A turn whose end is missing lost its host; its code cannot have run on, so it counts with the
//! length that it was asked to have. A turn that its sidecar cut off has no owner any more: the caller
//! was told that it failed. Its code runs on until it notices, and that is counted on its own.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// One turn; times in nanoseconds of the node's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The turn's own name.
    pub id: String,
    /// The actor.
    pub actor: String,
    /// The pod it ran in.
    pub host: String,
    /// When it began.
    pub begin: i64,
    /// When it ended.
    pub end: i64,
    /// Whether its host wrote down the end.
    pub ended: bool,
    /// When its sidecar cut it off.
    pub cut: Option<i64>,
}

impl Turn {
    /// Until when its host owned the actor as far as this turn tells.
    pub fn owned_until(&self) -> i64 {
        self.cut.map_or(self.end, |cut| cut.min(self.end))
    }
}

/// A turn that began while another host still ran one of the same actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The turn of the other host.
    pub running: Turn,
    /// The turn that should not have begun.
    pub begun: Turn,
}

impl Overlap {
    /// Whether the actor had two owners, and not only code of a turn that was cut off.
    pub fn has_two_owners(&self) -> bool {
        self.running.owned_until() > self.begun.begin
    }

    /// How long both ran.
    pub fn nanoseconds(&self) -> i64 {
        self.running.end.min(self.begun.end) - self.begun.begin
    }
}

impl std::fmt::Display for Overlap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { running, begun } = self;
        let late = (begun.begin - running.begin) / 1_000_000;
        let both = self.nanoseconds() / 1_000_000;
        let cut = if self.has_two_owners() { "" } else { ", the first was cut off by its sidecar" };
        write!(
            f,
            "{}: {} began {late} ms after {} had, both ran for {both} ms{cut}",
            begun.actor, begun.host, running.host
        )
    }
}

/// Every turn that began while a turn of the same actor ran on another host, by their begin.
pub fn overlaps(turns: &[Turn]) -> Vec<Overlap> {
    let mut by_actor: BTreeMap<&str, Vec<&Turn>> = BTreeMap::new();
    for turn in turns {
        by_actor.entry(&turn.actor).or_default().push(turn);
    }
    let mut found = Vec::new();
    for of_one in by_actor.values_mut() {
        of_one.sort_by_key(|turn| (turn.begin, turn.end));
        let mut running: Vec<&Turn> = Vec::new();
        for begun in of_one.iter().copied() {
            running.retain(|earlier| earlier.end > begun.begin);
            let others = running.iter().filter(|earlier| earlier.host != begun.host);
            let other = others.max_by_key(|earlier| (earlier.owned_until(), earlier.end));
            if let Some(other) = other {
                found.push(Overlap { running: (*other).clone(), begun: begun.clone() });
            }
            running.push(begun);
        }
    }
    found.sort_by_key(|overlap| overlap.begun.begin);
    found
}

/// The turns in a journal: lines `b <turn> <actor> <pod> <begin> <length>`, `c <turn> <time>` for a cut and
/// `e <turn> <end>`. A line may be there twice, because a write whose answer was lost is repeated.
pub fn parse(journal: &str) -> Result<Vec<Turn>> {
    let mut turns: BTreeMap<String, Turn> = BTreeMap::new();
    for line in journal.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<i64>().with_context(|| format!("journal line {line:?}"));
        match words.as_slice() {
            ["b", id, actor, host, begin, length] => {
                let begin = number(begin)?;
                let turn = Turn {
                    id: (*id).to_owned(),
                    actor: (*actor).to_owned(),
                    host: (*host).to_owned(),
                    begin,
                    end: begin + number(length)?,
                    ended: false,
                    cut: None,
                };
                turns.entry(turn.id.clone()).or_insert(turn);
            }
            ["c", id, at] => {
                let turn = turns.get_mut(*id).with_context(|| format!("turn {id} is cut off but never began"))?;
                turn.cut = Some(number(at)?);
            }
            ["e", id, end] => {
                let turn = turns.get_mut(*id).with_context(|| format!("turn {id} ends but never began"))?;
                turn.end = number(end)?;
                turn.ended = true;
            }
            _ => bail!("journal line {line:?} cannot be read"),
        }
    }
    Ok(turns.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(actor: &str, host: &str, begin: i64, end: i64) -> Turn {
        let id = format!("{host}/{begin}");
        Turn { id, actor: actor.into(), host: host.into(), begin, end, ended: true, cut: None }
    }

    fn begun(turns: &[Turn]) -> Vec<i64> {
        overlaps(turns).into_iter().map(|overlap| overlap.begun.begin).collect()
    }

    #[test]
    fn turns_one_after_the_other_on_changing_hosts_do_not_overlap() {
        let turns = [turn("x", "a", 0, 10), turn("x", "b", 10, 20), turn("x", "a", 21, 30)];
        assert_eq!(begun(&turns), Vec::<i64>::new());
    }

    #[test]
    fn a_turn_that_begins_on_another_host_before_the_first_ended_is_found() {
        let turns = [turn("x", "a", 0, 10), turn("x", "b", 9, 20)];
        let found = overlaps(&turns);
        assert_eq!(found, [Overlap { running: turns[0].clone(), begun: turns[1].clone() }]);
        assert_eq!(found[0].nanoseconds(), 1);
    }

    #[test]
    fn the_order_in_which_turns_were_written_down_does_not_matter() {
        assert_eq!(begun(&[turn("x", "b", 9, 20), turn("x", "a", 0, 10)]), [9]);
    }

    #[test]
    fn a_turn_inside_a_longer_one_and_a_later_one_are_both_found() {
        let turns = [turn("x", "a", 0, 100), turn("x", "b", 10, 20), turn("x", "b", 90, 120)];
        assert_eq!(begun(&turns), [10, 90]);
    }

    #[test]
    fn two_turns_that_begin_at_once_on_two_hosts_count_once() {
        assert_eq!(begun(&[turn("x", "a", 5, 9), turn("x", "b", 5, 8)]), [5]);
    }

    #[test]
    fn other_actors_and_the_same_host_are_no_overlap() {
        let turns = [turn("x", "a", 0, 10), turn("y", "b", 5, 15), turn("x", "a", 8, 12)];
        assert_eq!(begun(&turns), Vec::<i64>::new());
    }

    #[test]
    fn a_turn_that_was_cut_off_before_the_next_began_has_no_owner_any_more() {
        let cut = |at| Turn { cut: Some(at), ..turn("x", "a", 0, 10) };
        let owners = |first: Turn| overlaps(&[first, turn("x", "b", 8, 20)])[0].has_two_owners();
        assert!(owners(turn("x", "a", 0, 10)) && owners(cut(9)));
        assert!(!owners(cut(8)) && !owners(cut(3)));
    }

    #[test]
    fn beside_a_turn_that_was_cut_off_one_with_an_owner_is_found() {
        let cut = Turn { cut: Some(1), ..turn("x", "a", 0, 100) };
        let found = overlaps(&[cut, turn("x", "c", 2, 12), turn("x", "b", 10, 20)]);
        assert_eq!(found.iter().map(Overlap::has_two_owners).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_journal_gives_its_turns_with_repeated_lines_once() {
        let journal = "b p/1 x p 100 50\nb p/1 x p 100 50\nb p/2 y p 120 50\nc p/2 130\ne p/1 155\n";
        let turns = parse(journal).unwrap();
        let short: Vec<_> = turns.iter().map(|t| (t.id.as_str(), t.begin, t.end, t.ended, t.cut)).collect();
        assert_eq!(short, [("p/1", 100, 155, true, None), ("p/2", 120, 170, false, Some(130))]);
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_an_error() {
        assert!(parse("e p/1 155\n").is_err());
        assert!(parse("c p/1 155\n").is_err());
        assert!(parse("b p/1 x p 100\n").is_err());
        assert!(parse("b p/1 x p soon 50\n").is_err());
    }
}
