//! A sentry in this process, real TLS and gRPC: it signs for whoever asks, if the token is the right one.

mod svid;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use identity::server::Incoming;
use identity::{Alpn, PeerRule, SpiffeId, TrustAnchors, client, tls};
use proto::sentry::v1::ca_server::{Ca, CaServer};
use proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use rcgen::{CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair, SanType};
use testkit::ca::TestCa;
use time::{Duration, OffsetDateTime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use svid::svid;

pub const PLACEMENT: &str = "spiffe://localhost/ns/default/dapr-placement";
const SENTRY: &str = "spiffe://localhost/ns/default/dapr-sentry";

/// The authority, and the sentry that signs with it.
pub struct Sentry {
    ca: Arc<TestCa>,
    address: SocketAddr,
    folder: tempfile::TempDir,
    /// Tokens that were presented.
    tokens: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

struct Signer {
    ca: Arc<TestCa>,
    tokens: Arc<Mutex<Vec<String>>>,
}

impl Sentry {
    pub async fn start() -> Self {
        let (ca, tokens) = (Arc::new(TestCa::new()), Arc::<Mutex<_>>::default());
        let config = tls::server_auth_only(svid(&ca, SENTRY), Alpn::H2);
        let incoming = Incoming::bind(([127, 0, 0, 1], 0).into(), Some(config)).await.expect("a port");
        let address = incoming.local_addr().expect("bound");
        let service = CaServer::new(Signer { ca: ca.clone(), tokens: tokens.clone() });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            Server::builder().add_service(service).serve_with_incoming(incoming).await.expect("it serves");
        });
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.crt"), ca.root_pem()).expect("a file");
        Self { ca, address, folder, tokens, _tasks: tasks }
    }

    /// The flags of a placement that has its certificate from here.
    pub fn flags(&self) -> [String; 3] {
        let anchors = self.folder.path().join("ca.crt");
        [
            "--tls-enabled".into(),
            format!("--trust-anchors-file={}", anchors.display()),
            format!("--sentry-address={}", self.address),
        ]
    }

    /// A file with this token.
    pub fn token_file(&self, token: &str) -> String {
        let path = self.folder.path().join("token");
        std::fs::write(&path, token).expect("a file");
        path.display().to_string()
    }

    pub fn tokens(&self) -> Vec<String> {
        self.tokens.lock().expect("nobody panics with it").clone()
    }

    /// TLS of a client with a certificate for this name; the server must be placement.
    pub fn client(&self, id: &str) -> Arc<rustls::ClientConfig> {
        tls::client_mtls(svid(&self.ca, id), self.anchors(), placement())
    }

    /// TLS of a client without a certificate.
    pub fn anonymous(&self) -> Arc<rustls::ClientConfig> {
        tls::client_anonymous(self.anchors(), placement())
    }

    fn anchors(&self) -> identity::AnchorsRx {
        watch::channel(Some(Arc::new(TrustAnchors::parse(self.ca.root_pem()).expect("a root")))).1
    }
}

/// A connection to a placement.
pub fn channel(port: u16, tls: Option<Arc<rustls::ClientConfig>>) -> Channel {
    client::channel(&format!("127.0.0.1:{port}"), tls).expect("an address")
}

fn placement() -> PeerRule {
    PeerRule::Exactly(SpiffeId::parse(PLACEMENT).expect("a name"))
}

impl Signer {
    fn sign(&self, request: &SignCertificateRequest) -> Result<String, rcgen::Error> {
        let key = KeyPair::from_pem(&self.ca.issuer_key_pem())?;
        let issuer = Issuer::from_ca_cert_pem(&self.ca.issuer_pem(), key)?;
        let csr = String::from_utf8_lossy(&request.certificate_signing_request).into_owned();
        let csr = CertificateSigningRequestParams::from_pem(&csr)?;
        let mut leaf = CertificateParams::default();
        let id = format!("spiffe://localhost/ns/{}/{}", request.namespace, request.id);
        leaf.subject_alt_names = vec![SanType::URI(id.try_into()?)];
        leaf.not_before = OffsetDateTime::now_utc() - Duration::minutes(15);
        leaf.not_after = OffsetDateTime::now_utc() + Duration::hours(24);
        Ok(leaf.signed_by(&csr.public_key, &issuer)?.pem() + &self.ca.issuer_pem())
    }
}

#[tonic::async_trait]
impl Ca for Signer {
    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        let request = request.into_inner();
        self.tokens.lock().expect("nobody panics with it").push(request.token.clone());
        let chain = self.sign(&request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let trust_chain_certificates = vec![self.ca.root_pem().into_bytes()];
        Ok(Response::new(SignCertificateResponse {
            workload_certificate: chain.into_bytes(),
            trust_chain_certificates,
            ..SignCertificateResponse::default()
        }))
    }
}
