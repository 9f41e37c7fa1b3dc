//! Streams over real gRPC: the rows of placement.md §14, by client generation.

mod support;

use std::time::Duration;

use support::{Server, Stream, hosts_of, says};
use tonic::Code;

#[tokio::test]
async fn the_first_hosting_stream_is_locked_at_once_and_completes_version_one() {
    let server = Server::alone(&[]).await;
    let host = || says::op_less("h1", &["actorA"]);
    let mut stream = server.connect(host()).await;
    let update = stream.round(|_| Some(host())).await;
    assert_eq!(update.version, 1);
    assert_eq!(hosts_of(&update, "actorA"), ["h1"]);
    stream.stays_quiet(Duration::from_secs(3)).await;
    assert_eq!(server.state().await["tables"]["default"]["version"], 1);
}

#[tokio::test]
async fn three_op_less_messages_in_a_row_complete_a_round_with_both_types() {
    let server = Server::alone(&[]).await;
    let host = || says::op_less("h1", &["b", "a", "b"]);
    let mut stream = server.connect(host()).await;
    for _ in 0..3 {
        stream.send(host()).await;
    }
    let update = stream.round(|_| None).await;
    assert_eq!((hosts_of(&update, "a"), hosts_of(&update, "b")), (vec!["h1".into()], vec!["h1".into()]));
}

#[tokio::test]
async fn sidecars_of_every_generation_share_one_round() {
    let server = Server::alone(&[]).await;
    let mut new = server.connect(says::v117("new", &["a"])).await;
    new.round(|order| Some(says::ack("new", order))).await;
    // 1.16 never acknowledges; nobody waits for it.
    let mut old = server.connect(says::v116("old", &["a"])).await;
    let update = new.round(|order| Some(says::ack("new", order))).await;
    assert_eq!(hosts_of(&update, "a"), ["new", "old"]);
    assert_eq!(update.version, 2);
    let seen = old.round(|_| None).await;
    assert_eq!(seen.tables, update.tables);
    old.send(says::v116("old", &["a"])).await;
    old.stays_quiet(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_silent_client_times_out_in_each_phase_with_the_configured_text() {
    for silent in 0..3 {
        let server = Server::alone(&["--disseminate-timeout=1s"]).await;
        let host = || says::op_less("h1", &["a"]);
        let mut stream = server.connect(host()).await;
        for (index, operation) in ["lock", "update", "unlock"].into_iter().enumerate().take(silent + 1) {
            stream.expect(operation).await;
            if index < silent {
                stream.send(host()).await;
            }
        }
        let status = stream.next().await.expect_err("a timeout");
        let expected = (Code::DeadlineExceeded, "dissemination timeout after 1s for version 1");
        assert_eq!((status.code(), status.message()), expected);
    }
}

#[tokio::test]
async fn only_the_silent_one_of_two_is_closed_and_the_other_is_locked_anew() {
    let server = Server::alone(&["--disseminate-timeout=1s"]).await;
    let healthy = || says::op_less("healthy", &["a"]);
    let mut first = server.connect(healthy()).await;
    first.round(|_| Some(healthy())).await;
    let mut slow = server.connect(says::op_less("slow", &["a"])).await;
    let lock = first.expect("lock").await;
    slow.expect("lock").await;
    first.send(healthy()).await;
    assert_eq!(slow.next().await.expect_err("a timeout").code(), Code::DeadlineExceeded);
    let again = first.expect("lock").await;
    assert_eq!(again.version, lock.version + 1);
    first.send(healthy()).await;
    let update = first.expect("update").await;
    assert_eq!(hosts_of(&update, "a"), ["healthy"]);
}

#[tokio::test]
async fn a_healthy_sidecar_finishes_its_round_when_another_one_hangs() {
    let server = Server::alone(&["--disseminate-timeout=2s"]).await;
    let mut healthy = server.connect(says::v117("healthy", &["a"])).await;
    healthy.round(|order| Some(says::ack("healthy", order))).await;
    let mut hung = server.connect(says::v117("hung", &["a"])).await;
    hung.expect("lock").await;
    // 4.5 s for a LOCK of a sidecar that may drain inside it; then the round goes on without it.
    let update = healthy.round(|order| Some(says::ack("healthy", order))).await;
    assert_eq!(hosts_of(&update, "a"), ["healthy"]);
    let status = hung.next().await.expect_err("its limit ran out");
    assert_eq!(status.message(), "dissemination timeout after 4.5s for version 2");
}

#[tokio::test]
async fn an_actorless_stream_gets_one_push_and_hosts_see_nothing_of_it() {
    let server = Server::alone(&[]).await;
    let host = || says::op_less("h1", &["a"]);
    let mut hosting = server.connect(host()).await;
    hosting.expect("lock").await;
    let mut client = server.connect(says::op_less("client", &[])).await;
    client.stays_quiet(Duration::from_millis(200)).await;
    for operation in ["update", "unlock"] {
        hosting.send(host()).await;
        hosting.expect(operation).await;
    }
    hosting.send(host()).await;
    let update = client.round(|_| None).await;
    assert_eq!((update.version, hosts_of(&update, "a")), (1, vec!["h1".to_owned()]));
    let mut later = server.connect(says::v116("later", &[])).await;
    later.round(|_| None).await;
    client.stays_quiet(Duration::from_millis(500)).await;
    hosting.stays_quiet(Duration::from_millis(1)).await;
    let state = server.state().await;
    assert_eq!(state["tables"]["default"]["hosts"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_stream_that_closes_lets_the_others_advance_and_leaves_the_table() {
    let server = Server::alone(&[]).await;
    let mut first = server.connect(says::v117("first", &["a"])).await;
    first.round(|order| Some(says::ack("first", order))).await;
    let mut second = server.connect(says::v117("second", &["a"])).await;
    let lock = first.expect("lock").await;
    second.expect("lock").await;
    first.send(says::ack("first", &lock)).await;
    second.half_close();
    assert_eq!(second.next().await.expect_err("the end").message(), "EOF");
    let update = first.expect("update").await;
    assert_eq!(hosts_of(&update, "a"), ["first"]);
}

#[tokio::test]
async fn fifteen_replicas_converge_and_leave_nothing_behind() {
    let server = Server::alone(&[]).await;
    let mut running = tokio::task::JoinSet::new();
    let port = server.placement.address.port();
    for index in 0..15 {
        running.spawn(async move {
            let name = format!("h{index}");
            let mut stream = Stream::open(port, says::v117(&name, &["a"])).await.expect("the stream opens");
            loop {
                let update = stream.round(|order| Some(says::ack(&name, order))).await;
                if hosts_of(&update, "a").len() == 15 {
                    return stream;
                }
            }
        });
    }
    let mut streams = Vec::new();
    while let Some(stream) = running.join_next().await {
        streams.push(stream.expect("it converges"));
    }
    drop(streams);
    testkit::wait_until("an empty state", support::DEADLINE, || async {
        (server.state().await == serde_json::json!({})).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_configured_window_collects_streams_that_queue_after_a_round() {
    let server = Server::alone(&["--disseminate-coalesce-window=500ms"]).await;
    let a = || says::op_less("a", &["actorA"]);
    let mut first = server.connect(a()).await;
    first.round(|_| Some(a())).await;
    // The last acknowledgement ends the round, which arms the window.
    let mut b = server.connect(says::op_less("b", &["actorB"])).await;
    b.stays_quiet(Duration::from_millis(200)).await;
    let mut c = server.connect(says::op_less("c", &["actorC"])).await;
    let (b, c) = (b.expect("lock").await, c.expect("lock").await);
    assert_eq!((b.version, c.version), (2, 2));
}

#[tokio::test]
async fn refusals_carry_the_codes_and_texts_of_the_contract() {
    let server = Server::alone(&[]).await;
    let mut foreign = says::v117("app", &["ok", "dapr.internal.other.app"]);
    let mut nameless = says::v117("app", &[]);
    nameless.namespace.clear();
    let mut versioned = says::op_less("app", &[]);
    versioned.version = Some(1);
    foreign.api_level = 20;
    for (host, code, text) in [
        (
            foreign,
            Code::PermissionDenied,
            "entity dapr.internal.other.app is not allowed for app ID app in namespace default",
        ),
        (nameless, Code::InvalidArgument, "host ID and namespace must be provided"),
        (versioned, Code::InvalidArgument, "both operation and version must be set or both must be unset"),
    ] {
        let status = server.connect(host).await.next().await.expect_err("refused");
        assert_eq!((status.code(), status.message()), (code, text));
    }
}

#[tokio::test]
async fn a_second_message_is_authorized_like_the_first() {
    let server = Server::alone(&[]).await;
    let mut stream = server.connect(says::v117("app", &["a"])).await;
    stream.round(|order| Some(says::ack("app", order))).await;
    stream.send(says::v117("app", &["dapr.internal.default.other"])).await;
    assert_eq!(stream.next().await.expect_err("refused").code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_newer_stream_of_the_same_sidecar_replaces_the_older_one() {
    let server = Server::alone(&[]).await;
    let mut old = server.connect(says::v117("app", &["a"])).await;
    old.round(|order| Some(says::ack("app", order))).await;
    let mut new = server.connect(says::v117("app", &["a"])).await;
    assert_eq!(old.next().await.expect_err("superseded").code(), Code::Aborted);
    let update = new.round(|order| Some(says::ack("app", order))).await;
    assert_eq!(hosts_of(&update, "a"), ["app"]);
}

#[tokio::test]
async fn a_client_that_stops_reading_hurts_only_itself() {
    let server = Server::alone(&["--disseminate-timeout=1s"]).await;
    let mut reads = server.connect(says::v117("reads", &["a"])).await;
    reads.round(|order| Some(says::ack("reads", order))).await;
    let _never_reads = server.connect(says::v117("never", &["a"])).await;
    let update = reads.round(|order| Some(says::ack("reads", order))).await;
    assert_eq!(hosts_of(&update, "a"), ["reads"]);
}
