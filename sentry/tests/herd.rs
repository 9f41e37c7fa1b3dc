//! Many sidecars at once against one replica, and an API server that is away: nobody who keeps
//! daprd's budget (5 tries of 3 s) goes without, the API server sees a bounded number of reviews
//! and no storm. Time is virtual, so it is the waiting that is tested, not the machine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions of a test")]

mod support;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use identity::SpiffeId;
use kube::client::Body;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use proto::sentry::v1::{SignCertificateRequest, ca_server::Ca as _, sign_certificate_request::TokenValidator};
use runtime::CancellationToken;
use sentry::{
    core::{decide::Bundle, dns_names::Home, validity::Lifetimes},
    directory::Directory,
    grpc::CaService,
    issuer::{Issuer, load_now},
    metrics::Metrics,
    validators::{Validators, kubernetes::KubernetesValidator},
};
use serde_json::{Value, json};
use support::{Ca, greedy_csr};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};

/// How long the service holds a call.
const HELD: Duration = Duration::from_millis(2500);
/// Of daprd: tries, time for each, and the pause that grows by itself.
const TRIES: u32 = 5;
const TRY_LIMIT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// An API server in this process.
struct Api {
    latency: Duration,
    /// Reviews fail until then.
    away_until: Instant,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    reviews: AtomicUsize,
    /// When each caller's current try began.
    began: Mutex<Vec<Instant>>,
    /// Ages of tries whose review began.
    oldest: Mutex<Duration>,
}

impl Api {
    fn new(callers: usize, latency: Duration) -> Self {
        Self {
            latency,
            away_until: Instant::now(),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            reviews: AtomicUsize::new(0),
            began: Mutex::new(vec![Instant::now(); callers]),
            oldest: Mutex::new(Duration::ZERO),
        }
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if request.uri().query().is_some_and(|query| query.contains("watch=")) {
            return std::future::pending().await;
        }
        match path.as_str() {
            "/api/v1/pods" => json_answer(
                StatusCode::OK,
                &json!({"metadata": {"resourceVersion": "1"}, "items": [
                    support::api::pod("p", "app", "sa", &json!({"dapr.io/app-id": "my-app"})),
                ]}),
            ),
            "/apis/authentication.k8s.io/v1/tokenreviews" => {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                self.review(serde_json::from_slice(&body).unwrap()).await
            }
            _ => json_answer(StatusCode::OK, &json!({"metadata": {"resourceVersion": "1"}, "items": []})),
        }
    }

    async fn review(&self, mut review: Value) -> Response<Body> {
        let claims: Value = serde_json::from_str(review["spec"]["token"].as_str().unwrap()).unwrap();
        let caller = usize::try_from(claims["caller"].as_u64().unwrap()).unwrap();
        let age = self.began.lock()[caller].elapsed();
        {
            let mut oldest = self.oldest.lock();
            *oldest = age.max(*oldest);
        }
        self.reviews.fetch_add(1, Ordering::Relaxed);
        if Instant::now() < self.away_until {
            let body =
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503, "message": "away"});
            return json_answer(StatusCode::SERVICE_UNAVAILABLE, &body);
        }
        let under_way = UnderWay::enter(self);
        sleep(self.latency).await;
        drop(under_way);
        review["status"] = json!({"authenticated": true, "user": {"username": "system:serviceaccount:app:sa"}});
        json_answer(StatusCode::CREATED, &review)
    }
}

/// Counts a review also if it is given up in its midst.
struct UnderWay<'a>(&'a Api);

impl<'a> UnderWay<'a> {
    fn enter(api: &'a Api) -> Self {
        let count = api.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        api.most_under_way.fetch_max(count, Ordering::Relaxed);
        Self(api)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Body> {
    let body = Body::from(body.to_string().into_bytes());
    Response::builder().status(status).header("content-type", "application/json").body(body).unwrap()
}

/// A service whose API server is `api`, with filled caches.
async fn service(api: &Arc<Api>) -> (Arc<CaService>, JoinSet<()>) {
    let shared = Arc::clone(api);
    let answer = tower::service_fn(move |request: Request<Body>| {
        let api = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(api.answer(request).await) }
    });
    let client = kube::Client::new(answer, "default");
    let directory = Directory::new(client.clone());
    let mut followers = JoinSet::new();
    let (pods, configurations) = (directory.clone(), directory.clone());
    followers.spawn(async move { pods.follow_pods(CancellationToken::new()).await.unwrap() });
    followers.spawn(async move { configurations.follow_configurations(CancellationToken::new()).await.unwrap() });
    directory.synced().await;
    let metrics = Metrics::register(&mut Registry::default());
    let sentry = SpiffeId::parse("spiffe://cluster.local/ns/dapr-system/dapr-sentry").unwrap();
    let kubernetes = KubernetesValidator::new(client, directory, sentry, metrics.clone());
    let x509 = load_now(Ca::new(&rcgen::PKCS_ED25519).stored()).unwrap();
    let service = CaService {
        validators: Validators { kubernetes: Some(kubernetes), jwks: None, insecure: false },
        issuer: Arc::new(Issuer::new(Bundle { x509, jwt: None }, Lifetimes::default())),
        home: Home { namespace: "dapr-system".into(), cluster_domain: "cluster.local".into() },
        jwt: None,
        metrics,
    };
    (Arc::new(service), followers)
}

/// One sidecar's start: which try succeeded, or the last refusal.
async fn start(service: Arc<CaService>, api: Arc<Api>, caller: usize, csr: Arc<Vec<u8>>) -> Result<u32, Status> {
    let token = json!({"caller": caller, "kubernetes.io": {"pod": {"name": "p"}}}).to_string();
    let asked = SignCertificateRequest {
        id: "my-app".into(),
        namespace: "app".into(),
        token,
        token_validator: TokenValidator::Kubernetes.into(),
        certificate_signing_request: csr.to_vec(),
        ..SignCertificateRequest::default()
    };
    let mut last = Status::unknown("never tried");
    for attempt in 1..=TRIES {
        api.began.lock()[caller] = Instant::now();
        last = match timeout(TRY_LIMIT, service.sign_certificate(tonic::Request::new(asked.clone()))).await {
            Ok(Ok(_)) => return Ok(attempt),
            Ok(Err(status)) if status.code() == Code::Unavailable => status,
            Ok(Err(status)) => return Err(status),
            Err(_) => Status::deadline_exceeded("3 s are over"),
        };
        sleep(PAUSE * attempt).await;
    }
    Err(last)
}

/// Starts all callers at once. Returns how many needed how many tries.
async fn herd(api: &Arc<Api>, callers: usize) -> [usize; 5] {
    let (service, _followers) = service(api).await;
    let csr = Arc::new(greedy_csr(&rcgen::PKCS_ED25519).1);
    let mut starts = JoinSet::new();
    for caller in 0..callers {
        starts.spawn(start(Arc::clone(&service), Arc::clone(api), caller, Arc::clone(&csr)));
    }
    let mut tries = [0; 5];
    while let Some(done) = starts.join_next().await {
        tries[done.unwrap().unwrap() as usize - 1] += 1;
    }
    assert_eq!(tries.iter().sum::<usize>(), callers);
    tries
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_sidecars_at_once_all_get_a_certificate_with_one_review_each() {
    let api = Arc::new(Api::new(10_000, Duration::from_millis(20)));
    herd(&api, 10_000).await;
    assert_eq!(api.reviews.load(Ordering::Relaxed), 10_000, "no retry storm");
    let most = api.most_under_way.load(Ordering::Relaxed);
    assert!((1..=128).contains(&most), "{most} reviews at once");
}

#[tokio::test(start_paused = true)]
async fn calls_whose_time_is_over_are_dropped_before_any_work_and_their_next_try_succeeds() {
    // 128 reviews at once of 100 ms: 3,200 fit into one call's time.
    let api = Arc::new(Api::new(6_000, Duration::from_millis(100)));
    let tries = herd(&api, 6_000).await;
    assert!(tries[0] > 0 && tries[1] > 0, "some had to come again: {tries:?}");
    let oldest = *api.oldest.lock();
    assert!(oldest < HELD, "a review was begun for a call {oldest:?} old");
    let reviews = api.reviews.load(Ordering::Relaxed);
    // Those begun just before the end of a call are lost, at most one round of places for each try.
    assert!(reviews <= 6_000 + 128 * 4, "{reviews} reviews for 6000 callers");
}

#[tokio::test(start_paused = true)]
async fn fifty_sidecars_outlive_ten_seconds_without_an_api_server() {
    let away = Duration::from_secs(10);
    let api = Arc::new(Api { away_until: Instant::now() + away, ..Api::new(50, Duration::from_millis(20)) });
    let tries = herd(&api, 50).await;
    assert_eq!(tries[..3], [0, 0, 0], "ten seconds are more than three tries");
    let reviews = api.reviews.load(Ordering::Relaxed);
    assert!(reviews <= 50 * 60, "{reviews} reviews: calls are held, not hammered");
}
