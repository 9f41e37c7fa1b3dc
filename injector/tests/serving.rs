//! The webhook's door: TLS, hostile connections, and how it closes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use identity::server::Incoming;
use injector::{
    departure::Arrivals,
    webhook::{router, serve},
};
use runtime::{BoxError, CancellationToken, metrics::Registry};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use support::{anchors, chart_env, config, not_found, webhook};
use testkit::{ca::TestCa, wait_until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const NAME: &str = "dapr-sidecar-injector.dapr-system.svc";
const DEADLINE: Duration = Duration::from_secs(10);

struct Server {
    address: SocketAddr,
    client: Arc<ClientConfig>,
    stop: CancellationToken,
    registry: Arc<Registry>,
    task: JoinSet<Result<(), BoxError>>,
}

async fn start() -> Server {
    let ca = TestCa::new();
    let leaf = ca.leaf("spiffe://cluster.local/ns/dapr-system/dapr-injector", |params| {
        params.subject_alt_names.push(rcgen::SanType::DnsName(NAME.try_into().unwrap()));
    });
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(leaf.chain_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.root_pem().as_bytes()).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());

    let config = config(&chart_env(), &[]).unwrap();
    let (webhook, registry) = webhook(&config, anchors(&ca.root_pem()), Arc::new(|_, _| not_found()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = Incoming::new(listener, Some(Arc::new(server)));
    let stop = CancellationToken::new();
    let mut task = JoinSet::new();
    task.spawn(serve(incoming, router(webhook), Arrivals::default(), stop.clone()));
    Server { address, client, stop, registry, task }
}

impl Server {
    async fn connect(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        TlsConnector::from(self.client.clone()).connect(name, tcp).await.unwrap()
    }

    async fn ended(&mut self) {
        tokio::time::timeout(DEADLINE, self.task.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    }

    fn requests(&self) -> bool {
        let text = runtime::metrics::exposition(&self.registry).unwrap();
        text.contains("dapr_injector_sidecar_injection_requests_total 1")
    }
}

const BODY: &str = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","kind":{"kind":"Pod"},"object":{}}}"#;

fn head() -> String {
    format!(
        "POST /mutate?timeout=10s HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        BODY.len()
    )
}

async fn read_answer(stream: &mut TlsStream<TcpStream>) -> String {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    while !text.ends_with(b"}") {
        match tokio::time::timeout(DEADLINE, stream.read(&mut part)).await.unwrap() {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&part[..length]),
            Err(error) => panic!("{error}, after {:?}", String::from_utf8_lossy(&text)),
        }
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_review_is_answered_under_the_name_the_api_server_uses() {
    let mut server = start().await;
    let mut stream = server.connect().await;
    stream.write_all((head() + BODY).as_bytes()).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains(r#""allowed":true"#), "{answer}");
    server.stop.cancel();
    server.ended().await;
}

#[tokio::test]
async fn a_request_under_way_is_finished_and_new_connections_are_refused() {
    let mut server = start().await;
    let mut busy = server.connect().await;
    let mut idle = server.connect().await;
    busy.write_all(head().as_bytes()).await.unwrap();
    busy.write_all(&BODY.as_bytes()[..10]).await.unwrap();
    wait_until("the request has begun", DEADLINE, async || server.requests().then_some(())).await;
    server.stop.cancel();
    let address = server.address;
    wait_until("the door is closed", DEADLINE, async || TcpStream::connect(address).await.is_err().then_some(())).await;
    assert_eq!(idle.read(&mut [0; 16]).await.unwrap_or(0), 0, "an idle connection is closed");
    busy.write_all(&BODY.as_bytes()[10..]).await.unwrap();
    let answer = read_answer(&mut busy).await;
    assert!(answer.contains(r#""allowed":true"#), "{answer}");
    server.ended().await;
}

#[tokio::test]
async fn connections_that_speak_no_tls_or_no_http_harm_nobody() {
    let server = start().await;
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"POST /mutate HTTP/1.1\r\n\r\n").await.unwrap();
    let silent = TcpStream::connect(server.address).await.unwrap();
    let mut garbage = server.connect().await;
    garbage.write_all(b"\x00\x01\x02 nonsense\r\n\r\n").await.unwrap();
    let mut half = server.connect().await;
    half.write_all(b"POST /mutate HT").await.unwrap();
    drop(half);
    let mut stream = server.connect().await;
    stream.write_all((head() + BODY).as_bytes()).await.unwrap();
    assert!(read_answer(&mut stream).await.contains(r#""allowed":true"#));
    drop(silent);
}
