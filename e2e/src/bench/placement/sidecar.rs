//! One 1.18 sidecar: reports its actor types, acknowledges every order at once, and comes back
//! when its stream ends. A connection of its own, as every pod has, and two tasks in all.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::client::{ClientIo, Connector};
use proto::placement::v1::{Host, HostOperation};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::either::Either;
use tower::ServiceExt as _;

use super::tally::{Sighting, What};
use super::wire;
use crate::bench::credentials::{APP_ID, NAMESPACE};

/// What grpc-go, and so every sidecar, starts with.
const WINDOW: u32 = 65_535;
/// Messages under way: a report and three acknowledgements of a round, twice.
const OUTGOING: usize = 8;
/// A sidecar that lost its stream takes its time; this is the least of it.
const PAUSE: Duration = Duration::from_millis(500);
/// What 1.16 to 1.18 report.
const API_LEVEL: u32 = 20;

/// A sidecar and where its placement is.
pub struct Sidecar {
    /// Its number.
    pub number: usize,
    /// Placement's `host:port`.
    pub address: Arc<str>,
    /// Its certificate; none is plaintext.
    pub tls: Option<Arc<ClientConfig>>,
    /// The actor types it hosts; a change is reported.
    pub types: watch::Receiver<Vec<String>>,
    /// Whose turn it is to connect.
    pub turns: Arc<Semaphore>,
    /// Where it tells what it saw.
    pub sightings: mpsc::Sender<Sighting>,
}

type Outgoing = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

impl Sidecar {
    /// Lives until aborted.
    pub async fn run(mut self) {
        loop {
            let reason = match self.stream().await {
                Ok(()) => "ended by the server".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            self.see(0, What::Lost(reason)).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn see(&self, version: u64, what: What) {
        let sighting = Sighting { sidecar: self.number, at: Instant::now(), version, what };
        // Nobody looks any more when the fleet is being dropped.
        let _ = self.sightings.send(sighting).await;
    }

    /// One connection with its stream, until it ends.
    async fn stream(&mut self) -> Result<()> {
        let io = self.connect().await.context("connect")?;
        let (mut requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(io)
            .await
            .context("begin HTTP/2")?;
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        self.types.mark_unchanged();
        send(&outgoing, &self.report()).await?;
        let request =
            http::Request::post(format!("http://{}/dapr.proto.placement.v1.Placement/ReportDaprStatus", self.address))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(StreamBody::new(ReceiverStream::new(queue)))?;
        let conversation = async {
            let response = requests.send_request(request).await.context("open the stream")?;
            self.converse(response.into_body(), &outgoing).await
        };
        tokio::select! {
            ended = conversation => ended,
            lost = connection => Err(lost.map_or_else(Into::into, |()| anyhow!("the connection was closed"))),
        }
    }

    /// A connection, once it is this sidecar's turn. The next one's comes when the server has greeted
    /// this one: when it has accepted it and sent its settings, or finished the TLS handshake.
    async fn connect(&self) -> Result<ClientIo> {
        let _turn = self.turns.acquire().await?;
        if self.tls.is_some() {
            let uri: http::Uri = format!("http://{}", self.address).parse()?;
            return Ok(Connector::new(self.tls.clone()).oneshot(uri).await?);
        }
        let tcp = TcpStream::connect(&*self.address).await?;
        tcp.set_nodelay(true)?;
        tcp.peek(&mut [0]).await?;
        Ok(TokioIo::new(Either::Left(tcp)))
    }

    async fn converse(&mut self, mut body: Incoming, outgoing: &Outgoing) -> Result<()> {
        let mut received = BytesMut::new();
        loop {
            tokio::select! {
                frame = body.frame() => {
                    let Some(frame) = frame else { return Ok(()) };
                    match frame?.into_data() {
                        Ok(data) => received.extend_from_slice(&data),
                        Err(trailers) => bail!("{}", status(&trailers)),
                    }
                }
                Ok(()) = self.types.changed() => {
                    self.types.mark_unchanged();
                    send(outgoing, &self.report()).await?;
                }
            }
            while let Some(message) = wire::split(&mut received) {
                let order = wire::order(&message).context("read an order")?;
                match order.operation {
                    HostOperation::Update => self.see(order.version, What::Updated(order.table)).await,
                    HostOperation::Unlock => self.see(order.version, What::Unlocked).await,
                    _ => {}
                }
                send(outgoing, &acknowledgement(&order)).await?;
            }
        }
    }

    fn report(&self) -> Host {
        Host {
            name: name(self.number),
            entities: self.types.borrow().clone(),
            id: APP_ID.into(),
            api_level: API_LEVEL,
            namespace: NAMESPACE.into(),
            operation: HostOperation::Report.into(),
            ..Host::default()
        }
    }
}

fn acknowledgement(order: &wire::Order) -> Host {
    Host {
        id: APP_ID.into(),
        namespace: NAMESPACE.into(),
        operation: order.operation.into(),
        version: Some(order.version),
        ..Host::default()
    }
}

async fn send(outgoing: &Outgoing, message: &Host) -> Result<()> {
    let frame = Frame::data(wire::frame(message));
    outgoing.send(Ok(frame)).await.map_err(|_| anyhow!("the stream takes no more messages"))
}

/// A pod's address; every sidecar has another.
fn name(number: usize) -> String {
    let [.., a, b, c] = number.to_be_bytes();
    format!("10.{a}.{b}.{c}:50002")
}

fn status(frame: &Frame<Bytes>) -> String {
    let field = |name: &str| {
        let value = frame.trailers_ref()?.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (code, message) = (field("grpc-status"), field("grpc-message"));
    format!("status {}: {}", code.unwrap_or_default(), message.unwrap_or_default())
}
