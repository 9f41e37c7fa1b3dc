//! Three replicas in one process: election, streams on every replica, what a new leader remembers.

mod support;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use identity::Security;
use openraft::Vote;
use openraft::raft::AppendEntriesRequest;
use placement::core::LEASE;
use placement::raft::{Method, Peers, Types, node_id};
use proto::placement::v1::Host;
use support::{DEADLINE, Server, Stream, hosts_of, says};
use testkit::wait_until;
use tokio::sync::{Mutex, MutexGuard};
use tonic::Code;

/// A replica that starts late is taken in within a second; machines that are busy get more.
const JOIN_DEADLINE: Duration = Duration::from_secs(15);
/// A member that is in no list is given 10 s to answer.
const GONE_DEADLINE: Duration = Duration::from_secs(30);

/// One cluster at a time: a follower campaigns when it hears nothing for 1.5 s, and seven clusters of
/// three, each with its disks, can keep two cores from speaking that often.
static ONE_CLUSTER: Mutex<()> = Mutex::const_new(());

/// Ports are given again at once: a node that still dials a dead one of its own must not find one that
/// has the same name in another cluster.
static CLUSTERS: AtomicU64 = AtomicU64::new(0);

struct Cluster {
    name: u64,
    peers: String,
    folders: Vec<tempfile::TempDir>,
    servers: Vec<Option<Server>>,
    /// Dropped last: the servers are gone by then.
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    async fn of(count: usize) -> Self {
        let mut cluster = Self::new(count).await;
        for index in 0..count {
            let server = cluster.start(index).await;
            cluster.servers.push(Some(server));
        }
        cluster.whole().await;
        cluster
    }

    /// Raft ports must be known beforehand: they are reserved and released again. Nobody runs yet.
    async fn new(count: usize) -> Self {
        let alone = ONE_CLUSTER.lock().await;
        let reserved: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let address = |l: &TcpListener| l.local_addr().expect("bound").to_string();
        let name = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let peers: Vec<_> = reserved.iter().enumerate().map(|(i, l)| format!("c{name}p{i}={}", address(l))).collect();
        drop(reserved);
        let folders = (0..count).map(|_| tempfile::tempdir().expect("a folder")).collect();
        Self { name, peers: peers.join(","), folders, servers: Vec::new(), _alone: alone }
    }

    /// Waits until every replica is a voter that the leader reaches. One that starts after the others
    /// formed the cluster is taken in only then, and until then the loss of another is the loss of two.
    async fn whole(&self) {
        let leader = self.leader().await;
        wait_until("all replicas are voters that the leader reaches", JOIN_DEADLINE, || async {
            let all = self.servers.iter().flatten().map(|server| server.placement.replica.status());
            let joined = all.into_iter().all(|status| status.voters == self.servers.len() && status.leader.is_some());
            (joined && self.server(leader).placement.replica.status().lag == 0).then_some(())
        })
        .await;
    }

    async fn start(&self, index: usize) -> Server {
        self.start_among(index, self.folders.len(), &[]).await
    }

    /// Starts one with a list of the first so many members, and more flags.
    async fn start_among(&self, index: usize, members: usize, more: &[&str]) -> Server {
        let peers: Vec<_> = self.peers.split(',').take(members).collect();
        let path = format!("--raft-logstore-path={}", self.folders[index].path().display());
        let (id, peers) = (format!("--id={}", self.id(index)), format!("--initial-cluster={}", peers.join(",")));
        let mut flags = vec![id.as_str(), &peers, &path, "--disseminate-hold=1s"];
        flags.extend(more);
        Server::start(&flags).await
    }

    /// Waits until every replica that runs counts so many voters and follows a leader.
    async fn voters(&self, count: usize) {
        self.voters_within(count, JOIN_DEADLINE).await;
    }

    async fn voters_within(&self, count: usize, limit: Duration) {
        wait_until(&format!("{count} voters"), limit, || async {
            let mut all = self.servers.iter().flatten().map(|server| server.placement.replica.status());
            all.all(|status| status.voters == count && status.leader.is_some()).then_some(())
        })
        .await;
    }

    fn id(&self, index: usize) -> String {
        format!("c{}p{index}", self.name)
    }

    async fn leader(&self) -> usize {
        wait_until("one leader", Duration::from_secs(20), || async {
            let leads = |s: &Option<Server>| s.as_ref().is_some_and(Server::leads);
            let leaders: Vec<_> = (0..self.servers.len()).filter(|i| leads(&self.servers[*i])).collect();
            (leaders.len() == 1).then(|| leaders[0])
        })
        .await
    }

    fn server(&self, index: usize) -> &Server {
        self.servers[index].as_ref().expect("it runs")
    }

    /// Waits until every replica knows that everyone has the table of this version.
    async fn settled(&self, version: u64) {
        for server in self.servers.iter().flatten() {
            wait_until("the ledger on every replica", DEADLINE, || async {
                let ledger = server.placement.replica.ledgers().get("default").cloned()?;
                (ledger.version == version && ledger.settled == placement::core::Settled::Yes).then_some(())
            })
            .await;
        }
    }

    /// Opens a stream on one replica, as soon as that has a lease.
    async fn connect(&self, index: usize, first: Host) -> Stream {
        let port = self.server(index).placement.address.port();
        let open = || async { Stream::open(port, first.clone()).await.ok() };
        wait_until("the replica takes streams", DEADLINE, open).await
    }

    async fn kill(&mut self, index: usize) {
        self.servers[index].take().expect("it runs").kill().await;
    }
}

async fn complete(stream: &mut Stream, name: &str) -> proto::placement::v1::PlacementOrder {
    stream.round(|order| Some(says::ack(name, order))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_peers_elect_one_leader_and_only_it_shows_the_state() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    assert_eq!(cluster.server(leader).state().await, serde_json::json!({}));
    assert_eq!(cluster.server((leader + 1) % 3).state().await, serde_json::Value::Null);
}

/// One stream on each replica, the leader's first, all with the table of version 3.
async fn one_stream_each(cluster: &Cluster, leader: usize) -> [Stream; 3] {
    let mut first = cluster.connect(leader, says::v117("h0", &["a"])).await;
    complete(&mut first, "h0").await;
    let mut second = cluster.connect((leader + 1) % 3, says::v117("h1", &["a"])).await;
    tokio::join!(complete(&mut first, "h0"), complete(&mut second, "h1"));
    let mut third = cluster.connect((leader + 2) % 3, says::v117("h2", &["a"])).await;
    let tables = tokio::join!(complete(&mut first, "h0"), complete(&mut second, "h1"), complete(&mut third, "h2"));
    assert_eq!(hosts_of(&tables.0, "a"), ["h0", "h1", "h2"]);
    assert_eq!((tables.0.version, &tables.0), (3, &tables.1));
    assert_eq!(tables.0, tables.2);
    cluster.settled(3).await;
    [first, second, third]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_on_all_replicas_hold_one_table_and_an_end_on_one_is_seen_by_all() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let [mut first, second, mut third] = one_stream_each(&cluster, leader).await;
    drop(second);
    let (one, other) = tokio::join!(complete(&mut first, "h0"), complete(&mut third, "h2"));
    assert_eq!((hosts_of(&one, "a"), one.version), (vec!["h0".to_owned(), "h2".to_owned()], 4));
    assert_eq!(one, other);
    third.send(says::v117("h2", &["a", "b"])).await;
    let (one, _) = tokio::join!(complete(&mut first, "h0"), complete(&mut third, "h2"));
    assert_eq!(hosts_of(&one, "b"), ["h2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_the_leader_ends_no_stream_elsewhere_and_moves_no_actor() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let [_, mut second, mut third] = one_stream_each(&cluster, leader).await;
    cluster.kill(leader).await;
    // The lost leader's sidecar turns to a follower at once, and has the same table as soon as there
    // is another leader; the others are not even disturbed.
    let mut first = cluster.connect((leader + 1) % 3, says::v117("h0", &["a"])).await;
    let again = complete(&mut first, "h0").await;
    assert_eq!((again.version, hosts_of(&again, "a").len()), (3, 3));
    second.stays_quiet(Duration::from_millis(200)).await;
    third.stays_quiet(Duration::from_millis(10)).await;
    // And they take part in what comes next.
    let mut new = cluster.connect((leader + 2) % 3, says::v117("h3", &["a"])).await;
    let tables = tokio::join!(
        complete(&mut first, "h0"),
        complete(&mut second, "h1"),
        complete(&mut third, "h2"),
        complete(&mut new, "h3"),
    );
    assert_eq!((tables.1.version, hosts_of(&tables.1, "a").len()), (4, 4));
    assert_eq!(tables.1, tables.2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_is_locked_when_the_leader_is_lost_gets_its_table_from_the_next() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let mut new = cluster.connect((leader + 1) % 3, says::v117("new", &["a"])).await;
    complete(&mut new, "new").await;
    let mut old = cluster.connect((leader + 2) % 3, says::v116("old", &["a"])).await;
    let (lock, old_lock) = (new.expect("lock").await, old.expect("lock").await);
    assert_eq!((lock.version, old_lock.version), (2, 2));
    cluster.kill(leader).await;
    // 1.16 counts: its LOCK gets one UPDATE and one UNLOCK, and no second LOCK before.
    let rest_of_round = async {
        let update = old.expect("update").await;
        old.expect("unlock").await;
        update
    };
    // The new leader may hear of one replica before the other: then there is a round for each.
    let both = async {
        loop {
            let update = complete(&mut new, "new").await;
            if hosts_of(&update, "a") == ["new", "old"] {
                break update;
            }
        }
    };
    let (update, seen) = tokio::join!(both, rest_of_round);
    assert!(update.version > 2, "{}", update.version);
    assert_eq!(seen, update);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_cut_off_ends_its_streams_within_three_seconds_of_its_lease() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let cut_off = (leader + 1) % 3;
    let mut host = cluster.connect(cut_off, says::v117("h", &["a"])).await;
    complete(&mut host, "h").await;
    cluster.kill(leader).await;
    cluster.kill((leader + 2) % 3).await;
    let since = tokio::time::Instant::now();
    assert_eq!(host.next().await.expect_err("its end").message(), "lost leadership");
    let most = LEASE + Duration::from_secs(3);
    assert!(since.elapsed() > LEASE && since.elapsed() < most + Duration::from_secs(1), "{:?}", since.elapsed());
    let port = cluster.server(cut_off).placement.address.port();
    let refused = Stream::open(port, says::v117("h", &["a"])).await.err().expect("a refusal");
    let text = format!("node id={} is not a leader. Only the leader can serve requests", cluster.id(cut_off));
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, text.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_goes_on_with_the_version_and_the_hosts_of_the_lost_one() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let mut stays = cluster.server(leader).connect(says::v117("stays", &["a"])).await;
    complete(&mut stays, "stays").await;
    let mut gone = cluster.server(leader).connect(says::v117("gone", &["a"])).await;
    let (first, second) = tokio::join!(complete(&mut stays, "stays"), complete(&mut gone, "gone"));
    assert_eq!((first.version, second.version), (2, 2));
    cluster.settled(2).await;
    cluster.kill(leader).await;

    let leader = cluster.leader().await;
    // Both are held: who comes back first gets the table with both, and the version did not fall.
    let mut stays = cluster.server(leader).connect(says::v117("stays", &["a"])).await;
    let update = complete(&mut stays, "stays").await;
    assert_eq!((update.version, hosts_of(&update, "a")), (2, vec!["gone".to_owned(), "stays".to_owned()]));
    // The hold of the one that stays away runs out: it leaves the table in a round of its own.
    let update = complete(&mut stays, "stays").await;
    assert_eq!((update.version, hosts_of(&update, "a")), (3, vec!["stays".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_host_gains_actors_while_another_one_is_held() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let mut held = cluster.server(leader).connect(says::v117("held", &["a"])).await;
    complete(&mut held, "held").await;
    cluster.kill(leader).await;
    let leader = cluster.leader().await;
    let mut new = cluster.server(leader).connect(says::v117("new", &["a"])).await;
    new.stays_quiet(Duration::from_secs(1)).await;
    let update = complete(&mut new, "new").await;
    assert_eq!(hosts_of(&update, "a"), ["new"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_and_hosts_survive_a_full_stop_with_a_log_path() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let mut host = cluster.server(leader).connect(says::v117("h", &["a"])).await;
    complete(&mut host, "h").await;
    cluster.settled(1).await;
    for index in 0..3 {
        cluster.kill(index).await;
    }
    for index in 0..3 {
        cluster.servers[index] = Some(cluster.start(index).await);
    }
    cluster.whole().await;
    let leader = cluster.leader().await;
    let mut host = cluster.server(leader).connect(says::v117("h", &["a"])).await;
    let update = complete(&mut host, "h").await;
    assert_eq!(hosts_of(&update, "a"), ["h"]);
    assert!(update.version >= 1);
    let mut other = cluster.server(leader).connect(says::v117("other", &["a"])).await;
    let (update, _) = tokio::join!(complete(&mut host, "h"), complete(&mut other, "other"));
    assert!(update.version > 1, "the version went on: {}", update.version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lost_its_disk_rejoins_and_becomes_a_voter_again() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let lost = (leader + 1) % 3;
    cluster.kill(lost).await;
    cluster.folders[lost] = tempfile::tempdir().expect("an empty disk");
    cluster.servers[lost] = Some(cluster.start(lost).await);
    cluster.whole().await;
    // It counts: with the third replica gone, the two of them still have a majority.
    let third = (leader + 2) % 3;
    cluster.kill(third).await;
    let mut host = cluster.server(leader).connect(says::v117("h", &["a"])).await;
    complete(&mut host, "h").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_leave_hands_leadership_over_and_every_stream_goes_on() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let [mut first, mut second, mut third] = one_stream_each(&cluster, leader).await;
    let replica = cluster.server(leader).placement.replica.clone();
    tokio::time::timeout(Duration::from_secs(10), replica.hand_over()).await.expect("in time");
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    // Nobody is missed: a new host is taken in without waiting for a hold.
    let mut new = cluster.connect(next, says::v117("h3", &["a"])).await;
    let tables = tokio::join!(
        complete(&mut first, "h0"),
        complete(&mut second, "h1"),
        complete(&mut third, "h2"),
        complete(&mut new, "h3"),
    );
    assert_eq!((tables.0.version, hosts_of(&tables.0, "a").len()), (4, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_bytes_on_the_raft_port_disturb_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cluster = Cluster::of(1).await;
    cluster.leader().await;
    let address = cluster.peers.split_once('=').expect("an address").1.to_owned();
    let mut socket = tokio::net::TcpStream::connect(&address).await.expect("it listens");
    socket.write_all(&[0x05, 0, 1, 2, 3, 255, 254]).await.expect("it reads");
    socket.shutdown().await.expect("half-closed");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut answer)).await;
    drop(read.expect("the connection ends"));
    let mut host = cluster.server(0).connect(says::v117("h", &["a"])).await;
    complete(&mut host, "h").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_starts_after_its_peers_formed_the_cluster_is_taken_in() {
    let mut cluster = Cluster::new(3).await;
    for index in 0..2 {
        cluster.servers.push(Some(cluster.start(index).await));
    }
    cluster.leader().await;
    cluster.servers.push(Some(cluster.start(2).await));
    cluster.whole().await;
}

/// An address is another node's one day, and Raft takes whatever comes for meant: what a leader says
/// to a node that is gone made the node that has its address now believe it leads, and panic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_meant_for_another_node_or_comes_from_a_namesake_is_refused() {
    let cluster = Cluster::of(1).await;
    let (id, address) = cluster.peers.split_once('=').expect("an address");
    let me = node_id(id);
    let security = Security::start(None).expect("plaintext").0;
    let peers = Peers::new(security, "spiffe://localhost/ns/default/dapr-placement".parse().expect("an identity"));
    let append = |leader| AppendEntriesRequest::<Types> {
        vote: Vote::new_committed(99, leader),
        prev_log_id: None,
        entries: vec![],
        leader_commit: None,
    };
    for (to, leader) in [(node_id("another"), me), (node_id("another"), node_id("third")), (me, me)] {
        let said: Result<serde_json::Value, _> =
            peers.call((to, address), Method::Append, &append(leader), DEADLINE).await;
        assert_eq!(said.expect_err("a refusal").code(), Code::NotFound);
    }
    let mut host = cluster.server(0).connect(says::v117("h", &["a"])).await;
    complete(&mut host, "h").await;
    assert!(cluster.server(0).leads());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_grows_to_three_while_it_works_and_then_survives_its_first_member() {
    let mut cluster = Cluster::new(3).await;
    cluster.servers.push(Some(cluster.start_among(0, 1, &[]).await));
    let mut first = cluster.connect(0, says::v117("h0", &["a"])).await;
    complete(&mut first, "h0").await;
    for (index, voters) in [(1, 2), (2, 3)] {
        cluster.servers.push(Some(cluster.start(index).await));
        cluster.voters(voters).await;
    }
    let mut second = cluster.connect(1, says::v117("h1", &["a"])).await;
    let tables = tokio::join!(complete(&mut first, "h0"), complete(&mut second, "h1"));
    assert_eq!((tables.0.version, &tables.0), (2, &tables.1), "the stream of the first replica went on");
    cluster.settled(2).await;
    cluster.kill(0).await;
    let mut first = cluster.connect(2, says::v117("h0", &["a"])).await;
    let again = complete(&mut first, "h0").await;
    assert_eq!((again.version, hosts_of(&again, "a").len()), (2, 2));
    second.stays_quiet(Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_three_to_five_and_shrinks_again_while_it_works() {
    let mut cluster = Cluster::new(5).await;
    for index in 0..3 {
        cluster.servers.push(Some(cluster.start_among(index, 3, &[]).await));
    }
    cluster.voters(3).await;
    for (index, voters) in [(3, 4), (4, 5)] {
        cluster.servers.push(Some(cluster.start(index).await));
        cluster.voters(voters).await;
    }
    let mut host = cluster.connect(0, says::v117("h", &["a"])).await;
    complete(&mut host, "h").await;
    let former = format!("--former-members={},{}", cluster.id(3), cluster.id(4));
    for index in 0..3 {
        cluster.kill(index).await;
        cluster.servers[index] = Some(cluster.start_among(index, 3, &[&former]).await);
        cluster.leader().await;
    }
    let leader = cluster.leader().await;
    if leader > 2 {
        let replica = cluster.server(leader).placement.replica.clone();
        replica.hand_over().await;
        cluster.kill(leader).await;
    }
    wait_until("three voters", Duration::from_secs(20), || async {
        let voters = |index: usize| cluster.server(index).placement.replica.status().voters;
        (0..3).all(|index| voters(index) == 3).then_some(())
    })
    .await;
    for index in 3..5 {
        drop(cluster.servers[index].take());
    }
    let leader = cluster.leader().await;
    let mut host = cluster.connect(leader, says::v117("h", &["a"])).await;
    let update = complete(&mut host, "h").await;
    assert_eq!(hosts_of(&update, "a"), ["h"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_five_members_those_that_are_stopped_give_up_their_votes_down_to_three_and_get_them_back() {
    let mut cluster = Cluster::of(5).await;
    let leader = cluster.leader().await;
    let leave = async |index: usize| {
        let replica = cluster.server(index).placement.replica.clone();
        replica.hand_over().await;
        replica.resign().await;
    };
    // The leader goes, too, while the other asks it to go on without its vote.
    let mut others = (0..5).filter(|index| *index != leader);
    let [second, kept, third] = [others.next(), others.next(), others.next()].map(|index| index.expect("five"));
    tokio::join!(leave(leader), leave(second));
    cluster.kill(leader).await;
    cluster.kill(second).await;
    cluster.voters(3).await;
    // Three can lose one, but spare none.
    cluster.server(third).placement.replica.resign().await;
    cluster.voters(3).await;
    // With five votes, two of which are gone, the loss of one more would have been the end.
    cluster.kill(third).await;
    cluster.leader().await;
    let mut host = cluster.connect(kept, says::v117("h", &["a"])).await;
    complete(&mut host, "h").await;
    cluster.servers[second] = Some(cluster.start(second).await);
    cluster.voters(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_in_no_list_any_more_and_does_not_answer_loses_its_vote_until_it_is_back() {
    let mut cluster = Cluster::of(4).await;
    cluster.kill(3).await;
    for index in 0..3 {
        cluster.kill(index).await;
        cluster.servers[index] = Some(cluster.start_among(index, 3, &[]).await);
        cluster.leader().await;
    }
    cluster.voters_within(3, GONE_DEADLINE).await;
    cluster.servers[3] = Some(cluster.start(3).await);
    cluster.voters(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_replica_with_a_log_path_goes_on_where_it_stopped() {
    let mut cluster = Cluster::of(1).await;
    let mut host = cluster.connect(0, says::v117("h", &["a"])).await;
    complete(&mut host, "h").await;
    cluster.settled(1).await;
    cluster.kill(0).await;
    cluster.servers[0] = Some(cluster.start(0).await);
    cluster.leader().await;
    let mut host = cluster.connect(0, says::v117("h", &["a"])).await;
    let update = complete(&mut host, "h").await;
    assert_eq!((update.version, hosts_of(&update, "a")), (1, vec!["h".to_owned()]));
}
