//! On each stream LOCK, UPDATE and UNLOCK come in pairs and in order, whichever replica sends them; 1.16
//! never gets a second LOCK.

use super::world::{Cluster, Seen};
use super::{Chaos, Fault, Invariant, catches, holds};

pub struct Orders;

impl Invariant for Orders {
    fn check(&mut self, cluster: &Cluster, _: &Seen) -> Result<(), String> {
        let violation = cluster.members.iter().find_map(|m| m.sidecar.violation.clone());
        violation.map_or(Ok(()), Err)
    }
}

#[test]
fn orders_are_paired_on_every_stream_of_a_cluster() {
    holds("orders");
}

#[test]
fn a_second_lock_to_a_1_16_sidecar_of_a_cluster_is_noticed() {
    catches("orders", (Fault::SecondLock, Chaos::Everything), 20);
}
