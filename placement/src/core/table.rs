//! The table of one round: which hosts run which actor types.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::host::Entry;

/// A fixed table. Two streams that hold the same version hold the same table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The round that fixed it; 0 before the first round.
    pub version: u64,
    /// Hosts by name; none is without actor types.
    pub hosts: BTreeMap<Arc<str>, Arc<Entry>>,
}

impl Table {
    /// The table turned around: actor type → hosts, as sidecars read it.
    pub fn by_type(&self) -> BTreeMap<&Arc<str>, Vec<(&Arc<str>, &Entry)>> {
        let mut types: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, entry) in &self.hosts {
            for entity in &entry.entities {
                types.entry(entity).or_default().push((name, entry.as_ref()));
            }
        }
        types
    }
}
