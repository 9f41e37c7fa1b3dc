//! TLS configurations, on one fixed crypto provider, for every role a component plays.
//!
//! Each configuration reads the current SVID and the current trust anchors through a watch
//! at every handshake, so it is built once and rotation needs no restart. Sessions are
//! never resumed: a resumed session would skip the check of the peer against anchors that
//! may have changed since. TLS 1.2 is the least.

mod resolver;
mod verifier;

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, ServerConfig, client::Resumption, crypto::CryptoProvider, server::NoServerSessionStorage};
use tokio::sync::watch;

use crate::{SpiffeId, SvidRx, TrustAnchors};

use resolver::CurrentSvid;
use verifier::SpiffeVerifier;

/// The receiving end of the current trust anchors; `None` until they were first read.
pub type AnchorsRx = watch::Receiver<Option<Arc<TrustAnchors>>>;

/// Which peers a handshake accepts, besides that their chain must verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerRule {
    /// Any valid SPIFFE ID of any trust domain.
    AnySpiffeId,
    /// This identity and no other.
    Exactly(SpiffeId),
}

/// The protocols a server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// gRPC: HTTP/2 only.
    H2,
    /// Webhooks: HTTP/2 or HTTP/1.1.
    H2OrHttp11,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::H2 => vec![b"h2".to_vec()],
            Self::H2OrHttp11 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

/// The crypto provider all our TLS uses; given explicitly, never as the process default.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// A gRPC server that requires a client certificate and presents the current SVID.
pub fn server_mtls(svid: SvidRx, anchors: AnchorsRx, rule: PeerRule) -> Arc<ServerConfig> {
    let verifier = Arc::new(SpiffeVerifier::new(anchors, rule));
    let config = server_builder().with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(CurrentSvid(svid)));
    finish_server(config, Alpn::H2)
}

/// A server that asks for no client certificate and presents the current SVID.
pub fn server_auth_only(svid: SvidRx, alpn: Alpn) -> Arc<ServerConfig> {
    let config = server_builder().with_no_client_auth().with_cert_resolver(Arc::new(CurrentSvid(svid)));
    finish_server(config, alpn)
}

/// A gRPC client that presents the current SVID and accepts `rule`.
pub fn client_mtls(svid: SvidRx, anchors: AnchorsRx, rule: PeerRule) -> Arc<ClientConfig> {
    let config = client_builder(anchors, rule).with_client_cert_resolver(Arc::new(CurrentSvid(svid)));
    finish_client(config)
}

/// A gRPC client that presents no certificate and accepts `rule`: how sentry is dialled.
pub fn client_anonymous(anchors: AnchorsRx, rule: PeerRule) -> Arc<ClientConfig> {
    finish_client(client_builder(anchors, rule).with_no_client_auth())
}

fn server_builder() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("the provider has cipher suites for every version")
}

fn client_builder(
    anchors: AnchorsRx,
    rule: PeerRule,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("the provider has cipher suites for every version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SpiffeVerifier::new(anchors, rule)))
}

fn finish_server(mut config: ServerConfig, alpn: Alpn) -> Arc<ServerConfig> {
    config.alpn_protocols = alpn.protocols();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn finish_client(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = Alpn::H2.protocols();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
