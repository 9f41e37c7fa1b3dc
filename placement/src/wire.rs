//! Between wire messages and the core: what a `Host` says, what an order looks like encoded.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use proto::placement::v1::{Host as WireHost, HostOperation, PlacementOrder, PlacementTable, PlacementTables};

use crate::core::{Claim, Entry, Host, Message, Operation, Order, Table};

/// gRPC's prefix of a message: not compressed, then its length.
const PREFIX: usize = 5;

/// The operation of a message.
pub fn operation(host: &WireHost) -> Operation {
    match HostOperation::try_from(host.operation) {
        Ok(HostOperation::Unknown) => Operation::Unknown,
        Ok(HostOperation::Report) => Operation::Report,
        Ok(HostOperation::Lock) => Operation::Lock,
        Ok(HostOperation::Update) => Operation::Update,
        Ok(HostOperation::Unlock) => Operation::Unlock,
        Err(_) => Operation::Other,
    }
}

/// What the authorization rules look at.
pub fn claim(host: &WireHost) -> Claim<'_> {
    Claim {
        app_id: &host.id,
        namespace: &host.namespace,
        operation: operation(host),
        versioned: host.version.is_some(),
        entities: &host.entities,
    }
}

/// The host that a first message introduces.
pub fn host(wire: &WireHost) -> Host {
    let entities = wire.entities.iter().map(|e| e.as_str().into()).collect();
    let (name, id) = (wire.name.as_str().into(), wire.id.as_str().into());
    Host { name, id, port: wire.port, api_level: wire.api_level, entities }.normalised()
}

/// A later message. Acknowledgements carry no entities worth keeping.
pub fn message(wire: WireHost) -> Message {
    let operation = operation(&wire);
    let entities = wire.entities.into_iter().map(Arc::from).collect();
    Message { operation, version: wire.version, entities }
}

/// Encodes an order as a gRPC message, ready to be shared by all streams it goes to.
pub fn frame(order: &Order, replication_factor: i64) -> Bytes {
    let (operation, tables) = match order {
        Order::Lock(_) => ("lock", None),
        Order::Unlock(_) => ("unlock", None),
        Order::Types(table) => ("update", Some(without_hosts(tables(table, replication_factor)))),
        Order::Update(table) => ("update", Some(tables(table, replication_factor))),
    };
    let wire = PlacementOrder { tables, operation: operation.to_owned(), version: order.version() };
    let length = wire.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.extend_from_slice(&wire.encode_to_vec());
    bytes.freeze()
}

/// Only what sidecars read: name, id and port, under each type (placement.md §15 W18).
fn tables(table: &Table, replication_factor: i64) -> PlacementTables {
    let entries = table.by_type().into_iter().map(|(entity, hosts)| {
        let load_map = hosts.into_iter().map(|(name, entry)| (name.to_string(), table_host(name, entry))).collect();
        (entity.to_string(), PlacementTable { load_map, ..PlacementTable::default() })
    });
    PlacementTables {
        entries: entries.collect::<BTreeMap<_, _>>(),
        version: table.version.to_string(),
        api_level: 0,
        replication_factor,
    }
}

/// Each type with an empty load map: 1.18 takes it for a change, whatever it knows of the type.
fn without_hosts(mut tables: PlacementTables) -> PlacementTables {
    tables.entries.values_mut().for_each(|hosts| hosts.load_map.clear());
    tables
}

fn table_host(name: &str, entry: &Entry) -> WireHost {
    WireHost { name: name.to_owned(), id: entry.id.to_string(), port: entry.port, ..WireHost::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, entities: &[&str]) -> Arc<Entry> {
        let entities = entities.iter().map(|e| Arc::from(*e)).collect();
        Arc::new(Entry { id: id.into(), port: 0, api_level: 20, entities })
    }

    #[test]
    fn an_update_names_each_host_under_each_of_its_types_with_equal_key_and_name() {
        let hosts =
            BTreeMap::from([(Arc::from("h1:1"), entry("a", &["x", "y"])), (Arc::from("h2:1"), entry("b", &["y"]))]);
        let frame = frame(&Order::Update(Arc::new(Table { version: 7, hosts })), 100);
        assert_eq!(frame[0], 0);
        assert_eq!(frame[1..5], u32::try_from(frame.len() - 5).unwrap().to_be_bytes());
        let order = PlacementOrder::decode(&frame[5..]).unwrap();
        assert_eq!((order.operation.as_str(), order.version), ("update", 7));
        let tables = order.tables.unwrap();
        assert_eq!((tables.version.as_str(), tables.api_level, tables.replication_factor), ("7", 0, 100));
        let names =
            |t: &str| tables.entries[t].load_map.iter().map(|(k, h)| (k == &h.name, h.id.clone())).collect::<Vec<_>>();
        assert_eq!(names("x"), [(true, "a".into())]);
        assert_eq!(names("y"), [(true, "a".into()), (true, "b".into())]);
    }

    #[test]
    fn the_types_of_a_table_are_an_update_without_hosts() {
        let hosts = BTreeMap::from([(Arc::from("h1:1"), entry("a", &["x", "y"]))]);
        let order = frame(&Order::Types(Arc::new(Table { version: 7, hosts })), 100);
        let order = PlacementOrder::decode(&order[5..]).unwrap();
        assert_eq!((order.operation.as_str(), order.version), ("update", 7));
        let tables = order.tables.unwrap();
        assert_eq!((tables.version.as_str(), tables.replication_factor), ("7", 100));
        assert_eq!(tables.entries.keys().collect::<Vec<_>>(), ["x", "y"]);
        assert!(tables.entries.values().all(|hosts| hosts.load_map.is_empty()));
    }

    #[test]
    fn locks_and_unlocks_carry_the_version_and_no_table() {
        let order = PlacementOrder::decode(&frame(&Order::Lock(3), 100)[5..]).unwrap();
        assert_eq!((order.operation.as_str(), order.version, order.tables), ("lock", 3, None));
        let order = PlacementOrder::decode(&frame(&Order::Unlock(3), 100)[5..]).unwrap();
        assert_eq!((order.operation.as_str(), order.version, order.tables), ("unlock", 3, None));
    }

    #[test]
    fn an_empty_table_still_carries_version_and_factor() {
        let order = PlacementOrder::decode(&frame(&Order::Update(Arc::new(Table::default())), 7)[5..]).unwrap();
        let tables = order.tables.unwrap();
        assert_eq!((tables.version.as_str(), tables.replication_factor, tables.entries.len()), ("0", 7, 0));
    }
}
