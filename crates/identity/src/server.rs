//! Accepts connections, in TLS or plaintext, for tonic and hyper servers.
//!
//! Handshakes run beside each other in a set this listener owns, each with a time limit and
//! all with a bound, so a slow or hostile client delays nobody's connection. Handshakes that
//! fail are dropped and logged; the stream of connections never ends by itself. Dropping it
//! closes the socket and aborts handshakes under way.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use crate::peer::Peer;

/// An honest handshake takes milliseconds; sidecars give up on a dial after seconds.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes under way at once. Beyond it new connections wait in the socket's backlog;
/// with the time limit above, that many silent clients hold others up for 10 s at most.
pub const HANDSHAKES_AT_ONCE: usize = 2048;
/// How long to leave the socket alone after `accept` failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An accepted connection, with the handshake done.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    peer: Peer,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    fn plain(tcp: TcpStream, remote: SocketAddr) -> Self {
        Self { io: Io::Plain(tcp), peer: Peer::anonymous(remote) }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// A listener that leaves the handshake of what it accepts to its caller.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
    pause: Option<Pin<Box<Sleep>>>,
    handshake_limit: Duration,
}

/// An accepted connection before its handshake.
pub struct Arrival {
    tcp: TcpStream,
    remote: SocketAddr,
    tls: Option<TlsAcceptor>,
    limit: Duration,
}

/// A listener whose connections come with their handshake done.
pub struct Incoming {
    listener: Listener,
    handshakes: JoinSet<Option<Connection>>,
}

impl Incoming {
    /// Serves `listener` with this TLS configuration, or in plaintext.
    pub fn new(listener: TcpListener, tls: Option<Arc<ServerConfig>>) -> Self {
        Self { listener: Listener::new(listener, tls), handshakes: JoinSet::new() }
    }

    /// Ends handshakes that take longer than this; 10 s unless set.
    #[must_use]
    pub fn handshake_limit(mut self, limit: Duration) -> Self {
        self.listener.handshake_limit = limit;
        self
    }

    /// Binds `addr` and serves it.
    pub async fn bind(addr: SocketAddr, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        Ok(Self::new(TcpListener::bind(addr).await?, tls))
    }

    /// Where the listener is bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.tcp.local_addr()
    }

    /// The next connection. Cancel-safe: nothing accepted is lost.
    pub async fn accept(&mut self) -> Connection {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Connection> {
        loop {
            if let Poll::Ready(Some(done)) = self.handshakes.poll_join_next(cx) {
                match done {
                    Ok(Some(connection)) => return Poll::Ready(connection),
                    Ok(None) => {}
                    Err(error) => tracing::error!(%error, "handshake task failed"),
                }
                continue;
            }
            if self.handshakes.len() >= HANDSHAKES_AT_ONCE {
                return Poll::Pending;
            }
            let arrival = ready!(self.listener.poll_accept(cx));
            if arrival.tls.is_none() {
                return Poll::Ready(Connection::plain(arrival.tcp, arrival.remote));
            }
            self.handshakes.spawn(arrival.handshake());
        }
    }
}

impl Listener {
    /// Listens at `tcp`, with this TLS configuration or in plaintext.
    pub fn new(tcp: TcpListener, tls: Option<Arc<ServerConfig>>) -> Self {
        Self { tcp, tls: tls.map(TlsAcceptor::from), pause: None, handshake_limit: HANDSHAKE_LIMIT }
    }

    /// The next connection. Cancel-safe: nothing accepted is lost.
    pub async fn accept(&mut self) -> Arrival {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Arrival> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.tcp.poll_accept(cx)) {
                Ok((tcp, remote)) => {
                    if let Err(error) = tcp.set_nodelay(true) {
                        tracing::debug!(%error, %remote, "TCP_NODELAY refused");
                    }
                    let (tls, limit) = (self.tls.clone(), self.handshake_limit);
                    return Poll::Ready(Arrival { tcp, remote, tls, limit });
                }
                Err(error) => self.accept_failed(&error),
            }
        }
    }

    fn accept_failed(&mut self, error: &io::Error) {
        let connection_only = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::Interrupted
        );
        if connection_only {
            tracing::debug!(%error, "connection ended before it was accepted");
        } else {
            tracing::warn!(%error, "accepting connections failed, trying again");
            self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
        }
    }
}

impl Arrival {
    /// Runs the handshake, within the listener's limit. Nothing if it fails, which is logged here.
    pub async fn handshake(self) -> Option<Connection> {
        let Self { tcp, remote, tls, limit } = self;
        let Some(tls) = tls else { return Some(Connection::plain(tcp, remote)) };
        match timeout(limit, handshake(tls, tcp, remote)).await {
            Ok(connection) => connection,
            Err(_elapsed) => {
                tracing::info!(%remote, "TLS handshake took too long");
                None
            }
        }
    }
}

async fn handshake(tls: TlsAcceptor, tcp: TcpStream, remote: SocketAddr) -> Option<Connection> {
    match tls.accept(tcp).await {
        Ok(stream) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let peer = Peer::verified(remote, certificates.and_then(<[_]>::first));
            Some(Connection { io: Io::Tls(Box::new(stream)), peer })
        }
        // A probe that connects and closes is no event worth a line in production.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!(%error, %remote, "peer left during the TLS handshake");
            None
        }
        Err(error) => {
            tracing::info!(%error, %remote, "TLS handshake refused");
            None
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_accept(cx).map(|connection| Some(Ok(connection)))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
