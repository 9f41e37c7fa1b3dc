//! The OIDC discovery server: HTTP/1.1, with TLS where both files are given. It reads the
//! current bundle for each request, and the TLS files again whenever they change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::tls::provider;
use runtime::{BoxError, CancellationToken, health::Target};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    core::{
        decide::Bundle,
        oidc::{Answer, Ask, Discovery},
    },
    issuer::Issuer,
};

/// A client must send its headers, and finish its handshake, within this time.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// How long connections in flight may take to finish at the end.
const GRACE: Duration = Duration::from_secs(5);
/// How often the TLS files are looked at.
const FILE_POLL: Duration = Duration::from_secs(5);
/// Connections served at once; later ones wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 512;

/// The server, ready to run.
pub struct OidcServer {
    /// What it answers.
    pub discovery: Discovery,
    /// Where the keys come from.
    pub issuer: Arc<Issuer>,
    /// Certificate and key files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Ready once it can serve.
    pub target: Target,
}

/// The certificate as last read.
#[derive(Debug, Default)]
struct CurrentKey(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for CurrentKey {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl OidcServer {
    /// Serves until `stop`.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) -> Result<(), BoxError> {
        let current = Arc::new(CurrentKey::default());
        let acceptor = self.tls.is_some().then(|| acceptor(&current)).transpose()?;
        let follow = self.follow_files(&current);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = follow => {}
            () = accept(&listener, acceptor, &self.discovery, &self.issuer, &stop) => {}
        }
        Ok(())
    }

    /// Reads the TLS files whenever they changed; ready as soon as they were read once.
    async fn follow_files(&self, current: &CurrentKey) {
        let Some((cert, key)) = &self.tls else {
            self.target.ready();
            return std::future::pending().await;
        };
        let mut last: Option<(Vec<u8>, Vec<u8>)> = None;
        let mut complained = false;
        loop {
            let loaded = match read_files(cert, key).await {
                Ok(files) if last.as_ref() == Some(&files) => Ok(()),
                Ok(files) => certified(&files.0, &files.1).map(|certified| {
                    current.0.store(Some(Arc::new(certified)));
                    last = Some(files);
                    self.target.ready();
                    tracing::info!("OIDC server certificate loaded");
                }),
                Err(error) => Err(error.into()),
            };
            match loaded {
                Ok(()) => complained = false,
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(%error, cert = %cert.display(), key = %key.display(), "OIDC server certificate cannot be used, waiting for a good one");
                    }
                }
            }
            sleep(FILE_POLL).await;
        }
    }
}

async fn read_files(cert: &Path, key: &Path) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    Ok((tokio::fs::read(cert).await?, tokio::fs::read(key).await?))
}

fn certified(cert: &[u8], key: &[u8]) -> Result<CertifiedKey, BoxError> {
    let chain = CertificateDer::pem_slice_iter(cert).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    Ok(CertifiedKey::from_der(chain, key, provider())?)
}

fn acceptor(current: &Arc<CurrentKey>) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(current) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(
    listener: &TcpListener,
    acceptor: Option<TlsAcceptor>,
    discovery: &Discovery,
    issuer: &Arc<Issuer>,
    stop: &CancellationToken,
) {
    let discovery = Arc::new(discovery.clone());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = connections.join_next(), if connections.len() >= MAX_CONNECTIONS => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((tcp, _)) = accepted else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (acceptor, discovery, issuer) = (acceptor.clone(), Arc::clone(&discovery), Arc::clone(issuer));
        connections.spawn(async move {
            match acceptor {
                None => serve(tcp, &discovery, &issuer).await,
                Some(acceptor) => {
                    if let Ok(Ok(tls)) = timeout(HEADER_LIMIT, acceptor.accept(tcp)).await {
                        serve(tls, &discovery, &issuer).await;
                    }
                }
            }
        });
    }
    timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await.ok();
}

async fn serve<I>(io: I, discovery: &Discovery, issuer: &Issuer)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let response = respond(&request, discovery, &issuer.bundle());
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "OIDC connection ended");
    }
}

fn respond<B>(request: &Request<B>, discovery: &Discovery, bundle: &Bundle) -> Response<Full<Bytes>> {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let ask = Ask {
        method: request.method().as_str(),
        path: request.uri().path(),
        host: text("host"),
        forwarded_host: text("x-forwarded-host"),
    };
    let keys = bundle.jwt.as_ref().map(|jwt| &jwt.set);
    let response = Response::builder();
    match discovery.answer(&ask, keys) {
        Answer::Json(json) => response
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CACHE_CONTROL, "public, max-age=3600")
            .body(Full::from(json)),
        Answer::Text(status, text) => response
            .status(status)
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(Full::from(format!("{text}\n"))),
    }
    .expect("fixed headers and status codes are valid")
}
