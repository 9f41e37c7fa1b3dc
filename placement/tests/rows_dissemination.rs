//! Rows of contract placement.md §14, "Dissemination", that `streams.rs` does not hold, over real gRPC.

mod support;

use std::time::Duration;

use support::{DEADLINE, Server, Stream, hosts_of, says};
use testkit::wait_until;

async fn complete(stream: &mut Stream, name: &str) -> proto::placement::v1::PlacementOrder {
    stream.round(|order| Some(says::ack(name, order))).await
}

/// Hosts of the rolling replacement.
const NEW: [&str; 5] = ["new0", "new1", "new2", "new3", "new4"];

/// Acknowledges everything until the table names exactly these hosts.
async fn until_hosts(stream: &mut Stream, name: &str, hosts: &[&str]) {
    while hosts_of(&complete(stream, name).await, "a") != hosts {}
}

async fn shown(server: &Server, hosts: &[&str], version: u64) {
    wait_until("the state", DEADLINE, || async {
        let table = server.state().await["tables"]["default"].clone();
        let names: Vec<_> = table["hosts"].as_array()?.iter().map(|h| h["name"].clone()).collect();
        (names == hosts && table["version"] == version).then_some(())
    })
    .await;
}

/// Row: streams joining during a round receive nothing until it ends, then all of them and the existing
/// streams receive `lock` with one common higher version.
#[tokio::test]
async fn streams_that_join_in_a_round_share_the_next_one() {
    let server = Server::alone(&[]).await;
    let mut first = server.connect(says::v117("first", &["a"])).await;
    let lock = first.expect("lock").await;
    let mut second = server.connect(says::v117("second", &["a"])).await;
    let mut third = server.connect(says::v117("third", &["a"])).await;
    second.stays_quiet(Duration::from_millis(300)).await;
    third.stays_quiet(Duration::from_millis(1)).await;
    first.send(says::ack("first", &lock)).await;
    for operation in ["update", "unlock"] {
        let order = first.expect(operation).await;
        first.send(says::ack("first", &order)).await;
    }
    let locks = [first.expect("lock").await, second.expect("lock").await, third.expect("lock").await];
    assert_eq!(locks.map(|lock| lock.version), [2, 2, 2]);
}

/// Row: a rolling replacement (close old i, open new i, five times, 1 s round timeout) converges to exactly
/// the new hosts within 30 s, with no ghost of old ones.
#[tokio::test]
async fn a_rolling_replacement_leaves_exactly_the_new_hosts() {
    let server = Server::alone(&["--disseminate-timeout=1s"]).await;
    let port = server.placement.address.port();
    let follow = |name: String, all: &'static [&'static str]| async move {
        let mut stream = Stream::open(port, says::v117(&name, &["a"])).await.expect("the stream opens");
        until_hosts(&mut stream, &name, all).await;
        stream
    };
    let mut old = Vec::new();
    let mut acknowledging = tokio::task::JoinSet::new();
    for index in 0..5 {
        let name = format!("old{index}");
        let mut stream = server.connect(says::v117(&name, &["a"])).await;
        let (close, closed) = tokio::sync::oneshot::channel::<()>();
        old.push(close);
        acknowledging.spawn(async move {
            let acknowledge = async {
                while let Ok(order) = stream.next_whenever().await {
                    stream.send(says::ack(&name, &order)).await;
                }
            };
            tokio::select! { _ = closed => {}, () = acknowledge => {} }
        });
    }
    let mut new = tokio::task::JoinSet::new();
    for (index, close) in old.into_iter().enumerate() {
        drop(close);
        new.spawn(follow(format!("new{index}"), &NEW));
    }
    let converged = tokio::time::timeout(Duration::from_secs(30), new.join_all()).await;
    assert_eq!(converged.expect("within 30 s").len(), 5);
}

/// Row: a new stream raises the version above the last unlock; the state then shows both hosts and that
/// version.
#[tokio::test]
async fn a_new_stream_raises_the_version_and_the_state_shows_both_hosts() {
    let server = Server::alone(&[]).await;
    let mut first = server.connect(says::v117("first", &["a"])).await;
    assert_eq!(complete(&mut first, "first").await.version, 1);
    let mut second = server.connect(says::v117("second", &["a"])).await;
    let (one, other) = tokio::join!(complete(&mut first, "first"), complete(&mut second, "second"));
    assert_eq!((one.version, other.version), (2, 2));
    shown(&server, &["first", "second"], 2).await;
}

/// Row: actorless streams take part (and must ack) in later rounds.
#[tokio::test]
async fn an_actorless_stream_takes_part_in_later_rounds() {
    let server = Server::alone(&[]).await;
    let mut client = server.connect(says::v117("client", &[])).await;
    assert_eq!(complete(&mut client, "client").await.version, 0);
    let mut host = server.connect(says::v117("host", &["a"])).await;
    let (held, lock) = (client.expect("lock").await, host.expect("lock").await);
    assert_eq!((held.version, lock.version), (1, 1));
    host.send(says::ack("host", &lock)).await;
    // The host waits for the actorless one.
    host.stays_quiet(Duration::from_millis(300)).await;
    client.send(says::ack("client", &held)).await;
    assert_eq!(hosts_of(&host.expect("update").await, "a"), ["host"]);
    assert_eq!(hosts_of(&client.expect("update").await, "a"), ["host"]);
}

/// Row: two hosting streams exist and one is aborted just after joining with a coalesce window of 1 s: the
/// healthy stream stays open and ends with a table without the aborted one.
#[tokio::test]
async fn a_stream_aborted_within_the_window_leaves_no_trace() {
    let server = Server::alone(&["--disseminate-coalesce-window=1s"]).await;
    let mut healthy = server.connect(says::v117("healthy", &["a"])).await;
    complete(&mut healthy, "healthy").await;
    let aborted = server.connect(says::v117("aborted", &["a"])).await;
    drop(aborted);
    until_hosts(&mut healthy, "healthy", &["healthy"]).await;
    let state = server.state().await;
    assert_eq!(state["tables"]["default"]["hosts"].as_array().map(Vec::len), Some(1));
}

/// Row: coalesce 500 ms: a stream that queued during a round gets nothing for at least 200 ms after the
/// round; a second one joining in the window gets its `lock` with the same version.
#[tokio::test]
async fn the_window_holds_back_a_stream_that_queued_in_a_round() {
    let server = Server::alone(&["--disseminate-coalesce-window=500ms"]).await;
    let mut first = server.connect(says::v117("first", &["a"])).await;
    let lock = first.expect("lock").await;
    let mut queued = server.connect(says::v117("queued", &["a"])).await;
    queued.stays_quiet(Duration::from_millis(50)).await;
    first.send(says::ack("first", &lock)).await;
    for operation in ["update", "unlock"] {
        let order = first.expect(operation).await;
        first.send(says::ack("first", &order)).await;
    }
    queued.stays_quiet(Duration::from_millis(200)).await;
    let mut late = server.connect(says::v117("late", &["a"])).await;
    let (one, other) = (queued.expect("lock").await, late.expect("lock").await);
    assert_eq!((one.version, other.version), (2, 2));
}

/// Section 4.2: namespaces never affect each other.
#[tokio::test]
async fn a_round_of_one_namespace_is_not_seen_in_another() {
    let server = Server::alone(&[]).await;
    let mut here = server.connect(says::v117("here", &["a"])).await;
    complete(&mut here, "here").await;
    let elsewhere = proto::placement::v1::Host { namespace: "elsewhere".into(), ..says::v117("there", &["a"]) };
    let mut there = server.connect(elsewhere).await;
    assert_eq!(there.expect("lock").await.version, 1);
    here.stays_quiet(Duration::from_millis(300)).await;
}
