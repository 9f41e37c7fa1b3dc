//! The version of a namespace never goes back: neither in the tables that are given out, nor in a
//! replica's ledger while it keeps its disk; also across failovers and full stops.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::world::{Cluster, Seen};
use super::{Chaos, Fault, Invariant, catches, holds};

#[derive(Default)]
pub struct NeverFalls {
    given: BTreeMap<&'static str, u64>,
    folded: BTreeMap<(usize, Arc<str>), u64>,
}

impl Invariant for NeverFalls {
    fn check(&mut self, cluster: &Cluster, seen: &Seen) -> Result<(), String> {
        match seen {
            Seen::Given { namespace, version } => {
                let highest = self.given.entry(namespace).or_default();
                if version < highest {
                    return Err(format!("table {version} of {namespace} was given out after {highest}"));
                }
                *highest = *version;
            }
            Seen::Forgot(replica) => self.folded.retain(|(of, _), _| of != replica),
            Seen::Look => {
                for (replica, ledgers) in cluster.ledgers() {
                    self.fold(replica, &ledgers)?;
                }
            }
            Seen::Nothing | Seen::Led | Seen::Moved => {}
        }
        Ok(())
    }
}

impl NeverFalls {
    fn fold(&mut self, replica: usize, ledgers: &placement::raft::Ledgers) -> Result<(), String> {
        for (namespace, ledger) in ledgers {
            let last = self.folded.entry((replica, namespace.clone())).or_default();
            if ledger.version < *last {
                return Err(format!("replica {replica} went from {last} to {} in {namespace}", ledger.version));
            }
            *last = ledger.version;
        }
        Ok(())
    }
}

#[test]
fn a_version_never_goes_back() {
    holds("version");
}

#[test]
fn a_cluster_that_loses_every_disk_at_once_is_noticed() {
    catches("version", (Fault::EveryDiskLost, Chaos::Everything), 100);
}
