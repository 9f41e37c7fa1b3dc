//! Health: a service is ready while each of its named targets is.
//!
//! A [`Target`] is a token held by the part it speaks for. Dropping it means "not ready", so a part
//! that ended cannot stay reported as up.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// All targets of one process. Cloning shares them. State: one lock in this module.
#[derive(Clone, Default)]
pub struct Health {
    targets: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

/// The readiness of one part; dropping it makes the part not ready for good.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    targets: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

impl Health {
    /// A process without targets is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the target `name`, not ready at first.
    pub fn target(&self, name: &'static str) -> Target {
        self.targets.lock().insert(name, false);
        Target { name, targets: Arc::clone(&self.targets) }
    }

    /// Whether every target is ready.
    pub fn is_ready(&self) -> bool {
        self.targets.lock().values().all(|ready| *ready)
    }

    /// The targets that are not ready, by name.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.targets.lock().iter().filter(|(_, ready)| !**ready).map(|(name, _)| *name).collect()
    }
}

impl Target {
    /// This part is up.
    pub fn ready(&self) {
        self.set(true);
    }

    /// This part is not up, for now.
    pub fn not_ready(&self) {
        self.set(false);
    }

    fn set(&self, ready: bool) {
        self.targets.lock().insert(self.name, ready);
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_only_while_every_target_is() {
        let health = Health::new();
        assert!(health.is_ready());
        let (first, second) = (health.target("first"), health.target("second"));
        first.ready();
        assert_eq!(health.waiting_for(), ["second"]);
        second.ready();
        assert!(health.is_ready());
        first.not_ready();
        assert!(!health.is_ready());
    }

    #[test]
    fn a_dropped_target_is_never_reported_as_up() {
        let health = Health::new();
        let target = health.target("part");
        target.ready();
        drop(target);
        assert_eq!(health.waiting_for(), ["part"]);
    }
}
