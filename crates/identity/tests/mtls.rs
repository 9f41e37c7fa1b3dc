//! Handshakes and gRPC calls between our own servers and clients, over real sockets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use identity::{Alpn, AnchorsRx, LeafKey, PeerRule, SpiffeId, SvidRx, client, peer, server::Incoming, tls};
use proto::sentry::v1::{
    SignCertificateRequest, SignCertificateResponse,
    ca_client::CaClient,
    ca_server::{Ca as CaService, CaServer},
};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use support::{Ca, DEADLINE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{Code, Request, Response, Status, transport::Server};

const PLACEMENT: &str = "spiffe://cluster.local/ns/dapr-system/dapr-placement";
const CART: &str = "spiffe://public/ns/shop/cart";

/// Answers who the caller is, using a service this crate knows anyway.
struct WhoAmI;

#[tonic::async_trait]
impl CaService for WhoAmI {
    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        let id = peer::id_of(&request).map_err(|error| Status::unauthenticated(error.to_string()))?;
        let key = peer::of(&request).and_then(identity::Peer::key_kind);
        assert_eq!(key, Some(LeafKey::Ed25519));
        Ok(Response::new(SignCertificateResponse {
            workload_certificate: id.to_string().into_bytes(),
            ..SignCertificateResponse::default()
        }))
    }
}

async fn serve(tasks: &mut JoinSet<()>, tls: impl Into<Option<Arc<ServerConfig>>>) -> SocketAddr {
    let incoming = Incoming::bind(([127, 0, 0, 1], 0).into(), tls.into()).await.unwrap();
    serve_on(tasks, incoming)
}

fn serve_on(tasks: &mut JoinSet<()>, incoming: Incoming) -> SocketAddr {
    let addr = incoming.local_addr().unwrap();
    tasks.spawn(async move {
        let server = Server::builder().add_service(CaServer::new(WhoAmI));
        server.serve_with_incoming(incoming).await.unwrap();
    });
    addr
}

async fn who_am_i(addr: SocketAddr, tls: impl Into<Option<Arc<ClientConfig>>>) -> Result<String, Status> {
    let mut client = CaClient::new(client::channel(&addr.to_string(), tls.into()).unwrap());
    let call = client.sign_certificate(SignCertificateRequest::default());
    let response = timeout(DEADLINE, call).await.expect("an answer")?.into_inner();
    Ok(String::from_utf8(response.workload_certificate).unwrap())
}

fn exactly(id: &str) -> PeerRule {
    PeerRule::Exactly(SpiffeId::parse(id).unwrap())
}

fn server_of(ca: &Ca, rule: PeerRule) -> Arc<ServerConfig> {
    tls::server_mtls(ca.svid_rx(PLACEMENT), ca.anchors_rx(), rule)
}

fn client_of(ca: &Ca, id: &str) -> Arc<ClientConfig> {
    tls::client_mtls(ca.svid_rx(id), ca.anchors_rx(), exactly(PLACEMENT))
}

#[tokio::test]
async fn a_server_knows_its_caller_by_certificate() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let addr = serve(&mut tasks, server_of(&ca, PeerRule::AnySpiffeId)).await;
    assert_eq!(who_am_i(addr, client_of(&ca, CART)).await.unwrap(), CART);
}

#[tokio::test]
async fn a_name_of_another_shape_passes_the_handshake_but_is_no_identity() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let addr = serve(&mut tasks, server_of(&ca, PeerRule::AnySpiffeId)).await;
    // Our own SVIDs always are Dapr identities; dial with one that is not, by hand.
    let key = support::new_key(&rcgen::PKCS_ED25519);
    let chain = ca.chain(&support::leaf("spiffe://public/shop"), &key);
    let provider = Arc::clone(tls::provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(support_verifier::Anyone))
        .with_client_auth_cert(chain, support::private(&key))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let status = who_am_i(addr, Arc::new(config)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.message(), "malformed SPIFFE ID: spiffe://public/shop");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let addr = serve(&mut tasks, server_of(&ca, PeerRule::AnySpiffeId)).await;
    let nobody = tls::client_anonymous(ca.anchors_rx(), exactly(PLACEMENT));
    let status = who_am_i(addr, nobody).await.unwrap_err();
    // The service would have answered `Unauthenticated`: it was not reached.
    assert_ne!(status.code(), Code::Unauthenticated, "{status:?}");
}

#[tokio::test]
async fn plaintext_is_refused_where_tls_is_served() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let addr = serve(&mut tasks, server_of(&ca, PeerRule::AnySpiffeId)).await;
    let status = who_am_i(addr, None).await.unwrap_err();
    assert_ne!(status.code(), Code::Unauthenticated, "{status:?}");
    who_am_i(addr, client_of(&ca, CART)).await.unwrap();
}

#[tokio::test]
async fn plaintext_callers_of_a_plaintext_server_are_nobody() {
    let mut tasks = JoinSet::new();
    let addr = serve(&mut tasks, None).await;
    let status = who_am_i(addr, None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.message(), "peer presented no certificate");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_both_ways() {
    let (ca, other, mut tasks) = (Ca::new("a"), Ca::new("a"), JoinSet::new());
    let addr = serve(&mut tasks, server_of(&ca, PeerRule::AnySpiffeId)).await;
    let stranger = tls::client_mtls(other.svid_rx(CART), ca.anchors_rx(), exactly(PLACEMENT));
    who_am_i(addr, stranger).await.unwrap_err();
    let distrusting = tls::client_mtls(ca.svid_rx(CART), other.anchors_rx(), exactly(PLACEMENT));
    let status = who_am_i(addr, distrusting).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_refused() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let somebody = tls::server_mtls(ca.svid_rx(CART), ca.anchors_rx(), PeerRule::AnySpiffeId);
    let addr = serve(&mut tasks, somebody).await;
    let status = who_am_i(addr, client_of(&ca, CART)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_server_may_admit_one_identity_only() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let addr = serve(&mut tasks, server_of(&ca, exactly(PLACEMENT))).await;
    who_am_i(addr, client_of(&ca, CART)).await.unwrap_err();
    assert_eq!(who_am_i(addr, client_of(&ca, PLACEMENT)).await.unwrap(), PLACEMENT);
}

#[tokio::test]
async fn new_anchors_and_a_new_svid_count_from_the_next_handshake_on() {
    let (old, new, mut tasks) = (Ca::new("old"), Ca::new("new"), JoinSet::new());
    let (anchors_tx, anchors): (_, AnchorsRx) = watch::channel(Some(Arc::new(old.anchors())));
    let (svid_tx, svid): (_, SvidRx) = watch::channel(Some(Arc::new(old.svid(PLACEMENT))));
    let config = tls::server_mtls(svid, anchors, PeerRule::AnySpiffeId);
    let addr = serve(&mut tasks, config).await;
    let (of_old, of_new) = (client_of(&old, CART), client_of(&new, CART));
    who_am_i(addr, of_old.clone()).await.unwrap();
    who_am_i(addr, of_new.clone()).await.unwrap_err();

    anchors_tx.send_replace(Some(Arc::new(new.anchors())));
    svid_tx.send_replace(Some(Arc::new(new.svid(PLACEMENT))));
    // The same client configuration as before: had its session been resumed, it would pass.
    who_am_i(addr, of_old).await.unwrap_err();
    who_am_i(addr, of_new).await.unwrap();
}

#[tokio::test]
async fn nothing_is_served_before_there_is_an_svid() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let (_svid_tx, none): (_, SvidRx) = watch::channel(None);
    let config = tls::server_mtls(none, ca.anchors_rx(), PeerRule::AnySpiffeId);
    let addr = serve(&mut tasks, config).await;
    who_am_i(addr, client_of(&ca, CART)).await.unwrap_err();
}

#[tokio::test]
async fn silent_clients_delay_nobody() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let addr = serve(&mut tasks, server_of(&ca, PeerRule::AnySpiffeId)).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        // The beginning of a TLS record that never ends.
        tcp.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
        silent.push(tcp);
    }
    let answer = timeout(Duration::from_secs(5), who_am_i(addr, client_of(&ca, CART))).await;
    assert_eq!(answer.expect("not behind the silent ones").unwrap(), CART);
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_ended() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let tls = server_of(&ca, PeerRule::AnySpiffeId);
    let incoming = Incoming::bind(([127, 0, 0, 1], 0).into(), Some(tls)).await.unwrap();
    let limit = Duration::from_millis(100);
    let addr = serve_on(&mut tasks, incoming.handshake_limit(limit));
    let mut silent = TcpStream::connect(addr).await.unwrap();
    let mut rest = Vec::new();
    let read = timeout(DEADLINE, silent.read_to_end(&mut rest)).await;
    assert_eq!(read.expect("closed by the server").unwrap(), 0);
}

async fn negotiated(addr: SocketAddr, ca: &Ca, offer: &[&[u8]]) -> std::io::Result<Option<Vec<u8>>> {
    let config = tls::client_mtls(ca.svid_rx(CART), ca.anchors_rx(), exactly(PLACEMENT));
    let mut config = ClientConfig::clone(&config);
    config.alpn_protocols = offer.iter().map(|name| name.to_vec()).collect();
    let tcp = TcpStream::connect(addr).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    Ok(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
}

#[tokio::test]
async fn grpc_servers_negotiate_h2_and_nothing_else() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let addr = serve(&mut tasks, server_of(&ca, PeerRule::AnySpiffeId)).await;
    assert_eq!(negotiated(addr, &ca, &[b"h2"]).await.unwrap(), Some(b"h2".to_vec()));
    let both = negotiated(addr, &ca, &[b"http/1.1", b"h2"]).await.unwrap();
    assert_eq!(both, Some(b"h2".to_vec()));
    negotiated(addr, &ca, &[b"http/1.1"]).await.unwrap_err();
}

#[tokio::test]
async fn a_client_refuses_a_server_that_does_not_negotiate_h2() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let mut config = ServerConfig::clone(&server_of(&ca, PeerRule::AnySpiffeId));
    config.alpn_protocols.clear();
    let addr = serve(&mut tasks, Arc::new(config)).await;
    let status = who_am_i(addr, client_of(&ca, CART)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("ALPN"), "{status:?}");
}

#[tokio::test]
async fn no_session_is_resumed_even_for_a_client_that_would() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let addr = serve(&mut tasks, server_of(&ca, PeerRule::AnySpiffeId)).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(support_verifier::Anyone))
            .with_client_cert_resolver(Arc::clone(&client_of(&ca, CART).client_auth_cert_resolver));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        for _ in 0..2 {
            let tcp = TcpStream::connect(addr).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = connector.connect(name, tcp).await.unwrap();
            // The server speaks first in HTTP/2; tickets would come before that.
            let mut settings = [0; 1];
            timeout(DEADLINE, stream.read_exact(&mut settings)).await.unwrap().unwrap();
            let kind = stream.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full), "{version:?}");
        }
    }
}

#[tokio::test]
async fn webhook_servers_ask_for_no_certificate_and_speak_http1_too() {
    let (ca, mut tasks) = (Ca::new("a"), JoinSet::new());
    let config = tls::server_auth_only(ca.svid_rx(PLACEMENT), Alpn::H2OrHttp11);
    let addr = serve(&mut tasks, config).await;
    let nobody = tls::client_anonymous(ca.anchors_rx(), exactly(PLACEMENT));
    let status = who_am_i(addr, nobody).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "served, but anonymous");
    let http1 = negotiated(addr, &ca, &[b"http/1.1"]).await.unwrap();
    assert_eq!(http1, Some(b"http/1.1".to_vec()));
}

#[test]
fn addresses_are_host_and_port() {
    for good in ["localhost:50001", "[::1]:50001", "dapr-sentry.dapr-system.svc.cluster.local:443"] {
        assert!(client::endpoint(good).is_ok(), "{good}");
    }
    for bad in ["", "localhost", ":443", "a b:1", "host:1/path", "host:1?x", "host:99999"] {
        assert!(client::endpoint(bad).is_err(), "{bad:?}");
    }
}

mod support_verifier {
    //! A client that believes anyone, to reach a server with odd certificates.

    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    };
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    pub struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }
    }
}
