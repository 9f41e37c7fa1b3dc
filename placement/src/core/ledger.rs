//! The replicated memory of one namespace: the last fixed table and whether it reached everyone.
//!
//! Raft's state machine applies [`Record`]s to it in log order; a new leader starts its
//! [`super::Dissemination`] from it. Versions never fall, whatever the order of leaders.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::Record;
use super::host::Entry;
use super::resume::{Hosts, common};

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
    /// While it did not reach everyone: what the tables have in common that some may still work by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<BTreeMap<Arc<str>, Arc<Entry>>>,
}

impl Ledger {
    /// What all tables have in common that some may work by once another one is fixed after `hosts`.
    pub(super) fn before_another(settled: Settled, before: Option<Hosts>, hosts: &Hosts) -> Option<Hosts> {
        match settled {
            Settled::Yes => Some(hosts.clone()),
            Settled::No => before.map(|before| common(&before, hosts)),
        }
    }

    /// Applies a record. A record of an older version (proposed by a deposed leader) is ignored.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Fixed { version, changes } if *version > self.version => {
                self.version = *version;
                self.before = Self::before_another(self.settled, self.before.take(), &self.hosts);
                self.settled = Settled::No;
                for (name, entry) in changes {
                    match entry {
                        Some(entry) => drop(self.hosts.insert(name.clone(), Arc::new(entry.clone()))),
                        None => drop(self.hosts.remove(name)),
                    }
                }
            }
            Record::Settled { version } if *version == self.version => {
                self.settled = Settled::Yes;
                self.before = None;
            }
            Record::Fixed { .. } | Record::Settled { .. } => {}
        }
    }
}
