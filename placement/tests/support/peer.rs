//! The peer that a 1.18 sidecar is known by: its certificate has an Ed25519 key. From a real handshake,
//! since nothing else makes one.

mod svid;

use std::sync::{Arc, OnceLock};

use identity::client::Connector;
use identity::server::Incoming;
use identity::{Peer, PeerRule, SpiffeId, TrustAnchors, tls};
use testkit::ca::TestCa;
use tokio::sync::watch;
use tower::ServiceExt;

use svid::svid;

const PLACEMENT: &str = "spiffe://cluster.local/ns/dapr-system/dapr-placement";
const SIDECAR: &str = "spiffe://public/ns/default/app";

/// The same one for all.
pub fn of_v118() -> Peer {
    static PEER: OnceLock<Peer> = OnceLock::new();
    // A thread of its own: the caller may be in a runtime whose time stands still.
    let made = || std::thread::spawn(handshake).join().expect("the handshake succeeds");
    PEER.get_or_init(made).clone()
}

fn handshake() -> Peer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let ca = TestCa::new();
        let anchors = Arc::new(TrustAnchors::parse(ca.root_pem()).expect("a root"));
        let (_keep, anchors) = watch::channel(Some(anchors));
        let server = tls::server_mtls(svid(&ca, PLACEMENT), anchors.clone(), PeerRule::AnySpiffeId);
        let expected = PeerRule::Exactly(SpiffeId::parse(PLACEMENT).expect("a name"));
        let client = tls::client_mtls(svid(&ca, SIDECAR), anchors, expected);
        let mut incoming = Incoming::bind(([127, 0, 0, 1], 0).into(), Some(server)).await.expect("a port");
        let address = incoming.local_addr().expect("bound");
        let uri: http::Uri = format!("http://{address}").parse().expect("a URL");
        let (connection, dialed) = tokio::join!(incoming.accept(), Connector::new(Some(client)).oneshot(uri));
        drop(dialed.expect("the server is placement"));
        connection.peer().clone()
    })
}
