//! What the load needs to speak TLS: sentry's own address and anchors, and certificates from it.

use std::sync::Arc;

use anyhow::{Context, Result};
use identity::client::{Connector, endpoint};
use identity::{AppId, ControlPlaneService, Namespace, PeerRule, SpiffeId, Svid, TrustAnchors, TrustDomain, tls};
use proto::sentry::v1::SignCertificateRequest;
use proto::sentry::v1::ca_client::CaClient;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519};
use rustls::ClientConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

/// The namespace and app id of every sidecar of the load.
pub const NAMESPACE: &str = "default";
/// See [`NAMESPACE`].
pub const APP_ID: &str = "bench";

/// A fresh Ed25519 key and the request to certify it, as 1.18 sidecars send it.
pub fn signing_request() -> Result<(KeyPair, Vec<u8>)> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let pem = params.serialize_request(&key)?.pem()?;
    Ok((key, pem.into_bytes()))
}

/// A sentry to be dialled, over and over.
#[derive(Clone)]
pub struct Sentry {
    endpoint: Endpoint,
    connector: Connector,
    anchors: Arc<TrustAnchors>,
}

impl Sentry {
    /// A sentry under these anchors.
    pub fn new(address: &str, anchors: Vec<u8>) -> Result<Self> {
        let anchors = Arc::new(TrustAnchors::parse(anchors)?);
        let tls = super::tls::sidecar(Arc::clone(&anchors))?;
        Ok(Self { endpoint: endpoint(address)?, connector: Connector::new(Some(tls)), anchors })
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<CaClient<Channel>> {
        let channel =
            self.endpoint.connect_with_connector(self.connector.clone()).await.context("connect to sentry")?;
        Ok(CaClient::new(channel))
    }

    /// How a sidecar dials placement: with a certificate of its own.
    pub async fn sidecar_tls(&self) -> Result<Arc<ClientConfig>> {
        let (key, csr) = signing_request()?;
        let request = SignCertificateRequest {
            id: APP_ID.into(),
            namespace: NAMESPACE.into(),
            certificate_signing_request: csr,
            ..SignCertificateRequest::default()
        };
        let signed = self.connect().await?.sign_certificate(request).await.context("get a certificate")?.into_inner();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let svid = Svid::from_pem(&signed.workload_certificate, key)?;
        let (_, svid) = watch::channel(Some(Arc::new(svid)));
        let (_, anchors) = watch::channel(Some(Arc::clone(&self.anchors)));
        let placement = control_plane_id(ControlPlaneService::Placement)?;
        Ok(tls::client_mtls(svid, anchors, PeerRule::Exactly(placement)))
    }
}

/// The identity of a service that runs with default flags outside Kubernetes.
fn control_plane_id(service: ControlPlaneService) -> Result<SpiffeId> {
    let (trust_domain, namespace) = (TrustDomain::parse("localhost")?, Namespace::parse(NAMESPACE)?);
    let app_id: AppId = service.app_id();
    Ok(SpiffeId::new(trust_domain, namespace, app_id))
}
