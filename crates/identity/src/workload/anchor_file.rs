//! Follows the trust anchors of a file by reading it again and again.
//!
//! The file may not exist yet: sentry fills the ConfigMap behind it. Once good anchors were
//! read, nothing unreadable replaces them; each new fault is reported once.

use std::{io, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::TrustAnchors;

/// How many looks at a missing file between two log lines.
const LOOKS_PER_REPORT: u32 = 30;

/// What the last look found, so that a lasting state is not reported at every look.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Content(Bytes),
    Fault(String),
}

/// Never returns; every distinct good content of `path` is sent to `anchors`.
pub(super) async fn follow(
    path: &Path,
    poll: Duration,
    anchors: &watch::Sender<Option<Arc<TrustAnchors>>>,
) -> std::convert::Infallible {
    let mut looks = interval(poll);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::Nothing;
    let mut missing: u32 = 0;
    loop {
        looks.tick().await;
        match tokio::fs::read(path).await {
            Ok(content) => {
                let content = Bytes::from(content);
                if seen != Seen::Content(content.clone()) {
                    take(&content, path, anchors);
                    seen = Seen::Content(content);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && anchors.borrow().is_none() => {
                if missing.is_multiple_of(LOOKS_PER_REPORT) {
                    tracing::info!(path = %path.display(), "waiting for the trust anchors file");
                }
                missing = missing.wrapping_add(1);
            }
            Err(error) => {
                let fault = Seen::Fault(error.to_string());
                if seen != fault {
                    tracing::error!(%error, path = %path.display(), "trust anchors file cannot be read; keeping what was read before");
                    seen = fault;
                }
            }
        }
    }
}

fn take(content: &Bytes, path: &Path, anchors: &watch::Sender<Option<Arc<TrustAnchors>>>) {
    let path = path.display();
    match TrustAnchors::parse(content.clone()) {
        Err(error) => {
            tracing::error!(%error, %path, "trust anchors file holds no trust anchors; keeping what was read before");
        }
        Ok(new) => {
            // After a fault the same content may come back: that is no change.
            let changed = anchors.send_if_modified(|current| {
                let same = current.as_ref().is_some_and(|old| old.pem() == new.pem());
                if !same {
                    *current = Some(Arc::new(new));
                }
                !same
            });
            if changed {
                tracing::info!(%path, "trust anchors loaded");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(1);

    fn root(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    /// Lets `follow` look at the file a few times; time is paused, so this takes none.
    async fn looks(following: impl Future<Output = std::convert::Infallible>) {
        assert!(tokio::time::timeout(POLL * 5, following).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn content_that_went_bad_never_replaces_good_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        let good = root("a");
        let (tx, mut rx) = watch::channel(None);
        let mut following = Box::pin(follow(&file, POLL, &tx));
        looks(&mut following).await;
        assert!(rx.borrow().is_none(), "no file yet");

        std::fs::write(&file, "garbage").unwrap();
        looks(&mut following).await;
        assert!(rx.borrow().is_none(), "nothing good yet");

        std::fs::write(&file, &good).unwrap();
        looks(&mut following).await;
        assert!(rx.borrow_and_update().is_some());

        for bad in ["", "garbage", &good[..good.len() / 2]] {
            std::fs::write(&file, bad).unwrap();
            looks(&mut following).await;
            assert!(!rx.has_changed().unwrap(), "{bad:?}");
        }
        std::fs::remove_file(&file).unwrap();
        looks(&mut following).await;
        std::fs::create_dir(&file).unwrap();
        looks(&mut following).await;
        assert!(!rx.has_changed().unwrap(), "no file");
        std::fs::remove_dir(&file).unwrap();

        std::fs::write(&file, &good).unwrap();
        looks(&mut following).await;
        assert!(!rx.has_changed().unwrap(), "the same content is no change");

        let other = good + &root("b");
        std::fs::write(&file, &other).unwrap();
        looks(&mut following).await;
        let now = rx.borrow_and_update().clone().unwrap();
        assert_eq!(now.pem(), other.as_bytes());
    }
}
