//! The replicated memory of one namespace: the last fixed table and whether it reached everyone.
//!
//! Raft's state machine applies [`Record`]s to it in log order; a new leader starts its
//! [`super::Dissemination`] from it. Versions never fall, whatever the order of leaders.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::Record;
use super::host::Entry;

/// Whether every live host of the last fixed round installed its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settled {
    /// All did: anyone may be given this table at once.
    #[default]
    Yes,
    /// Some may still work by an older table.
    No,
}

/// What every replica knows of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Version of the last fixed table.
    pub version: u64,
    /// Whether it reached everyone.
    pub settled: Settled,
    /// Its hosts by name.
    pub hosts: BTreeMap<Arc<str>, Arc<Entry>>,
}

impl Ledger {
    /// Applies a record. A record of an older version (proposed by a deposed leader) is ignored.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Fixed { version, changes } if *version > self.version => {
                self.version = *version;
                self.settled = Settled::No;
                for (name, entry) in changes {
                    match entry {
                        Some(entry) => drop(self.hosts.insert(name.clone(), Arc::new(entry.clone()))),
                        None => drop(self.hosts.remove(name)),
                    }
                }
            }
            Record::Settled { version } if *version == self.version => self.settled = Settled::Yes,
            Record::Fixed { .. } | Record::Settled { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_deposed_leader_changes_nothing() {
        let entry = Entry { id: "app".into(), port: 0, api_level: 20, entities: vec!["a".into()] };
        let mut ledger = Ledger::default();
        ledger.apply(&Record::Fixed { version: 2, changes: vec![("h".into(), Some(entry))] });
        let known = ledger.clone();
        ledger.apply(&Record::Fixed { version: 2, changes: vec![("h".into(), None)] });
        ledger.apply(&Record::Settled { version: 1 });
        assert_eq!(ledger, known);
    }
}
