//! Rows of contract placement.md §14, "Timeouts" and "Authorization", that `streams.rs` does not hold, over
//! real gRPC.

mod support;

use support::{DEADLINE, Server, hosts_of, says};
use testkit::wait_until;
use tonic::Code;

/// Row: one of two streams silent: the state shows only the healthy host.
#[tokio::test]
async fn a_silent_host_is_not_shown_any_more() {
    let server = Server::alone(&["--disseminate-timeout=1s"]).await;
    let healthy = || says::op_less("healthy", &["a"]);
    let mut first = server.connect(healthy()).await;
    first.round(|_| Some(healthy())).await;
    let mut silent = server.connect(says::op_less("silent", &["a"])).await;
    first.expect("lock").await;
    first.send(healthy()).await;
    silent.expect("lock").await;
    assert_eq!(silent.next().await.expect_err("a timeout").code(), Code::DeadlineExceeded);
    first.round(|_| Some(healthy())).await;
    let state = server.state().await;
    let hosts = state["tables"]["default"]["hosts"].as_array().cloned().unwrap_or_default();
    assert_eq!(hosts.iter().map(|h| h["name"].clone()).collect::<Vec<_>>(), ["healthy"]);
}

/// Row: streams queued behind a silent stream are not closed by the timeout; all get `lock` of the new round;
/// the final table has all of them and not the silent one.
#[tokio::test]
async fn streams_queued_behind_a_silent_one_are_not_closed() {
    let server = Server::alone(&["--disseminate-timeout=1s"]).await;
    let mut silent = server.connect(says::op_less("silent", &["a"])).await;
    silent.expect("lock").await;
    let hosts = [says::op_less("q1", &["a"]), says::op_less("q2", &["a"])];
    let mut queued = [server.connect(hosts[0].clone()).await, server.connect(hosts[1].clone()).await];
    assert_eq!(silent.next().await.expect_err("a timeout").code(), Code::DeadlineExceeded);
    let [one, other] = &mut queued;
    let (first, second) = tokio::join!(one.round(|_| Some(hosts[0].clone())), other.round(|_| Some(hosts[1].clone())));
    assert_eq!((first.version, second.version), (2, 2));
    assert_eq!(hosts_of(&first, "a"), ["q1", "q2"]);
}

/// Row: when every stream was removed the namespace returns to idle.
#[tokio::test]
async fn a_namespace_whose_streams_all_timed_out_serves_the_next_one() {
    let server = Server::alone(&["--disseminate-timeout=1s"]).await;
    let mut silent = server.connect(says::op_less("silent", &["a"])).await;
    silent.expect("lock").await;
    assert_eq!(silent.next().await.expect_err("a timeout").code(), Code::DeadlineExceeded);
    wait_until("an empty state", DEADLINE, || async { (server.state().await == serde_json::json!({})).then_some(()) })
        .await;
    let host = || says::op_less("next", &["a"]);
    let mut next = server.connect(host()).await;
    assert_eq!(hosts_of(&next.round(|_| Some(host())).await, "a"), ["next"]);
}

/// Row: no mTLS: any id/namespace pair is accepted and answered.
#[tokio::test]
async fn without_mtls_any_id_and_namespace_is_accepted() {
    let server = Server::alone(&[]).await;
    for (id, namespace) in [("app-1", "ns-1"), ("app-2", "ns-1"), ("something else", "ns/2")] {
        let host = proto::placement::v1::Host { namespace: namespace.into(), ..says::v117(id, &["a"]) };
        let mut stream = server.connect(host).await;
        stream.expect("lock").await;
    }
}

/// Row: types `dapr.internal.default.app-1[.x[.y]]` are allowed for app-1 in default.
#[tokio::test]
async fn an_app_may_host_its_own_reserved_types() {
    let server = Server::alone(&[]).await;
    for own in ["dapr.internal.default.app-1", "dapr.internal.default.app-1.x", "dapr.internal.default.app-1.x.y"] {
        let mut stream = server.connect(says::v117("app-1", &[own])).await;
        let update = stream.round(|order| Some(says::ack("app-1", order))).await;
        assert_eq!(hosts_of(&update, own), ["app-1"]);
    }
}

/// Row: foreign reserved types are rejected with E8, also beside allowed ones and as second message.
#[tokio::test]
async fn a_foreign_reserved_type_is_rejected_wherever_it_comes() {
    let server = Server::alone(&[]).await;
    for foreign in [
        "dapr.internal",
        "dapr.internal.",
        "dapr.internal.foo.bar",
        "dapr.internal.default.",
        "dapr.internal.default.app-2",
    ] {
        let text = format!("entity {foreign} is not allowed for app ID app-1 in namespace default");
        let expected = (Code::PermissionDenied, text.as_str());
        let beside = says::v117("app-1", &["dapr.internal.default.app-1", foreign]);
        let status = server.connect(beside).await.next().await.expect_err("refused");
        assert_eq!((status.code(), status.message()), expected);
        let mut stream = server.connect(says::v117("app-1", &["a"])).await;
        stream.round(|order| Some(says::ack("app-1", order))).await;
        stream.send(says::v117("app-1", &[foreign])).await;
        let status = stream.next().await.expect_err("refused");
        assert_eq!((status.code(), status.message()), expected);
    }
}
