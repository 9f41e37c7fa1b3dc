//! LIST and WATCH of one kind over the whole cluster, into a feed.
//!
//! A list counts as done even if it carries no resource version, as test rigs answer; the watch
//! is then simply tried again. Forbidden means: never listed, every look-up is live.

use std::{pin::pin, time::Duration};

use futures::TryStreamExt as _;
use kube::{
    Client,
    core::{
        Request, WatchEvent,
        params::{ListParams, WatchParams},
    },
};
use runtime::CancellationToken;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::sleep;

use crate::signing::fraction;

/// Objects in one page of a list. A page is parsed from one buffer, so this bounds memory:
/// pods are 4 to 20 KiB each.
const PAGE: u32 = 100;
/// Server-side end of a watch; under the 5 minutes after which idle connections are cut.
const WATCH_SECS: u32 = 290;
/// First pause after trouble.
const MIN_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause after trouble.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How often a forbidden list is tried again, should the rights change.
const FORBIDDEN_PAUSE: Duration = Duration::from_mins(5);

/// Where the objects of one kind go.
pub trait Feed: Send + Sync {
    /// The fields that are parsed.
    type Object: DeserializeOwned + Clone + Send + 'static;
    /// The list's path.
    const PATH: &'static str;
    /// A list being put together.
    type Batch: Default + Send;

    /// Adds an object to a list.
    fn collect(batch: &mut Self::Batch, object: Self::Object);
    /// Takes a whole list in place of what was known.
    fn reset(&self, batch: Self::Batch);
    /// Takes a new or changed object.
    fn apply(&self, object: Self::Object);
    /// Forgets an object.
    fn delete(&self, object: Self::Object);
    /// Notes that the list is forbidden, so not whole.
    fn forbidden(&self) {}
    /// The object's resource version.
    fn resource_version(object: &Self::Object) -> Option<&str>;
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

/// Follows one kind.
pub struct Reflector<'a, F> {
    client: Client,
    feed: &'a F,
}

impl<'a, F: Feed> Reflector<'a, F> {
    /// Fills `feed`.
    pub fn new(client: Client, feed: &'a F) -> Self {
        Self { client, feed }
    }

    /// Runs until `stop`; calls `listed` after each whole list.
    pub async fn run(self, listed: impl Fn(), stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.follow(listed) => {}
        }
    }

    async fn follow(&self, listed: impl Fn()) {
        let mut pause = MIN_PAUSE;
        let mut warned = false;
        loop {
            match self.list().await {
                Ok(version) => {
                    listed();
                    let error = self.watch(version, &mut pause).await;
                    tracing::debug!(%error, path = F::PATH, "watch ended, listing again");
                }
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(path = F::PATH, error = %status.message, "listing is forbidden: every look-up goes to the API server");
                    }
                    self.feed.forbidden();
                    listed();
                    sleep(FORBIDDEN_PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(%error, path = F::PATH, "list failed, trying again");
                }
            }
            sleep(pause.mul_f64(0.5 + fraction())).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn list(&self) -> kube::Result<String> {
        let mut batch = F::Batch::default();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let request = Request::new(F::PATH).list(&params).map_err(kube::Error::BuildRequest)?;
            let page: Page<F::Object> = self.client.request(request).await?;
            for object in page.items {
                F::collect(&mut batch, object);
            }
            match page.metadata.next {
                Some(next) if !next.is_empty() => params = params.continue_token(&next),
                _ => {
                    self.feed.reset(batch);
                    return Ok(page.metadata.resource_version.unwrap_or_default());
                }
            }
        }
    }

    /// Watches from `version` on until a new list is needed.
    async fn watch(&self, mut version: String, pause: &mut Duration) -> String {
        loop {
            let params = WatchParams::default().timeout(WATCH_SECS);
            let request = match Request::new(F::PATH).watch(&params, &version) {
                Ok(request) => request,
                Err(error) => return error.to_string(),
            };
            let events = match self.client.request_events::<F::Object>(request).await {
                Ok(events) => events,
                Err(error) => return error.to_string(),
            };
            let mut events = pin!(events);
            let mut seen = false;
            loop {
                match events.try_next().await {
                    Ok(Some(event)) => match self.take(event) {
                        Ok(Some(next)) => version = next,
                        Ok(None) => {}
                        Err(status) => return status,
                    },
                    // The server's own time limit: go on from the last version.
                    Ok(None) if seen => break,
                    Ok(None) => return "watch ended without an event".into(),
                    Err(error) => return error.to_string(),
                }
                seen = true;
                *pause = MIN_PAUSE;
            }
        }
    }

    fn take(&self, event: WatchEvent<F::Object>) -> Result<Option<String>, String> {
        let version = |object: &F::Object| F::resource_version(object).map(str::to_owned);
        Ok(match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = version(&object);
                self.feed.apply(object);
                version
            }
            WatchEvent::Deleted(object) => {
                let version = version(&object);
                self.feed.delete(object);
                version
            }
            WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version),
            WatchEvent::Error(status) => return Err(status.message.clone()),
        })
    }
}
