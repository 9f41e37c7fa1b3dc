//! Dials gRPC servers, in TLS or plaintext.
//!
//! The connector does the TLS itself, so that a peer is checked by its SPIFFE ID and not by
//! host name; SNI carries the dialled host. A connection that did not negotiate `h2` is
//! refused, as other gRPC implementations do.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::Service;

/// One attempt to connect, name lookup and handshake included.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A server's address cannot be dialled.
#[derive(Debug, thiserror::Error)]
#[error("address {address:?} is not host:port: {reason}")]
pub struct AddressError {
    /// The address given.
    pub address: String,
    /// What is wrong with it.
    pub reason: String,
}

/// An endpoint for `host:port`, to be tuned before it is connected with a [`Connector`].
pub fn endpoint(address: &str) -> Result<Endpoint, AddressError> {
    let refuse = |reason: String| AddressError { address: address.to_owned(), reason };
    let uri: Uri =
        format!("http://{address}").parse().map_err(|error: http::uri::InvalidUri| refuse(error.to_string()))?;
    if uri.port_u16().is_none() || uri.host().is_none_or(str::is_empty) {
        return Err(refuse("host or port is missing".into()));
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(refuse("nothing may follow the port".into()));
    }
    Ok(Endpoint::from(uri))
}

/// A channel to `host:port` that connects when first used, and again when it was lost.
pub fn channel(address: &str, tls: Option<Arc<ClientConfig>>) -> Result<Channel, AddressError> {
    Ok(endpoint(address)?.connect_with_connector_lazy(Connector::new(tls)))
}

/// Opens connections for tonic channels.
#[derive(Clone)]
pub struct Connector {
    tls: Option<TlsConnector>,
}

impl Connector {
    /// Connects with this TLS configuration, or in plaintext.
    pub fn new(tls: Option<Arc<ClientConfig>>) -> Self {
        Self { tls: tls.map(TlsConnector::from) }
    }

    /// Opens one plaintext connection to `host:port`.
    async fn tcp(uri: &Uri) -> io::Result<(TcpStream, String)> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "host or port is missing");
        let host = uri.host().ok_or_else(missing)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().ok_or_else(missing)?;
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        Ok((tcp, host.to_owned()))
    }
}

/// A connection to a server.
pub type ClientIo = TokioIo<tokio_util::either::Either<TcpStream, TlsStream<TcpStream>>>;

async fn connect(tls: Option<TlsConnector>, uri: Uri) -> io::Result<ClientIo> {
    use tokio_util::either::Either;
    let (tcp, host) = Connector::tcp(&uri).await?;
    let Some(tls) = tls else {
        return Ok(TokioIo::new(Either::Left(tcp)));
    };
    let name = ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let stream = tls.connect(name, tcp).await?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "server did not negotiate ALPN h2"));
    }
    Ok(TokioIo::new(Either::Right(TlsStream::Client(stream))))
}

impl Service<Uri> for Connector {
    type Response = ClientIo;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<ClientIo>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            timeout(CONNECT_LIMIT, connect(tls, uri))
                .await
                .unwrap_or_else(|_elapsed| Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long")))
        })
    }
}
