//! Rows of contract placement.md §14 that need certificates: who is let in, what placement shows of itself,
//! the election among three replicas, and W24 as 1.18 sees it.

#[path = "support/sentry.rs"]
mod sentry;
mod support;

use std::net::TcpListener;

use placement::args::Environment;
use proto::placement::v1::{Host, PlacementOrder};
use rustls::pki_types::ServerName;
use sentry::{Sentry, channel};
use support::{DEADLINE, Server, Stream, hosts_of, says};
use testkit::wait_until;
use tokio::net::TcpStream;
use tonic::{Code, Status};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The object identifier of Ed25519 keys.
const ED25519: &str = "1.3.101.112";
const APP: &str = "spiffe://public/ns/default/app";

fn app() -> Host {
    Host { name: "10.0.0.1:50002".into(), ..says::v117("app", &["a"]) }
}

async fn secured() -> (Sentry, Server) {
    let sentry = Sentry::start().await;
    let flags = sentry.flags();
    let server = Server::alone(&flags.each_ref().map(String::as_str)).await;
    (sentry, server)
}

/// What becomes of a stream that begins so.
async fn opened(sentry: &Sentry, server: &Server, first: Host) -> Result<(Stream, PlacementOrder), Status> {
    let channel = channel(server.placement.address.port(), Some(sentry.client(APP)));
    let mut stream = Stream::over(channel, first).await?;
    let order = stream.next().await?;
    assert_eq!(order.operation, "lock");
    Ok((stream, order))
}

/// Row: mTLS: matching id and namespace accepted.
#[tokio::test]
async fn a_sidecar_that_is_who_it_says_is_taken_through_a_round() {
    let (sentry, server) = secured().await;
    let (mut stream, lock) = opened(&sentry, &server, app()).await.expect("it is accepted");
    assert_eq!(lock.version, 1);
    stream.send(says::ack("app", &lock)).await;
    // W24: its key is Ed25519, so it is 1.18, and gets the types before the table.
    let types = stream.expect("update").await;
    assert_eq!(hosts_of(&types, "a"), [""; 0]);
    assert_eq!(types.tables.expect("tables").entries.keys().collect::<Vec<_>>(), ["a"]);
    let table = stream.expect("update").await;
    assert_eq!(hosts_of(&table, "a"), ["10.0.0.1:50002"]);
    for _ in 0..2 {
        stream.send(says::ack("app", &table)).await;
    }
    stream.expect("unlock").await;
}

/// Row: other id, missing namespace, or other namespace rejected.
#[tokio::test]
async fn a_sidecar_that_is_someone_else_is_refused() {
    let (sentry, server) = secured().await;
    let others = [
        (Host { id: "other".into(), ..app() }, Code::PermissionDenied),
        (Host { namespace: "elsewhere".into(), ..app() }, Code::PermissionDenied),
        (Host { namespace: String::new(), ..app() }, Code::InvalidArgument),
        (Host { id: String::new(), ..app() }, Code::InvalidArgument),
    ];
    for (first, code) in others {
        let refused = opened(&sentry, &server, first.clone()).await.err().map(|status| status.code());
        assert_eq!(refused, Some(code), "{first:?}");
    }
}

/// Row: a later message of someone else ends the stream (§4.1).
#[tokio::test]
async fn a_stream_that_becomes_someone_else_is_refused() {
    let (sentry, server) = secured().await;
    let (mut stream, _) = opened(&sentry, &server, app()).await.expect("it is accepted");
    stream.send(Host { id: "other".into(), ..app() }).await;
    assert_eq!(stream.next().await.expect_err("it ends").code(), Code::PermissionDenied);
}

/// Section 3: a client certificate is required.
#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let (sentry, server) = secured().await;
    let port = server.placement.address.port();
    for tls in [Some(sentry.anonymous()), None] {
        let stream = Stream::over(channel(port, tls), app()).await;
        assert!(stream.is_err(), "it was let in");
    }
}

/// Row: the serving certificate's public key is Ed25519, and its name is placement's.
#[tokio::test]
async fn the_serving_certificate_has_an_ed25519_key() {
    let (sentry, server) = secured().await;
    // The client accepts nothing but placement's name.
    let connector = tokio_rustls::TlsConnector::from(sentry.client(APP));
    let tcp = TcpStream::connect(server.placement.address).await.expect("it listens");
    let name = ServerName::try_from("placement").expect("a name");
    let tls = connector.connect(name, tcp).await.expect("a handshake");
    let (_, session) = tls.get_ref();
    let leaf = &session.peer_certificates().expect("a chain")[0];
    let (_, leaf) = X509Certificate::from_der(leaf).expect("a certificate");
    assert_eq!(leaf.public_key().algorithm.algorithm.to_id_string(), ED25519);
    assert_eq!(session.alpn_protocol(), Some(b"h2".as_slice()));
}

/// Three replicas find one leader.
async fn elect(sentry: &Sentry, environment: &Environment) {
    let reserved: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let address = |l: &TcpListener| l.local_addr().expect("bound").to_string();
    let peers: Vec<_> = reserved.iter().enumerate().map(|(i, l)| format!("p{i}={}", address(l))).collect();
    drop(reserved);
    let cluster = format!("--initial-cluster={}", peers.join(","));
    let mut servers = Vec::new();
    for index in 0..3 {
        let id = format!("--id=p{index}");
        let flags = sentry.flags();
        let [tls, anchors, address] = flags.each_ref().map(String::as_str);
        servers.push(Server::start_in(environment, &[&id, &cluster, tls, anchors, address]).await);
    }
    wait_until("one leader of three", 2 * DEADLINE, || async {
        let all = servers.iter().map(|server| server.placement.replica.status());
        let whole = all.into_iter().all(|status| status.voters == 3 && status.leader.is_some());
        (whole && servers.iter().filter(|server| server.leads()).count() == 1).then_some(())
    })
    .await;
}

/// Row: 3 peers elect a leader within 20 s with mTLS.
#[tokio::test]
async fn three_replicas_with_certificates_elect_a_leader() {
    let sentry = Sentry::start().await;
    elect(&sentry, &Environment::default()).await;
}

/// Row: … and with mTLS where tokens come from `DAPR_SENTRY_TOKEN_FILE`.
#[tokio::test]
async fn three_replicas_whose_tokens_are_in_a_file_elect_a_leader() {
    let sentry = Sentry::start().await;
    let token_file = Some(sentry.token_file("a token"));
    elect(&sentry, &Environment { token_file, ..Environment::default() }).await;
    assert_eq!(sentry.tokens(), ["a token"; 3]);
}
