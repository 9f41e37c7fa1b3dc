//! A model of one sidecar process: what it does with each order, by generation (placement.md §7.2).
//! 1.16 reads no versions: after a change of leaders it is unlocked with the table of a later round.
//! At LOCK it goes on with the turns that run and reads nothing until they are over; no turn begins
//! between an UNLOCK and a LOCK that both waited for that.
//! 1.18 keeps from one stream to the next what it knows of each type and which types are blocked, but not
//! which of them the next UNLOCK releases (G10).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use placement::core::{Generation, Host, Order, StreamId, Table};

use super::world::ms;

/// What a sidecar knows and does.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of a process")]
pub struct Sidecar {
    pub name: Arc<str>,
    pub generation: Generation,
    pub types: Vec<Arc<str>>,
    /// How long its in-flight turns take to drain.
    pub drain: Duration,
    pub stream: Option<StreamId>,
    /// Its types are those it connected with.
    pub as_introduced: bool,
    /// The process runs.
    pub alive: bool,
    /// Stopped with SIGSTOP: neither reads nor notices anything.
    pub frozen_until: Duration,
    pub was_frozen: bool,
    pub table: Option<Arc<Table>>,
    /// Since when a LOCK without its UNLOCK holds.
    pub locked_since: Option<Duration>,
    pub lock_version: u64,
    pub got_update: bool,
    /// Hosts of each type by the last UPDATE, for the life of the process (1.18).
    known: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Types that an UPDATE changed and no UNLOCK released, for the life of the process (1.18).
    pub blocked: BTreeSet<Arc<str>>,
    /// Types changed on this stream since its last UNLOCK: what the next one releases (1.18).
    changed: BTreeSet<Arc<str>>,
    /// Turns that go on although the stream is lost or, in 1.16, locked.
    pub draining: Option<Draining>,
    /// It reads no orders before (1.16).
    pub busy_until: Duration,
    unlocked_at: Duration,
    /// It was unlocked on this stream, so there may be turns to drain.
    has_run: bool,
    /// 1.16 counts these for the life of the process.
    pub locks: u64,
    pub unlocks: u64,
    pub violation: Option<String>,
}

/// Turns that go on: by the table they began with, without the types that were blocked.
#[derive(Clone, Debug)]
pub struct Draining {
    since: Duration,
    until: Duration,
    table: Arc<Table>,
    blocked: BTreeSet<Arc<str>>,
}

/// What a sidecar wants to send, after so much time.
pub struct Reply {
    pub after: Duration,
    pub operation: placement::core::Operation,
    pub version: u64,
}

impl Sidecar {
    /// A process that did not connect yet.
    pub fn new(index: usize, generation: Generation, types: Vec<Arc<str>>, drain: Duration) -> Self {
        Self {
            name: format!("10.0.0.{index}:50002").into(),
            generation,
            types,
            drain,
            stream: None,
            as_introduced: true,
            alive: true,
            frozen_until: Duration::ZERO,
            was_frozen: false,
            table: None,
            locked_since: None,
            lock_version: 0,
            got_update: false,
            known: BTreeMap::new(),
            blocked: BTreeSet::new(),
            changed: BTreeSet::new(),
            draining: None,
            busy_until: Duration::ZERO,
            unlocked_at: Duration::ZERO,
            has_run: false,
            locks: 0,
            unlocks: 0,
            violation: None,
        }
    }

    pub fn host(&self) -> Host {
        let api_level = 20;
        Host { name: self.name.clone(), id: self.name.clone(), port: 0, api_level, entities: self.types.clone() }
            .normalised()
    }

    /// Obeys an order; says what it will acknowledge.
    pub fn obey(&mut self, now: Duration, order: &Order) -> Option<Reply> {
        use placement::core::Operation;
        let acks = self.generation != Generation::V116;
        let drain = if self.has_run { self.drain } else { Duration::ZERO };
        let (after, operation) = match order {
            Order::Lock(version) => {
                self.lock(now, *version);
                (ms(1) + if self.generation == Generation::V117 { drain } else { Duration::ZERO }, Operation::Lock)
            }
            Order::Types(table) => {
                self.update_types(table);
                (ms(1), Operation::Update)
            }
            Order::Update(table) => {
                self.update(table);
                (ms(1) + if self.generation == Generation::V118 { drain } else { Duration::ZERO }, Operation::Update)
            }
            Order::Unlock(version) => {
                self.unlock(*version);
                self.unlocked_at = now;
                self.has_run = true;
                (ms(1), Operation::Unlock)
            }
        };
        acks.then(|| Reply { after, operation, version: order.version() })
    }

    fn lock(&mut self, now: Duration, version: u64) {
        if self.generation == Generation::V116 && self.locked_since.is_some() {
            self.violation = Some(format!("{} got LOCK {version} without an UNLOCK before it", self.name));
        }
        if version < self.lock_version {
            self.violation = Some(format!("{} got LOCK {version} after {}", self.name, self.lock_version));
        }
        if self.generation == Generation::V116 && self.unlocked_at < now {
            self.busy_until = now + self.drain;
            let (since, until, blocked) = (now, self.busy_until, BTreeSet::new());
            self.draining = self.table.clone().map(|table| Draining { since, until, table, blocked });
        }
        self.locks += 1;
        self.locked_since = Some(now);
        self.lock_version = version;
        self.got_update = false;
    }

    /// An UPDATE that names types and no hosts.
    fn update_types(&mut self, table: &Arc<Table>) {
        if self.generation != Generation::V118 {
            self.violation = Some(format!("{} got an UPDATE without hosts", self.name));
        }
        self.check_update(table);
        let types = table.hosts.values().flat_map(|entry| entry.entities.iter().cloned());
        self.learn(types.map(|t| (t, BTreeSet::new())).collect());
        self.table = None;
    }

    fn check_update(&mut self, table: &Arc<Table>) {
        let other = self.generation != Generation::V116 && table.version != self.lock_version;
        if self.locked_since.is_none() || other {
            self.violation =
                Some(format!("{} got UPDATE {} under LOCK {}", self.name, table.version, self.lock_version));
        }
    }

    /// What 1.18 makes of the hosts of each type: those that differ from what it knows are blocked.
    fn learn(&mut self, types: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>) {
        let names: BTreeSet<_> = self.known.keys().chain(types.keys()).cloned().collect();
        let changed = names.into_iter().filter(|name| self.known.get(name) != types.get(name));
        self.changed.extend(changed);
        self.blocked.extend(self.changed.iter().cloned());
        self.known = types;
    }

    fn update(&mut self, table: &Arc<Table>) {
        self.check_update(table);
        if self.as_introduced && !self.types.is_empty() && !table.hosts.contains_key(&self.name) && self.table.is_none()
        {
            self.violation = Some(format!("{} is not in its first table", self.name));
        }
        self.got_update = true;
        if self.generation == Generation::V118 {
            let mut types: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
            for (name, entry) in &table.hosts {
                for actor_type in &entry.entities {
                    types.entry(actor_type.clone()).or_default().insert(name.clone());
                }
            }
            self.learn(types);
        }
        self.table = Some(table.clone());
    }

    fn unlock(&mut self, version: u64) {
        let other = self.generation != Generation::V116 && version != self.lock_version;
        if self.locked_since.is_none() || !self.got_update || other {
            self.violation = Some(format!("{} got a surplus UNLOCK {version}", self.name));
        }
        self.unlocks += 1;
        self.locked_since = None;
        // Also of rounds before this one that were given up.
        for actor_type in std::mem::take(&mut self.changed) {
            self.blocked.remove(&actor_type);
        }
    }

    /// Types that its table names and that it will not run a turn of.
    pub fn stuck(&self) -> Vec<&Arc<str>> {
        let unlocked = self.alive && self.locked_since.is_none() && self.table.is_some();
        self.blocked.iter().filter(|t| unlocked && self.known.contains_key(*t)).collect()
    }

    /// The process is gone, and with it what it knew.
    pub fn die(&mut self) {
        self.alive = false;
        self.lose_stream();
        self.known.clear();
        self.blocked.clear();
    }

    /// The stream is gone and it knows: everything is deactivated, nothing new runs until it is back.
    pub fn lose_stream(&mut self) {
        self.stream = None;
        self.locked_since = None;
        self.lock_version = 0;
        self.table = None;
        self.changed.clear();
        self.busy_until = Duration::ZERO;
        self.has_run = false;
        self.draining = None;
    }

    /// Its replica is gone: what runs may go on for the time of the drain, nothing new begins.
    pub fn lose_replica(&mut self, now: Duration) {
        let stopped = self.locked_since.is_some() && self.generation != Generation::V118;
        let (since, until, blocked) = (now, now + self.drain, self.blocked.clone());
        let draining = self.table.clone().filter(|_| !stopped).map(|table| Draining { since, until, table, blocked });
        self.lose_stream();
        self.draining = draining;
    }

    /// Since when it drains, if it does.
    pub fn draining_since(&self) -> Option<Duration> {
        self.draining.as_ref().map(|d| d.since)
    }

    /// Whether a turn of this actor may still run by a table that it lost.
    pub fn drains(&self, now: Duration, actor_type: &Arc<str>, actor: u64) -> bool {
        let still = self.draining.as_ref().filter(|d| self.alive && now < d.until && !d.blocked.contains(actor_type));
        still.is_some_and(|d| owner(&d.table, actor_type, actor).as_ref() == Some(&self.name))
    }

    /// Whether it would run a turn of this actor now.
    pub fn claims(&self, actor_type: &Arc<str>, actor: u64) -> bool {
        let Some(table) = &self.table else { return false };
        let blocked = match self.generation {
            Generation::V118 => self.blocked.contains(actor_type),
            _ => self.locked_since.is_some(),
        };
        self.alive && !blocked && owner(table, actor_type, actor).as_ref() == Some(&self.name)
    }
}

/// The owner of an actor: highest random weight instead of the ring, with the same property that a
/// removed host moves only its own actors.
pub fn owner(table: &Table, actor_type: &Arc<str>, actor: u64) -> Option<Arc<str>> {
    let weight = |name: &&Arc<str>| {
        name.bytes()
            .fold(actor.wrapping_mul(0x9e37_79b9_7f4a_7c15), |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    };
    let hosting = table.hosts.iter().filter(|(_, entry)| entry.entities.contains(actor_type));
    hosting.map(|(name, _)| name).max_by_key(weight).cloned()
}
