//! What goes wrong, and when: drawn from the seed before anything starts. Everything is undone by
//! [`CHAOS`].

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::world::Happening;
use super::{CHAOS, Chaos, REPLICAS};
use crate::world::ms;

/// Replicas take this long to elect a leader first.
const CALM: u64 = 5000;

/// A plan under construction.
pub struct Plan {
    rng: StdRng,
    pub steps: Vec<(Duration, Happening)>,
}

impl Plan {
    /// The chaos of one seed, for so many sidecars.
    pub fn draw(seed: u64, chaos: Chaos, sidecars: usize) -> Vec<(Duration, Happening)> {
        let mut plan = Self { rng: StdRng::seed_from_u64(seed), steps: Vec::new() };
        match chaos {
            Chaos::Everything => plan.everything(sidecars),
            Chaos::Elections => {}
            Chaos::Isolation => plan.isolation(),
            Chaos::Forgetful => plan.forgetful(),
            Chaos::Sleep => plan.sleep(sidecars),
        }
        plan.steps
    }

    fn everything(&mut self, sidecars: usize) {
        for _ in 0..self.rng.random_range(2..6) {
            self.harm_replica();
        }
        for _ in 0..self.rng.random_range(1..8) {
            self.harm_sidecar(sidecars);
        }
    }

    fn forgetful(&mut self) {
        let remembers = self.rng.random_range(0..REPLICAS);
        for who in (0..REPLICAS).filter(|who| *who != remembers) {
            let (at, length) = (ms(7000), ms(self.rng.random_range(100..4000)));
            self.restart(who, Happening::DiskLost(who), (at, length));
        }
    }

    fn sleep(&mut self, sidecars: usize) {
        for (round, who) in (0..REPLICAS).cycle().skip(self.rng.random_range(0..REPLICAS)).take(REPLICAS).enumerate() {
            let at = ms(7000 + 6000 * round as u64);
            let length = ms(self.rng.random_range(4000..12_000)).min(CHAOS.saturating_sub(at));
            self.steps.push((at, Happening::Sleep(who)));
            self.steps.push((at + length, Happening::Wake(who)));
        }
        self.harm_sidecar(sidecars);
    }

    fn isolation(&mut self) {
        let who = self.rng.random_range(0..REPLICAS);
        let (next, last) = ((who + 1) % REPLICAS, (who + 2) % REPLICAS);
        let span = (ms(self.rng.random_range(7000..9000)), Duration::from_secs(25));
        self.cut(&[(who, next), (next, who), (who, last), (last, who)], span);
    }

    fn span(&mut self, length: std::ops::Range<u64>) -> (Duration, Duration) {
        let end = u64::try_from(CHAOS.as_millis()).expect("it is short");
        let at = self.rng.random_range(CALM..end - 200);
        let length = self.rng.random_range(length).min(end - at);
        (ms(at), ms(length))
    }

    fn cut(&mut self, directions: &[(usize, usize)], (at, length): (Duration, Duration)) {
        for (from, to) in directions {
            self.steps.push((at, Happening::Cut(*from, *to)));
            self.steps.push((at + length, Happening::Mend(*from, *to)));
        }
    }

    fn harm_replica(&mut self) {
        let (at, length) = self.span(100..9000);
        let who = self.rng.random_range(0..REPLICAS);
        let (next, last) = ((who + 1) % REPLICAS, (who + 2) % REPLICAS);
        match self.rng.random_range(0..11) {
            0 | 1 => self.cut(&[(who, next), (next, who), (who, last), (last, who)], (at, length)),
            2 => self.cut(&[(who, next), (next, who)], (at, length)),
            3 => self.cut(&[(who, next), (who, last)], (at, length)),
            4 => self.restart(who, Happening::ReplicaLeave(who), (at, length)),
            5 => self.restart(who, Happening::DiskLost(who), (at, length)),
            6 => (0..REPLICAS).for_each(|who| self.restart(who, Happening::ReplicaCrash(who), (at, length))),
            7 | 8 => {
                self.steps.push((at, Happening::Sleep(who)));
                self.steps.push((at + length, Happening::Wake(who)));
            }
            _ => self.restart(who, Happening::ReplicaCrash(who), (at, length)),
        }
    }

    fn restart(&mut self, who: usize, stop: Happening, (at, length): (Duration, Duration)) {
        self.steps.push((at, stop));
        self.steps.push((at + length, Happening::ReplicaStart(who)));
    }

    fn harm_sidecar(&mut self, sidecars: usize) {
        let (at, length) = self.span(200..8000);
        let who = self.rng.random_range(0..sidecars);
        match self.rng.random_range(0..5) {
            0 => {
                self.steps.push((at, Happening::Crash(who)));
                self.steps.push((at + length, Happening::Restart(who)));
            }
            1 => self.steps.push((at, Happening::Reset(who))),
            2 => self.steps.push((at, Happening::Freeze(who, length))),
            _ => {
                let types = (0..3).map(|_| self.rng.random_bool(0.6)).collect();
                self.steps.push((at, Happening::Retype(who, types)));
            }
        }
    }
}
