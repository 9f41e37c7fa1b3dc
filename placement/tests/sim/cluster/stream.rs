//! One stream of a sidecar: the real service at one end, the scheduler at the other, messages encoded
//! as on the wire between them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use identity::Peer;
use placement::core::{Entry, Generation, Operation, Order, StreamId, Table};
use placement::grpc::PlacementService;
use prost::Message as _;
use proto::placement::v1::{Host as WireHost, PlacementOrder, PlacementTables};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::world::Report;
use crate::sidecar::Sidecar;

const METHOD: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";
const PREFIX: usize = 5;

/// What the sidecar sends goes in here; dropping it half-closes the stream.
pub type Up = mpsc::UnboundedSender<WireHost>;

/// Opens a stream and reports what comes from it; runs until the stream ends.
pub async fn carry(
    mut service: PlacementService,
    (stream, peer): (StreamId, Option<Peer>),
    messages: mpsc::UnboundedReceiver<WireHost>,
    reports: mpsc::UnboundedSender<Report>,
) {
    let frames = UnboundedReceiverStream::new(messages).map(|host| Ok::<_, Infallible>(Frame::data(encode(&host))));
    let mut request = http::Request::post(METHOD)
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .body(Body::new(StreamBody::new(frames)))
        .expect("a request");
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    let response = match service.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let mut body = response.into_body();
    let mut lost = false;
    while let Some(Ok(frame)) = body.frame().await {
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(end) => {
                let status = end.trailers_ref().and_then(Status::from_header_map);
                lost = status.is_some_and(|status| status.message() == "lost leadership");
                break;
            }
        };
        while data.len() >= PREFIX {
            let length = u32::from_be_bytes([data[1], data[2], data[3], data[4]]) as usize;
            let message = data.split_to(PREFIX + length).split_off(PREFIX);
            let order = order(PlacementOrder::decode(message).expect("an order"));
            drop(reports.send(Report::Ordered(stream, order)));
        }
    }
    drop(reports.send(Report::Ended(stream, lost)));
}

fn encode(host: &WireHost) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + host.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(host.encoded_len()).expect("it is small"));
    bytes.extend_from_slice(&host.encode_to_vec());
    bytes.freeze()
}

fn order(wire: PlacementOrder) -> Order {
    match wire.operation.as_str() {
        "lock" => Order::Lock(wire.version),
        "unlock" => Order::Unlock(wire.version),
        _ => update(wire.version, wire.tables.expect("an update has tables")),
    }
}

/// A table, or its types without hosts: those are put under a host that nobody is.
fn update(version: u64, tables: PlacementTables) -> Order {
    let without_hosts = tables.entries.values().any(|hosts| hosts.load_map.is_empty());
    if !without_hosts {
        return Order::Update(Arc::new(table(version, tables)));
    }
    let entities = tables.entries.into_keys().map(Arc::from).collect();
    let nobody = Entry { id: "nobody".into(), port: 0, api_level: 0, entities };
    Order::Types(Arc::new(Table { version, hosts: BTreeMap::from([("nobody".into(), Arc::new(nobody))]) }))
}

/// The table turned around again: host → actor types.
fn table(version: u64, tables: PlacementTables) -> Table {
    let mut hosts: BTreeMap<Arc<str>, Entry> = BTreeMap::new();
    for (actor_type, types) in tables.entries {
        for (name, host) in types.load_map {
            let entry = hosts.entry(name.into()).or_insert_with(|| Entry {
                id: host.id.into(),
                port: host.port,
                api_level: 0,
                entities: Vec::new(),
            });
            entry.entities.push(actor_type.as_str().into());
        }
    }
    Table { version, hosts: hosts.into_iter().map(|(name, entry)| (name, Arc::new(entry))).collect() }
}

/// What a sidecar says of itself: first, at a change, and 1.16 every second.
pub fn report(sidecar: &Sidecar, namespace: &str) -> WireHost {
    let operation = i32::from(sidecar.generation != Generation::V116);
    WireHost {
        name: sidecar.name.to_string(),
        id: sidecar.name.to_string(),
        namespace: namespace.to_owned(),
        entities: sidecar.types.iter().map(ToString::to_string).collect(),
        api_level: 20,
        operation,
        ..WireHost::default()
    }
}

/// The acknowledgement of an order.
pub fn acknowledgement(sidecar: &Sidecar, namespace: &str, what: (Operation, u64)) -> WireHost {
    let operation = match what.0 {
        Operation::Lock => 2,
        Operation::Update => 3,
        _ => 4,
    };
    WireHost {
        id: sidecar.name.to_string(),
        namespace: namespace.to_owned(),
        operation,
        version: Some(what.1),
        ..WireHost::default()
    }
}
