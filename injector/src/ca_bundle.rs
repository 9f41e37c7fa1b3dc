//! Keeps the trust anchors in our MutatingWebhookConfiguration.
//!
//! Without them the API server refuses our certificate and pods start without sidecars. So
//! the bundle is written once the first anchors are known, again whenever they change, and
//! again when someone else changed the object: seen by a watch where that is allowed, else
//! by writing the same bytes again from time to time (the API server ignores a patch that
//! changes nothing). Failures are retried with growing pauses; nothing here ends the process.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{StreamExt, stream::BoxStream};
use identity::{AnchorsRx, TrustAnchors};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use runtime::{BoxError, CancellationToken, health::Target};
use tokio::time::{Instant, sleep, timeout};

use crate::{core::bundle::covers, metrics::Metrics};

/// The object, as the chart names it.
pub const WEBHOOK: &str = "dapr-sidecar-injector";
/// How long one write may take.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// The first pause after a failed write; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(15);
/// Repairs of what others did wait if they insist: the first not at all, the second this long,
/// each further one twice as long up to the last; a quiet time makes the next one the first.
const FIRST_REPAIR_PAUSE: Duration = Duration::from_millis(200);
const LAST_REPAIR_PAUSE: Duration = Duration::from_secs(5);
const REPAIR_QUIET: Duration = Duration::from_mins(1);
/// How often the bundle is written where the object cannot be watched.
const REWRITE: Duration = Duration::from_secs(30);

/// Writes the bundle whenever it is needed.
pub struct CaBundle {
    client: Client,
    anchors: AnchorsRx,
    ready: Target,
    metrics: Metrics,
}

/// What can make a write necessary.
enum Cause {
    AnchorsChanged,
    ObjectDiffers,
    TimePassed,
}

impl CaBundle {
    /// `ready` becomes ready after the first write.
    pub fn new(client: Client, anchors: AnchorsRx, ready: Target, metrics: Metrics) -> Self {
        Self { client, anchors, ready, metrics }
    }

    /// Keeps the object right until stopped.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        stop.clone().run_until_cancelled_owned(self.keep()).await;
        Ok(())
    }

    async fn keep(&mut self) {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let named = watcher::Config::default().fields(&format!("metadata.name={WEBHOOK}"));
        let mut sight = Sight::Watch(watcher(api.clone(), named).default_backoff().boxed());
        let mut repairs = Repairs::default();
        while let Some(anchors) = self.first_anchors().await {
            self.write(&api, &anchors).await;
            match self.next_cause(&mut sight, &anchors).await {
                None => break,
                Some(Cause::AnchorsChanged) => tracing::info!("trust anchors changed"),
                Some(Cause::TimePassed) => tracing::debug!(name = WEBHOOK, "writing the trust anchors again"),
                Some(Cause::ObjectDiffers) => {
                    tracing::warn!(name = WEBHOOK, "the webhook configuration lacks our trust anchors, writing them");
                    sleep(repairs.pause(Instant::now())).await;
                }
            }
        }
        // The identity's task is gone and the process ends for that reason.
        std::future::pending::<()>().await;
    }

    /// Waits until a write is needed; `None` when anchors can no longer change.
    async fn next_cause(&mut self, sight: &mut Sight, anchors: &TrustAnchors) -> Option<Cause> {
        loop {
            tokio::select! {
                biased;
                changed = self.anchors.changed() => return changed.ok().map(|()| Cause::AnchorsChanged),
                seen = sight.next(anchors) => match seen {
                    Seen::Same => {}
                    Seen::Different => return Some(Cause::ObjectDiffers),
                    Seen::TimePassed => return Some(Cause::TimePassed),
                    Seen::Nothing { error } => {
                        tracing::warn!(
                            name = WEBHOOK,
                            error,
                            "the webhook configuration cannot be watched, writing it regularly"
                        );
                        *sight = Sight::Blind;
                    }
                },
            }
        }
    }

    /// The anchors in force, waiting for the first ones.
    async fn first_anchors(&mut self) -> Option<Arc<TrustAnchors>> {
        let anchors = self.anchors.wait_for(Option::is_some).await.ok()?;
        anchors.clone()
    }

    /// Writes until it worked.
    async fn write(&self, api: &Api<MutatingWebhookConfiguration>, anchors: &TrustAnchors) {
        let mut pause = FIRST_PAUSE;
        loop {
            let written = timeout(WRITE_LIMIT, write(api, anchors.pem())).await;
            self.metrics.ca_bundle_written(matches!(written, Ok(Ok(()))));
            match written {
                Ok(Ok(())) => {
                    self.ready.ready();
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, name = WEBHOOK, "could not write the trust anchors"),
                Err(_elapsed) => tracing::warn!(name = WEBHOOK, "no answer to writing the trust anchors"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

/// `add` also replaces, and works where the key does not exist yet.
async fn write(api: &Api<MutatingWebhookConfiguration>, pem: &[u8]) -> Result<(), kube::Error> {
    let patch: json_patch::Patch = serde_json::from_value(serde_json::json!([{
        "op": "add",
        "path": "/webhooks/0/clientConfig/caBundle",
        "value": STANDARD.encode(pem),
    }]))
    .map_err(kube::Error::SerdeError)?;
    let patch = Patch::Json::<MutatingWebhookConfiguration>(patch);
    api.patch_metadata(WEBHOOK, &PatchParams::default(), &patch).await.map(|_| ())
}

/// Spaces repairs out, so that two who disagree do not write as fast as they can.
#[derive(Debug, Default)]
struct Repairs {
    last: Option<Instant>,
    next_pause: Duration,
}

impl Repairs {
    /// How long the repair that is due `now` waits.
    fn pause(&mut self, now: Instant) -> Duration {
        if self.last.is_none_or(|last| now - last >= REPAIR_QUIET) {
            self.next_pause = Duration::ZERO;
        }
        let pause = self.next_pause;
        self.next_pause = (pause * 2).clamp(FIRST_REPAIR_PAUSE, LAST_REPAIR_PAUSE);
        self.last = Some(now + pause);
        pause
    }
}

/// How changes by others are noticed.
enum Sight {
    Watch(BoxStream<'static, watcher::Result<Event<MutatingWebhookConfiguration>>>),
    Blind,
}

/// What was noticed.
enum Seen {
    Same,
    Different,
    TimePassed,
    Nothing { error: String },
}

impl Sight {
    async fn next(&mut self, anchors: &TrustAnchors) -> Seen {
        match self {
            Self::Watch(events) => observe(events.next().await, anchors),
            Self::Blind => {
                sleep(REWRITE).await;
                Seen::TimePassed
            }
        }
    }
}

fn observe(event: Option<watcher::Result<Event<MutatingWebhookConfiguration>>>, anchors: &TrustAnchors) -> Seen {
    match event {
        Some(Ok(Event::Apply(object) | Event::InitApply(object))) => compare(&object, anchors),
        Some(Ok(Event::Delete(_) | Event::Init | Event::InitDone)) => Seen::Same,
        Some(Err(error)) if is_final(&error) => Seen::Nothing { error: error.to_string() },
        // The watcher reconnects by itself, with growing pauses.
        Some(Err(error)) => {
            tracing::debug!(%error, name = WEBHOOK, "watch interrupted");
            Seen::Same
        }
        None => Seen::Nothing { error: "the watch ended".to_owned() },
    }
}

fn compare(object: &MutatingWebhookConfiguration, anchors: &TrustAnchors) -> Seen {
    let ours = object.webhooks.iter().flatten().next();
    let bundle = ours.and_then(|webhook| webhook.client_config.ca_bundle.as_ref());
    if bundle.is_some_and(|bundle| covers(&bundle.0, anchors.pem())) { Seen::Same } else { Seen::Different }
}

/// The API server will not let us watch, now or later.
fn is_final(error: &watcher::Error) -> bool {
    const REFUSALS: [u16; 4] = [401, 403, 404, 405];
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => {
            matches!(error, kube::Error::Api(status) if REFUSALS.contains(&status.code))
        }
        watcher::Error::WatchError(status) => REFUSALS.contains(&status.code),
        watcher::Error::NoResourceVersion => true,
    }
}
