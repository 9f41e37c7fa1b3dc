//! What an operator can set about rounds, in domain types.

use std::time::Duration;

use super::host::Generation;
use super::round::Phase;

/// How long each kind of host may take for each phase (RULINGS 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `--disseminate-timeout`: UPDATE for sidecars, the whole round for op-less test clients.
    pub disseminate: Duration,
    /// LOCK for 1.18, which acknowledges it at once.
    pub lock_v118: Duration,
    /// LOCK for everyone else who reports: 1.17 drains inside it and gives up by itself at 5 s.
    pub lock: Duration,
    /// How long after LOCK a 1.16 sidecar may still run turns: it cuts them off after 2 s, and its LOCK
    /// takes its time to arrive.
    pub v116_drain: Duration,
    /// UNLOCK, which every generation acknowledges at once.
    pub unlock: Duration,
    /// After this long under a LOCK a 1.16 sidecar is unlocked without waiting for the others:
    /// at 15 s it would count an UNLOCK by itself (placement.md §7.3 G2).
    pub v116_unlock: Duration,
}

impl Limits {
    /// The limits of RULINGS 15 around a configured `--disseminate-timeout`.
    pub const fn with_disseminate(disseminate: Duration) -> Self {
        Self {
            disseminate,
            lock_v118: Duration::from_secs(1),
            lock: Duration::from_millis(4500),
            v116_drain: Duration::from_millis(2200),
            unlock: Duration::from_millis(4500),
            v116_unlock: Duration::from_secs(14),
        }
    }

    /// The limit of one phase for a sidecar; op-less clients have one limit for the whole round.
    pub const fn of(&self, phase: Phase, generation: Generation) -> Duration {
        match (phase, generation) {
            (_, Generation::OpLess) | (Phase::Update, _) => self.disseminate,
            (Phase::Lock, Generation::V118) => self.lock_v118,
            (Phase::Lock, _) => self.lock,
            (Phase::Idle | Phase::Commit | Phase::Unlock, _) => self.unlock,
        }
    }
}

/// Settings of a namespace's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Phase limits.
    pub limits: Limits,
    /// `--disseminate-coalesce-window`; zero means adaptive (RULINGS 20).
    pub coalesce_window: Duration,
    /// How long a host stays in the table after its replica was lost (RULINGS 17).
    pub hold: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::with_disseminate(Duration::from_secs(8)),
            coalesce_window: Duration::ZERO,
            hold: Duration::from_secs(30),
        }
    }
}
