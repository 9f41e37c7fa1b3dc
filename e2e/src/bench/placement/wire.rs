//! Orders read without building them: a table of a thousand hosts is only counted, and a thousand
//! sidecars of one process can each read theirs.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use proto::placement::v1::{Host, HostOperation};

/// gRPC's prefix of a message: whether it is compressed, then its length.
const PREFIX: usize = 5;

/// How large a table is: types, and hosts of the type that has most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Actor types.
    pub types: usize,
    /// Hosts.
    pub hosts: usize,
}

/// What an order says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Lock, update or unlock.
    pub operation: HostOperation,
    /// The version of the round.
    pub version: u64,
    /// Of the table; that of none is zero.
    pub table: Size,
}

/// A message as a gRPC frame.
pub fn frame(host: &Host) -> Bytes {
    let body = host.encode_to_vec();
    let mut frame = BytesMut::with_capacity(PREFIX + body.len());
    frame.extend_from_slice(&[0]);
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&body);
    frame.freeze()
}

/// Takes the first whole message out of what was received.
pub fn split(received: &mut BytesMut) -> Option<BytesMut> {
    let length: [u8; 4] = received.get(1..PREFIX)?.try_into().ok()?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    if received.len() < PREFIX + length {
        return None;
    }
    received.advance(PREFIX);
    Some(received.split_to(length))
}

/// Reads an order; nothing if it is none.
pub fn order(message: &[u8]) -> Option<Order> {
    let (mut operation, mut version, mut table) = (None, 0, Size::default());
    for field in fields(message) {
        match field? {
            (1, Value::Bytes(tables)) => table = size(tables)?,
            (2, Value::Bytes(b"lock")) => operation = Some(HostOperation::Lock),
            (2, Value::Bytes(b"update")) => operation = Some(HostOperation::Update),
            (2, Value::Bytes(b"unlock")) => operation = Some(HostOperation::Unlock),
            (3, Value::Number(number)) => version = number,
            _ => {}
        }
    }
    Some(Order { operation: operation?, version, table })
}

fn size(tables: &[u8]) -> Option<Size> {
    let mut size = Size::default();
    for entry in fields(tables) {
        let (1, Value::Bytes(entry)) = entry? else { continue };
        size.types += 1;
        for part in fields(entry) {
            if let (2, Value::Bytes(table)) = part? {
                size.hosts = size.hosts.max(hosts(table)?);
            }
        }
    }
    Some(size)
}

fn hosts(table: &[u8]) -> Option<usize> {
    let mut count = 0;
    for field in fields(table) {
        if let (3, Value::Bytes(_)) = field? {
            count += 1;
        }
    }
    Some(count)
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; `None` in place of one that cannot be read.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Option<(u32, Value<'_>)>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let (tag, wire_type) = decode_key(rest).ok()?;
    let number = decode_varint(rest).ok()?;
    match wire_type {
        WireType::Varint => Some((tag, Value::Number(number))),
        WireType::LengthDelimited => {
            let (bytes, after) = rest.split_at_checked(usize::try_from(number).ok()?)?;
            *rest = after;
            Some((tag, Value::Bytes(bytes)))
        }
        // Orders have no other fields.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proto::placement::v1::{PlacementOrder, PlacementTable, PlacementTables};

    use super::*;

    fn update(types: &[(&str, usize)]) -> Vec<u8> {
        let table = |hosts: usize| {
            let host = |n: usize| (format!("10.0.0.{n}:50002"), Host { id: "app".into(), ..Host::default() });
            PlacementTable { load_map: (0..hosts).map(host).collect(), ..PlacementTable::default() }
        };
        let tables = PlacementTables {
            entries: types.iter().map(|&(name, hosts)| (name.to_owned(), table(hosts))).collect(),
            version: "300".into(),
            api_level: 0,
            replication_factor: 100,
        };
        PlacementOrder { tables: Some(tables), operation: "update".into(), version: 300 }.encode_to_vec()
    }

    #[test]
    fn a_table_is_counted_by_its_largest_type() {
        let read = order(&update(&[("a", 3), ("b", 200), ("c", 1)])).unwrap();
        let table = Size { types: 3, hosts: 200 };
        assert_eq!(read, Order { operation: HostOperation::Update, version: 300, table });
    }

    #[test]
    fn a_lock_has_a_version_and_no_table() {
        let lock = PlacementOrder { tables: None, operation: "lock".into(), version: 7 }.encode_to_vec();
        let expected = Order { operation: HostOperation::Lock, version: 7, table: Size::default() };
        assert_eq!(order(&lock), Some(expected));
    }

    #[test]
    fn half_a_message_is_no_order() {
        let whole = update(&[("a", 3)]);
        assert_eq!(order(&whole[..whole.len() - 20]), None);
        assert_eq!(order(b""), None);
    }

    #[test]
    fn messages_are_split_where_they_end() {
        let host = Host { id: "app".into(), ..Host::default() };
        let one = frame(&host);
        let mut received = BytesMut::from([&one[..], &one[..4]].concat().as_slice());
        assert_eq!(Host::decode(split(&mut received).unwrap().freeze()).unwrap(), host);
        assert!(split(&mut received).is_none());
        received.extend_from_slice(&one[4..]);
        assert_eq!(split(&mut received).unwrap().len(), one.len() - PREFIX);
        assert!(received.is_empty());
    }
}
