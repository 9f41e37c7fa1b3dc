//! A placement server in this process and clients that speak to it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use placement::args::{Args, Environment};
use placement::{Placement, start};
use proto::placement::v1::placement_client::PlacementClient;
use proto::placement::v1::{Host, PlacementOrder};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub const DEADLINE: Duration = Duration::from_secs(10);

/// Runs a placement with these flags on free ports until dropped.
pub struct Server {
    pub placement: Placement,
}

impl Server {
    pub async fn alone(flags: &[&str]) -> Self {
        let mut line = vec!["--initial-cluster=dapr-placement-0=127.0.0.1:0"];
        line.extend(flags);
        let server = Self::start(&line).await;
        server.until_leading().await;
        server
    }

    pub async fn start(flags: &[&str]) -> Self {
        Self::start_in(&Environment::default(), flags).await
    }

    pub async fn start_in(environment: &Environment, flags: &[&str]) -> Self {
        let mut line = vec![
            "--port=0",
            "--listen-address=127.0.0.1",
            "--healthz-port=0",
            "--metadata-enabled",
            "--enable-metrics=false",
        ];
        line.extend(flags);
        let args: Args = runtime::args::try_parse("placement", &line).expect("flags are valid");
        let config = args.into_config(environment).expect("flags make a configuration");
        // A database is closed a moment after the server that had it was killed.
        let opened = || async { start(config.clone()).await.ok() };
        Self { placement: testkit::wait_until("placement starts", DEADLINE, opened).await }
    }

    pub async fn until_leading(&self) {
        let mut leadership = self.placement.replica.leadership();
        let leading = leadership.wait_for(placement::raft::Leadership::is_leading);
        tokio::time::timeout(DEADLINE, leading).await.expect("it leads in time").expect("it runs");
    }

    pub fn leads(&self) -> bool {
        self.placement.replica.leadership().borrow().is_leading()
    }

    pub async fn connect(&self, first: Host) -> Stream {
        Stream::open(self.placement.address.port(), first).await.expect("the stream opens")
    }

    pub async fn state(&self) -> serde_json::Value {
        let url = format!("http://127.0.0.1:{}/placement/state", self.placement.health_address.port());
        let uri: http::Uri = url.parse().expect("a URL");
        serde_json::from_str(&get(&uri).await).expect("JSON")
    }

    /// Stops as a lost process would: nothing is handed over, sockets close.
    pub async fn kill(self) {
        self.placement.tasks.stop_token().cancel();
        self.placement.replica.shutdown().await;
        drop(self.placement);
    }
}

async fn get(uri: &http::Uri) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = uri.authority().expect("an authority").as_str();
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("the server listens");
    let request = format!("GET {} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n", uri.path());
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut reply = String::new();
    socket.read_to_string(&mut reply).await.expect("it answers");
    reply.split("\r\n\r\n").nth(1).expect("a body").to_owned()
}

/// One stream as a client holds it.
pub struct Stream {
    to: Option<mpsc::Sender<Host>>,
    from: Streaming<PlacementOrder>,
}

impl Stream {
    pub async fn open(port: u16, first: Host) -> Result<Self, Status> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("a URL");
        let channel = endpoint.connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
        Self::over(channel, first).await
    }

    /// Opens a stream on a connection of any kind.
    pub async fn over(channel: tonic::transport::Channel, first: Host) -> Result<Self, Status> {
        let (to, queue) = mpsc::channel(64);
        to.send(first).await.expect("the queue is new");
        let from = PlacementClient::new(channel).report_dapr_status(ReceiverStream::new(queue)).await?.into_inner();
        Ok(Self { to: Some(to), from })
    }

    pub async fn send(&self, host: Host) {
        self.to.as_ref().expect("not half-closed").send(host).await.expect("the stream is open");
    }

    pub fn half_close(&mut self) {
        self.to = None;
    }

    pub async fn next(&mut self) -> Result<PlacementOrder, Status> {
        let order = tokio::time::timeout(DEADLINE, self.from.message()).await.expect("an order or an end in time");
        order.map(|order| order.expect("a status ends the stream"))
    }

    /// The next order, whenever it comes.
    pub async fn next_whenever(&mut self) -> Result<PlacementOrder, Status> {
        self.from.message().await.map(|order| order.expect("a status ends the stream"))
    }

    /// The next order, which must be `operation`.
    pub async fn expect(&mut self, operation: &str) -> PlacementOrder {
        let order = self.next().await.expect("an order");
        assert_eq!(order.operation, operation, "{order:?}");
        order
    }

    pub async fn stays_quiet(&mut self, time: Duration) {
        let next = tokio::time::timeout(time, self.from.message()).await;
        assert!(next.is_err(), "unexpected: {next:?}");
    }

    /// Reads one whole round, acknowledging each order with what `ack` makes of it.
    pub async fn round(&mut self, ack: impl Fn(&PlacementOrder) -> Option<Host>) -> PlacementOrder {
        let mut update = None;
        for operation in ["lock", "update", "unlock"] {
            let order = self.expect(operation).await;
            if let Some(host) = ack(&order) {
                self.send(host).await;
            }
            if operation == "update" {
                update = Some(order);
            }
        }
        update.expect("the second order")
    }
}

/// What each generation says of itself first.
pub mod says {
    use super::{Host, PlacementOrder};

    fn host(name: &str, types: &[&str]) -> Host {
        let entities = types.iter().map(|t| (*t).to_owned()).collect();
        Host { name: name.into(), id: name.into(), namespace: "default".into(), entities, ..Host::default() }
    }

    /// An op-less test client of upstream's suite.
    pub fn op_less(name: &str, types: &[&str]) -> Host {
        host(name, types)
    }

    pub fn v116(name: &str, types: &[&str]) -> Host {
        Host { api_level: 20, ..host(name, types) }
    }

    pub fn v117(name: &str, types: &[&str]) -> Host {
        Host { api_level: 20, operation: 1, ..host(name, types) }
    }

    /// The acknowledgement 1.17 and 1.18 send for an order.
    pub fn ack(name: &str, order: &PlacementOrder) -> Host {
        let operation = match order.operation.as_str() {
            "lock" => 2,
            "update" => 3,
            _ => 4,
        };
        Host {
            id: name.into(),
            namespace: "default".into(),
            operation,
            version: Some(order.version),
            ..Host::default()
        }
    }
}

/// The host names under an actor type.
pub fn hosts_of(order: &PlacementOrder, actor_type: &str) -> Vec<String> {
    let tables = order.tables.as_ref().expect("an update carries tables");
    tables.entries.get(actor_type).map(|t| t.load_map.keys().cloned().collect()).unwrap_or_default()
}
