//! What a fleet of sidecars has seen: who holds which table, who is unlocked, how long they were
//! blocked. Pure: sightings in, figures out.

use std::time::{Duration, Instant};

use super::wire::Size;

/// What a sidecar saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A table came.
    Updated(Size),
    /// It may go on.
    Unlocked,
    /// Its stream ended, for this reason.
    Lost(String),
}

/// Something that one sidecar saw.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// Which sidecar.
    pub sidecar: usize,
    /// When.
    pub at: Instant,
    /// The version of the round; zero of a lost stream.
    pub version: u64,
    /// What.
    pub what: What,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    holds: Size,
    unlocked: bool,
    blocked_since: Option<Instant>,
}

/// The state of all sidecars and the figures so far.
#[derive(Debug)]
pub struct Tally {
    sidecars: Vec<State>,
    wanted: Size,
    holding: usize,
    unlocked: usize,
    /// When the last of all came to hold the wanted table.
    pub all_hold_at: Option<Instant>,
    /// When the last of all was unlocked with the wanted table.
    pub all_unlocked_at: Option<Instant>,
    /// The highest version seen.
    pub version: u64,
    /// From UPDATE to the UNLOCK that ended it, for each sidecar and round.
    pub blocked: Vec<Duration>,
    /// Streams that ended, and why the last one did.
    pub lost: usize,
    /// See [`Tally::lost`].
    pub last_loss: Option<String>,
}

impl Tally {
    /// Nobody has seen anything; all are to hold `wanted`.
    pub fn new(sidecars: usize, wanted: Size) -> Self {
        Self {
            sidecars: vec![State::default(); sidecars],
            wanted,
            holding: 0,
            unlocked: 0,
            all_hold_at: None,
            all_unlocked_at: None,
            version: 0,
            blocked: Vec::new(),
            lost: 0,
            last_loss: None,
        }
    }

    /// From now on all are to hold `wanted`, another table than before.
    pub fn want(&mut self, wanted: Size) {
        self.wanted = wanted;
        self.holding = self.sidecars.iter().filter(|state| state.holds == wanted).count();
        self.unlocked = self.sidecars.iter().filter(|state| state.holds == wanted && state.unlocked).count();
        (self.all_hold_at, self.all_unlocked_at) = (None, None);
    }

    /// Takes in what a sidecar saw.
    pub fn take(&mut self, sighting: Sighting) {
        let Some(&before) = self.sidecars.get(sighting.sidecar) else { return };
        let at = sighting.at;
        let mut state = before;
        self.version = self.version.max(sighting.version);
        match sighting.what {
            What::Updated(size) => {
                state.holds = size;
                state.unlocked = false;
                state.blocked_since.get_or_insert(at);
            }
            What::Unlocked => {
                state.unlocked = true;
                self.blocked.extend(state.blocked_since.take().map(|since| at - since));
            }
            What::Lost(reason) => {
                state = State::default();
                self.lost += 1;
                self.last_loss = Some(reason);
            }
        }
        self.sidecars[sighting.sidecar] = state;
        self.recount(before, state, at);
    }

    fn recount(&mut self, before: State, after: State, at: Instant) {
        let holds = |state: State| usize::from(state.holds == self.wanted);
        let is_unlocked = |state: State| usize::from(state.holds == self.wanted && state.unlocked);
        let holding = self.holding + holds(after) - holds(before);
        let unlocked = self.unlocked + is_unlocked(after) - is_unlocked(before);
        (self.holding, self.unlocked) = (holding, unlocked);
        if holding == self.sidecars.len() {
            self.all_hold_at.get_or_insert(at);
        }
        if unlocked == self.sidecars.len() {
            self.all_unlocked_at.get_or_insert(at);
        }
    }

    /// How far it is, for a person.
    pub fn progress(&self) -> String {
        let Self { sidecars, holding, unlocked, version, lost, last_loss, .. } = self;
        let all = sidecars.len();
        let mut text =
            format!("{holding} of {all} hold the table, {unlocked} unlocked, version {version}, {lost} streams lost");
        if let Some(reason) = last_loss {
            text.extend([" (last: ", reason, ")"]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Size = Size { types: 1, hosts: 2 };
    const HALF: Size = Size { types: 1, hosts: 1 };

    struct Story {
        tally: Tally,
        start: Instant,
    }

    impl Story {
        fn new() -> Self {
            Self { tally: Tally::new(2, FULL), start: Instant::now() }
        }

        fn see(mut self, ms: u64, sidecar: usize, version: u64, what: What) -> Self {
            let at = self.start + Duration::from_millis(ms);
            self.tally.take(Sighting { sidecar, at, version, what });
            self
        }

        fn ms(&self, at: Option<Instant>) -> Option<u128> {
            at.map(|at| (at - self.start).as_millis())
        }
    }

    #[test]
    fn all_hold_the_table_when_the_last_of_them_got_it() {
        let story = Story::new()
            .see(1, 0, 1, What::Updated(HALF))
            .see(2, 0, 1, What::Unlocked)
            .see(5, 0, 2, What::Updated(FULL))
            .see(7, 1, 2, What::Updated(FULL));
        assert_eq!(story.ms(story.tally.all_hold_at), Some(7));
        assert_eq!(story.tally.all_unlocked_at, None);
        let story = story.see(8, 1, 2, What::Unlocked).see(9, 0, 2, What::Unlocked);
        assert_eq!(story.ms(story.tally.all_unlocked_at), Some(9));
        assert_eq!(story.tally.version, 2);
        let blocked: Vec<_> = story.tally.blocked.iter().map(Duration::as_millis).collect();
        assert_eq!(blocked, [1, 1, 4]);
    }

    #[test]
    fn a_sidecar_stays_blocked_through_a_round_that_was_broken_off() {
        let story = Story::new().see(1, 0, 1, What::Updated(HALF)).see(5, 0, 2, What::Updated(FULL)).see(
            6,
            0,
            2,
            What::Unlocked,
        );
        assert_eq!(story.tally.blocked, [Duration::from_millis(5)]);
    }

    #[test]
    fn a_lost_stream_no_longer_holds_its_table() {
        let story = Story::new().see(1, 0, 1, What::Updated(FULL)).see(2, 0, 0, What::Lost("reset".into())).see(
            3,
            1,
            1,
            What::Updated(FULL),
        );
        assert_eq!(story.tally.all_hold_at, None);
        assert_eq!(story.tally.lost, 1);
        assert!(story.tally.progress().contains("1 of 2 hold the table"), "{}", story.tally.progress());
    }

    #[test]
    fn another_wanted_table_begins_anew() {
        let mut story = Story::new().see(1, 0, 1, What::Updated(FULL)).see(2, 1, 1, What::Updated(FULL)).see(
            3,
            0,
            1,
            What::Unlocked,
        );
        story.tally.want(HALF);
        let story = story.see(4, 0, 2, What::Updated(HALF)).see(5, 1, 2, What::Updated(HALF));
        assert_eq!(story.ms(story.tally.all_hold_at), Some(5));
        assert_eq!(story.tally.all_unlocked_at, None);
    }
}
