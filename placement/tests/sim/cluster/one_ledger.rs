//! All replicas fold the same ledger: the same version of a namespace means the same hosts, on every
//! replica and at any time.

use std::collections::BTreeMap;
use std::sync::Arc;

use placement::core::Entry;

use super::world::{Cluster, Seen};
use super::{Chaos, Fault, Invariant, catches, holds};

type Hosts = BTreeMap<Arc<str>, Arc<Entry>>;

#[derive(Default)]
pub struct OneLedger {
    known: BTreeMap<(Arc<str>, u64), (usize, Hosts)>,
}

impl Invariant for OneLedger {
    fn check(&mut self, cluster: &Cluster, seen: &Seen) -> Result<(), String> {
        if !matches!(seen, Seen::Look) {
            return Ok(());
        }
        for (replica, ledgers) in cluster.ledgers() {
            for (namespace, ledger) in ledgers {
                let version = ledger.version;
                let key = (namespace, version);
                let (first, hosts) = self.known.entry(key).or_insert_with(|| (replica, ledger.hosts.clone()));
                if *hosts != ledger.hosts {
                    return Err(format!("replicas {first} and {replica} disagree on table {version}"));
                }
            }
        }
        Ok(())
    }
}

#[test]
fn all_replicas_fold_the_same_ledger() {
    holds("one ledger");
}

#[test]
fn a_replica_that_writes_something_else_is_noticed() {
    catches("one ledger", (Fault::HollowLog, Chaos::Everything), 20);
}
