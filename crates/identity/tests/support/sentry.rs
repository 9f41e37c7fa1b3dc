//! A sentry in this process: real TLS, real gRPC, scripted answers.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use identity::{Alpn, server::Incoming, tls};
use proto::sentry::v1::{
    SignCertificateRequest, SignCertificateResponse,
    ca_server::{Ca as CaService, CaServer},
};
use rcgen::CertificateSigningRequestParams;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, transport::Server};

use super::{Ca, SENTRY, leaf, valid_for};

/// How far from now the leaves begin and end.
#[derive(Clone, Copy)]
pub struct Life(pub time::Duration, pub time::Duration);

impl Life {
    pub const DAY: Self = Self(time::Duration::minutes(-15), time::Duration::hours(24));
}

pub struct Script {
    pub signer: Arc<Ca>,
    pub lives: VecDeque<Life>,
    pub refusals: VecDeque<Status>,
    pub requests: Vec<SignCertificateRequest>,
}

#[derive(Clone)]
pub struct FakeSentry {
    pub script: Arc<Mutex<Script>>,
    pub addr: SocketAddr,
}

impl FakeSentry {
    /// Serves with `serving`'s certificate as `id`, on this port or a free one.
    pub async fn start_as(tasks: &mut JoinSet<()>, serving: &Ca, signer: Arc<Ca>, id: &str, port: u16) -> Self {
        Self::start_breaking(tasks, serving, signer, (id, port, 0)).await
    }

    /// The same, but the first `broken` connections end right after their handshake.
    pub async fn start_breaking(
        tasks: &mut JoinSet<()>,
        serving: &Ca,
        signer: Arc<Ca>,
        (id, port, broken): (&str, u16, usize),
    ) -> Self {
        let tls = tls::server_auth_only(serving.svid_rx(id), Alpn::H2);
        let mut incoming = Incoming::bind(([127, 0, 0, 1], port).into(), Some(tls)).await.unwrap();
        let sentry = Self {
            addr: incoming.local_addr().unwrap(),
            script: Arc::new(Mutex::new(Script {
                signer,
                lives: VecDeque::new(),
                refusals: VecDeque::new(),
                requests: Vec::new(),
            })),
        };
        let service = CaServer::new(sentry.clone());
        tasks.spawn(async move {
            for _ in 0..broken {
                drop(incoming.accept().await);
            }
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        sentry
    }

    pub async fn start(tasks: &mut JoinSet<()>, ca: &Arc<Ca>) -> Self {
        Self::start_as(tasks, ca, Arc::clone(ca), SENTRY, 0).await
    }

    pub fn requests(&self) -> Vec<SignCertificateRequest> {
        self.script.lock().unwrap().requests.clone()
    }

    fn answer(&self, request: &SignCertificateRequest) -> Result<SignCertificateResponse, Status> {
        let mut script = self.script.lock().unwrap();
        script.requests.push(request.clone());
        if let Some(refusal) = script.refusals.pop_front() {
            return Err(refusal);
        }
        let Life(from, to) = script.lives.pop_front().unwrap_or(Life::DAY);
        let csr = String::from_utf8(request.certificate_signing_request.clone()).unwrap();
        let csr = CertificateSigningRequestParams::from_pem(&csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let domain = match request.trust_domain.as_str() {
            "" => "public",
            domain => domain,
        };
        let id = format!("spiffe://{domain}/ns/{}/{}", request.namespace, request.id);
        let signer = &script.signer;
        let chain = signer.sign_pem(&valid_for(leaf(&id), from, to), &csr.public_key);
        Ok(SignCertificateResponse {
            workload_certificate: chain.into_bytes(),
            trust_chain_certificates: vec![signer.root.pem().into_bytes()],
            ..SignCertificateResponse::default()
        })
    }
}

#[tonic::async_trait]
impl CaService for FakeSentry {
    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        self.answer(request.get_ref()).map(Response::new)
    }
}
