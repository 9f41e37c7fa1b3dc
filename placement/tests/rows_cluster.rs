//! Rows of contract placement.md §14, "Cluster, ops", that `replicas.rs` does not hold: gauges, health, ports.

mod support;

use std::net::{SocketAddr, TcpListener};

use support::{DEADLINE, Server, says};
use testkit::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A free port. The metrics port must be known beforehand: the service says where it listens of others only.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port()
}

async fn get(port: u16, path: &str) -> (String, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut reply = String::new();
    socket.read_to_string(&mut reply).await.expect("it answers");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
    (head.lines().next().expect("a status line").to_owned(), body.to_owned())
}

async fn with_metrics() -> (Server, u16) {
    let port = free_port();
    let flag = format!("--metrics-port={port}");
    (Server::alone(&["--enable-metrics=true", &flag]).await, port)
}

/// The values of all series that begin so.
async fn series(port: u16, name: &str) -> Vec<String> {
    let (_, body) = get(port, "/metrics").await;
    let lines = body.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(_, value)| value.to_owned()).collect()
}

async fn until(port: u16, name: &str, value: &str) {
    wait_until(name, DEADLINE, || async { (series(port, name).await == [value]).then_some(()) }).await;
}

/// Row: both leadership gauges are present exactly once.
#[tokio::test]
async fn both_leadership_gauges_are_there_once_and_say_who_leads() {
    let (_server, port) = with_metrics().await;
    until(port, "dapr_placement_leader_status", "1").await;
    until(port, "dapr_placement_raft_leader_status", "1").await;
}

/// Row: runtime gauges follow joins and leaves per namespace; other namespaces are unaffected; values return
/// to 0 and stay exported.
#[tokio::test]
async fn runtime_gauges_follow_their_own_namespace_and_stay_at_zero() {
    let (server, port) = with_metrics().await;
    let runtimes = |namespace: &str| format!("dapr_placement_runtimes_total{{host_namespace=\"{namespace}\"}}");
    let hosting = |namespace: &str| format!("dapr_placement_actor_runtimes_total{{host_namespace=\"{namespace}\"}}");
    let mut host = server.connect(says::v117("host", &["a"])).await;
    host.round(|order| Some(says::ack("host", order))).await;
    let elsewhere = proto::placement::v1::Host { namespace: "elsewhere".into(), ..says::v117("client", &[]) };
    let client = server.connect(elsewhere).await;
    for (name, value) in [
        (runtimes("default"), "1"),
        (hosting("default"), "1"),
        (runtimes("elsewhere"), "1"),
        (hosting("elsewhere"), "0"),
    ] {
        until(port, &name, value).await;
    }
    drop(host);
    until(port, &runtimes("default"), "0").await;
    until(port, &hosting("default"), "0").await;
    until(port, &runtimes("elsewhere"), "1").await;
    drop(client);
    until(port, &runtimes("elsewhere"), "0").await;
}

/// Row: `/healthz` answers 200 and the gRPC, metrics, health and raft ports accept TCP.
#[tokio::test]
async fn a_started_placement_is_healthy_and_accepts_on_every_port() {
    let (raft, metrics) = (free_port(), free_port());
    let flags = [
        "--id=p1".to_owned(),
        format!("--initial-cluster=p1=127.0.0.1:{raft}"),
        "--enable-metrics=true".to_owned(),
        format!("--metrics-port={metrics}"),
    ];
    let server = Server::start(&flags.each_ref().map(String::as_str)).await;
    let health = server.placement.health_address.port();
    wait_until("health", DEADLINE, || async { get(health, "/healthz").await.0.contains(" 200 ").then_some(()) }).await;
    for port in [server.placement.address.port(), metrics, health, raft] {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait_until("the port accepts", DEADLINE, || async { TcpStream::connect(address).await.ok() }).await;
    }
    assert!(get(health, "/other").await.0.contains(" 404 "));
}
