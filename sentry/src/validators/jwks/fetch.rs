//! Fetches a key set over HTTP, within bounds of time and size.

use std::{sync::Arc, time::Duration};

use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use identity::tls::provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::time::timeout;

use super::JwksOptionError;

/// Key sets are a few KiB.
const MAX_BYTES: usize = 1024 * 1024;

/// Gets one URL.
pub struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    url: String,
    limit: Duration,
}

impl Fetcher {
    /// Prepares to get `url`, trusting `ca` (PEM or the path of a PEM file) or the system.
    pub async fn new(url: &str, ca: Option<&str>, limit: Duration) -> Result<Self, JwksOptionError> {
        let roots = match ca {
            Some(ca) => private_roots(ca).await?,
            None => system_roots(),
        };
        let tls = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| JwksOptionError::Ca(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), url: url.into(), limit })
    }

    /// The body, and how long it may be kept.
    pub async fn fetch(&self) -> Result<(Vec<u8>, Option<Duration>), String> {
        timeout(self.limit, self.get()).await.map_err(|_| format!("{}: no answer within {:?}", self.url, self.limit))?
    }

    async fn get(&self) -> Result<(Vec<u8>, Option<Duration>), String> {
        let failed = |error: &dyn std::error::Error| format!("{}: {}", self.url, crate::keeper::chain(error));
        let request = Request::get(&self.url)
            .header(header::ACCEPT, "application/json")
            .body(Empty::new())
            .map_err(|error| failed(&error))?;
        let response = self.client.request(request).await.map_err(|error| failed(&error))?;
        if !response.status().is_success() {
            return Err(format!("{}: {}", self.url, response.status()));
        }
        let max_age =
            response.headers().get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).and_then(max_age);
        let body =
            Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| failed(error.as_ref()))?;
        Ok((body.to_bytes().to_vec(), max_age))
    }
}

fn max_age(cache_control: &str) -> Option<Duration> {
    cache_control
        .split(',')
        .find_map(|part| part.trim().strip_prefix("max-age="))
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs)
}

async fn private_roots(ca: &str) -> Result<RootCertStore, JwksOptionError> {
    let pem = if ca.contains("-----BEGIN") {
        ca.as_bytes().to_vec()
    } else {
        tokio::fs::read(ca).await.map_err(|source| JwksOptionError::File { path: ca.into(), source })?
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| JwksOptionError::Ca(error.to_string()))?;
        roots.add(certificate).map_err(|error| JwksOptionError::Ca(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(JwksOptionError::Ca("no certificate in it".into()));
    }
    Ok(roots)
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::warn!(%error, "a system root certificate cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}
