//! The workload task against a scripted sentry: first identity, renewal, anchors, refusals.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use identity::{
    ControlPlaneService, LeafKey, Security, Svid, SvidRx, Workload,
    workload::{
        AnchorSource, FetchError, Host, KeyKind, OptionsError, Stopped, Task, Timing, TokenSource, WorkloadError,
        WorkloadOptions,
    },
};
use support::{
    Ca, DEADLINE, SENTRY,
    sentry::{FakeSentry, Life},
};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// One test: a task set and an authority.
struct World {
    tasks: JoinSet<()>,
    ca: Arc<Ca>,
    folder: tempfile::TempDir,
    stop: CancellationToken,
}

type Ended = oneshot::Receiver<Result<(), WorkloadError>>;

impl World {
    fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            ca: Arc::new(Ca::new("a")),
            folder: tempfile::tempdir().unwrap(),
            stop: CancellationToken::new(),
        }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn options(&self, sentry: &FakeSentry) -> WorkloadOptions {
        let anchors = AnchorSource::Inline(self.ca.root.pem().into());
        let mut options = WorkloadOptions::control_plane(
            ControlPlaneService::Placement,
            "cluster.local".parse().unwrap(),
            "dapr-system".parse().unwrap(),
            sentry.addr.to_string(),
            (anchors, TokenSource::None),
        );
        options.timing = Timing {
            anchors_poll: Duration::from_millis(20),
            renewal_retry: Duration::from_millis(50),
            clock_check: Duration::from_millis(50),
            least_between: Duration::from_millis(20),
        };
        options
    }

    fn run(&mut self, task: Task) -> Ended {
        let (tx, rx) = oneshot::channel();
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _ = tx.send(task.run(stop).await);
        });
        rx
    }

    async fn ready(&mut self, options: WorkloadOptions) -> (Workload, Ended) {
        let (workload, task) = Workload::start(options).unwrap();
        let ended = self.run(task);
        timeout(DEADLINE, workload.ready()).await.expect("ready").unwrap();
        (workload, ended)
    }
}

async fn next_svid(rx: &mut SvidRx) -> Arc<Svid> {
    timeout(DEADLINE, rx.changed()).await.expect("another SVID").unwrap();
    rx.borrow_and_update().clone().unwrap()
}

async fn error_of(ended: Ended) -> WorkloadError {
    timeout(DEADLINE, ended).await.expect("the task ends").unwrap().unwrap_err()
}

#[tokio::test]
async fn the_first_identity_is_asked_for_as_sentry_expects() {
    let mut world = World::new();
    let sentry = FakeSentry::start(&mut world.tasks, &world.ca).await;
    let ready = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ready);
    let (workload, task) = Workload::start(world.options(&sentry)).unwrap();
    assert!(workload.current_svid().is_none());
    let _ended = world.run(task.on_ready(move || seen.store(true, Ordering::SeqCst)));
    timeout(DEADLINE, workload.ready()).await.unwrap().unwrap();

    let svid = workload.current_svid().unwrap();
    assert_eq!(svid.id().to_string(), "spiffe://cluster.local/ns/dapr-system/dapr-placement");
    assert_eq!(svid.key_kind(), LeafKey::Ed25519);
    assert_eq!(svid.chain().len(), 2);
    assert_eq!(workload.trust_anchors().unwrap().pem(), world.ca.root.pem().as_bytes());
    testkit::wait_until("the hook is called", DEADLINE, || async { ready.load(Ordering::SeqCst).then_some(()) }).await;

    let request = sentry.requests().remove(0);
    assert_eq!(request.id, "dapr-placement");
    assert_eq!(request.namespace, "dapr-system");
    assert_eq!(request.trust_domain, "cluster.local");
    assert_eq!((request.token.as_str(), request.token_validator), ("", 0));
    let csr = String::from_utf8(request.certificate_signing_request).unwrap();
    assert!(csr.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{csr}");
    let csr = rcgen::CertificateSigningRequestParams::from_pem(&csr).unwrap();
    assert!(csr.params.subject_alt_names.is_empty());
    assert_eq!(csr.params.distinguished_name.iter().count(), 0);
}

#[tokio::test]
async fn only_the_control_plane_in_its_namespace_asks_for_a_trust_domain() {
    let mut world = World::new();
    let sentry = FakeSentry::start(&mut world.tasks, &world.ca).await;
    let mut elsewhere = world.options(&sentry);
    elsewhere.namespace = "shop".parse().unwrap();
    let mut app = world.options(&sentry);
    app.app_id = "cart".parse().unwrap();
    for options in [elsewhere, app] {
        let (workload, _ended) = world.ready(options).await;
        let id = workload.current_svid().unwrap().id().clone();
        assert_eq!(id.trust_domain().as_str(), "public");
    }
    assert!(sentry.requests().iter().all(|request| request.trust_domain.is_empty()));
}

#[tokio::test]
async fn operator_and_injector_get_rsa_keys() {
    let mut world = World::new();
    let sentry = FakeSentry::start(&mut world.tasks, &world.ca).await;
    for (key, expected) in [
        (KeyKind::of_service(ControlPlaneService::Operator), LeafKey::Rsa),
        (KeyKind::of_service(ControlPlaneService::Injector), LeafKey::Rsa),
        (KeyKind::of_service(ControlPlaneService::Placement), LeafKey::Ed25519),
        (KeyKind::P256, LeafKey::EcdsaP256),
    ] {
        let mut options = world.options(&sentry);
        options.key = key;
        let (workload, _ended) = world.ready(options).await;
        assert_eq!(workload.current_svid().unwrap().key_kind(), expected);
    }
}

#[tokio::test]
async fn the_identity_is_renewed_at_half_of_its_life_with_a_fresh_key_and_token() {
    let mut world = World::new();
    let sentry = FakeSentry::start(&mut world.tasks, &world.ca).await;
    let half_in_two_seconds = Life(time::Duration::hours(-1), time::Duration::seconds(3604));
    sentry.script.lock().unwrap().lives = [half_in_two_seconds, Life::DAY].into();
    let token = world.write("token", "first");
    let mut options = world.options(&sentry);
    options.token = TokenSource::choose(Host::Standalone, token.to_str()).unwrap();
    let (workload, _ended) = world.ready(options).await;
    let mut rx = workload.svid_rx();
    let first = rx.borrow_and_update().clone().unwrap();
    world.write("token", "second");
    let second = next_svid(&mut rx).await;

    let half = i64::midpoint(first.not_before(), first.not_after());
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    assert!(now >= half, "not before {half}, but at {now}");
    let requests = sentry.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].token.as_str(), requests[1].token.as_str()), ("first", "second"));
    assert_eq!(requests[1].token_validator, 3, "JWKS");
    assert_ne!(first.chain()[0], second.chain()[0]);
    let csr = |at: usize| requests[at].certificate_signing_request.clone();
    assert_ne!(csr(0), csr(1), "the key is fresh");
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_old_identity_and_is_tried_again() {
    let mut world = World::new();
    let sentry = FakeSentry::start(&mut world.tasks, &world.ca).await;
    sentry.script.lock().unwrap().lives = [Life(time::Duration::hours(-2), time::Duration::hours(1)), Life::DAY].into();
    let refusals = [Status::permission_denied("no"), Status::internal("no")];
    let (workload, task) = Workload::start(world.options(&sentry)).unwrap();
    let mut rx = workload.svid_rx();
    let mut ended = world.run(task);
    next_svid(&mut rx).await;
    sentry.script.lock().unwrap().refusals = refusals.into();
    next_svid(&mut rx).await;
    assert!(ended.try_recv().is_err(), "the task goes on");
}

#[tokio::test]
async fn a_refused_first_identity_ends_the_task() {
    for refusal in [
        Status::permission_denied("app-id mismatch"),
        Status::invalid_argument("bad"),
        Status::internal("failed to sign certificate"),
    ] {
        let mut world = World::new();
        let sentry = FakeSentry::start(&mut world.tasks, &world.ca).await;
        let text = refusal.message().to_owned();
        sentry.script.lock().unwrap().refusals = [refusal].into();
        let (workload, task) = Workload::start(world.options(&sentry)).unwrap();
        let ended = world.run(task);
        let error = error_of(ended).await;
        let WorkloadError::InitialIdentity(FetchError::Refused(_)) = &error else {
            panic!("{error:?}");
        };
        let start = "failed to retrieve the initial identity: error from sentry SignCertificate: ";
        assert!(error.to_string().starts_with(start), "{error}");
        assert!(error.to_string().ends_with(&text), "{error}");
        assert_eq!(sentry.requests().len(), 1, "asked once only");
        assert_eq!(workload.ready().await, Err(Stopped));
    }
}

#[tokio::test]
async fn trouble_that_may_pass_is_tried_again() {
    let mut world = World::new();
    let sentry = FakeSentry::start(&mut world.tasks, &world.ca).await;
    let busy = || Status::unavailable("not synced");
    // More than one call's five tries.
    let refusals = [busy(), Status::resource_exhausted("x"), busy(), busy(), busy(), busy()];
    sentry.script.lock().unwrap().refusals = refusals.into();
    let options = world.options(&sentry);
    world.ready(options).await;
    assert_eq!(sentry.requests().len(), 7);
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_refusal() {
    let mut world = World::new();
    let ca = Arc::clone(&world.ca);
    let sentry = FakeSentry::start_breaking(&mut world.tasks, &ca, Arc::clone(&ca), (SENTRY, 0, 7)).await;
    let options = world.options(&sentry);
    world.ready(options).await;
    assert_eq!(sentry.requests().len(), 1);
}

#[tokio::test]
async fn a_token_that_cannot_be_read_ends_the_task_naming_the_file() {
    let mut world = World::new();
    let sentry = FakeSentry::start(&mut world.tasks, &world.ca).await;
    let empty = world.write("empty", "");
    let missing = world.folder.path().join("missing");
    for path in [empty, missing] {
        let mut options = world.options(&sentry);
        options.token = TokenSource::choose(Host::Kubernetes, path.to_str()).unwrap();
        let (_workload, task) = Workload::start(options).unwrap();
        let ended = world.run(task);
        let error = error_of(ended).await;
        let WorkloadError::InitialIdentity(FetchError::Token(_)) = &error else {
            panic!("{error:?}");
        };
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    assert!(sentry.requests().is_empty());
}

#[tokio::test]
async fn a_sentry_that_is_not_the_expected_one_is_never_asked() {
    let mut world = World::new();
    let (ca, stranger) = (Arc::clone(&world.ca), Ca::new("a"));
    let placement = "spiffe://cluster.local/ns/dapr-system/dapr-placement";
    let impostor = FakeSentry::start_as(&mut world.tasks, &ca, Arc::clone(&ca), placement, 0).await;
    let foreign = FakeSentry::start_as(&mut world.tasks, &stranger, Arc::clone(&ca), SENTRY, 0).await;
    for sentry in [impostor, foreign] {
        let (workload, task) = Workload::start(world.options(&sentry)).unwrap();
        let mut ended = world.run(task);
        // It waits for a trustworthy one, for as long as it takes: several dials are enough.
        let ready = timeout(Duration::from_millis(1500), workload.ready()).await;
        assert!(ready.is_err(), "{ready:?}");
        assert!(ended.try_recv().is_err(), "the task goes on");
        assert!(sentry.requests().is_empty());
    }
}

#[tokio::test]
async fn sentry_may_come_up_later() {
    let mut world = World::new();
    let ca = Arc::clone(&world.ca);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let later = FakeSentry::start_as(&mut JoinSet::new(), &ca, Arc::clone(&ca), SENTRY, 0).await;
    let mut options = world.options(&later);
    options.sentry_address = format!("127.0.0.1:{port}");
    let (workload, task) = Workload::start(options).unwrap();
    let _ended = world.run(task);
    assert!(timeout(Duration::from_millis(300), workload.ready()).await.is_err());
    FakeSentry::start_as(&mut world.tasks, &ca, Arc::clone(&ca), SENTRY, port).await;
    timeout(DEADLINE, workload.ready()).await.unwrap().unwrap();
}

/// Swaps the content the way the kubelet does: a new folder and a renamed symlink to it.
fn kubelet_swap(mount: &Path, generation: u32, content: impl AsRef<[u8]>) {
    let folder = mount.join(format!("..{generation}"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("ca.crt"), content).unwrap();
    let fresh = mount.join("..data_tmp");
    symlink(&folder, &fresh).unwrap();
    std::fs::rename(&fresh, mount.join("..data")).unwrap();
    if generation > 0 {
        std::fs::remove_dir_all(mount.join(format!("..{}", generation - 1))).unwrap();
    } else {
        symlink("..data/ca.crt", mount.join("ca.crt")).unwrap();
    }
}

#[tokio::test]
async fn every_change_of_the_anchor_file_is_seen_and_renews_the_identity() {
    let mut world = World::new();
    let sentry = FakeSentry::start(&mut world.tasks, &world.ca).await;
    let mount = world.folder.path().to_owned();
    let mut options = world.options(&sentry);
    options.trust_anchors = AnchorSource::File(mount.join("ca.crt"));
    let (workload, task) = Workload::start(options).unwrap();
    let _ended = world.run(task);
    // The file appears late.
    assert!(timeout(Duration::from_millis(200), workload.ready()).await.is_err());
    kubelet_swap(&mount, 0, world.ca.root.pem());
    let mut rx = workload.svid_rx();
    next_svid(&mut rx).await;
    for generation in 1..4 {
        let pem = format!("{}{}", world.ca.root.pem(), Ca::new("extra").root.pem());
        kubelet_swap(&mount, generation, &pem);
        next_svid(&mut rx).await;
        assert_eq!(workload.trust_anchors().unwrap().pem(), pem.as_bytes());
    }
}

#[tokio::test]
async fn the_task_ends_when_stopped_also_while_it_waits() {
    let mut world = World::new();
    let sentry = FakeSentry::start(&mut world.tasks, &world.ca).await;
    let mut waiting = world.options(&sentry);
    waiting.trust_anchors = AnchorSource::File(world.folder.path().join("never"));
    let (_workload, task) = Workload::start(waiting).unwrap();
    let waiting = world.run(task);
    let options = world.options(&sentry);
    let (_workload, running) = world.ready(options).await;
    world.stop.cancel();
    for ended in [waiting, running] {
        timeout(DEADLINE, ended).await.expect("the task ends").unwrap().unwrap();
    }
}

#[tokio::test]
async fn without_tls_everything_is_ready_and_plain() {
    let (security, task) = Security::start(None).unwrap();
    security.ready().await.unwrap();
    assert!(security.server(identity::PeerRule::AnySpiffeId).is_none());
    assert!(security.client(SENTRY.parse().unwrap()).is_none());
    assert!(security.workload().is_none());
    let stop = CancellationToken::new();
    stop.cancel();
    task.run(stop).await.unwrap();
}

#[test]
fn anchors_come_from_exactly_one_place() {
    let pem = || Some("pem".to_owned());
    let file = || Some(PathBuf::from("/ca.crt"));
    let both = AnchorSource::exactly_one(pem(), file()).unwrap_err();
    assert_eq!(both.to_string(), "trust anchors cannot be specified in both TrustAnchors and TrustAnchorsFile");
    let none = AnchorSource::exactly_one(Some(String::new()), None).unwrap_err();
    assert_eq!(none.to_string(), "trust anchors are required");
    assert_eq!(AnchorSource::exactly_one(pem(), None).unwrap(), AnchorSource::Inline("pem".into()));
    assert_eq!(AnchorSource::exactly_one(None, file()).unwrap(), AnchorSource::File("/ca.crt".into()));
}

#[tokio::test]
async fn options_that_cannot_work_are_refused_at_once() {
    let mut world = World::new();
    let sentry = FakeSentry::start(&mut world.tasks, &world.ca).await;
    let mut bad_anchors = world.options(&sentry);
    bad_anchors.trust_anchors = AnchorSource::Inline("garbage".into());
    assert!(matches!(Workload::start(bad_anchors), Err(OptionsError::Anchors(_))));
    let mut bad_address = world.options(&sentry);
    bad_address.sentry_address = "sentry".into();
    assert!(matches!(Workload::start(bad_address), Err(OptionsError::SentryAddress(_))));
}

#[test]
fn the_token_follows_the_environment() {
    assert_eq!(TokenSource::choose(Host::Kubernetes, None).unwrap(), TokenSource::KubernetesPod);
    assert_eq!(TokenSource::choose(Host::Standalone, None).unwrap(), TokenSource::None);
    assert!(TokenSource::choose(Host::Kubernetes, Some("")).is_err());
}
