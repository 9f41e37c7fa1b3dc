//! Carries a change of the root out: reads how many pods hold only the old anchor, makes the
//! successor, writes each step and tells of it. What to do is decided by
//! [`crate::core::rotation`]; the keeper calls this at each look at the store.

use std::time::Duration;

use identity::SpiffeId;
use tokio::time::Instant;

use crate::{
    clock::unix_now,
    core::{
        bundle::X509Bundle,
        rotation::{self, Holders, NewRoot, News, Phase, Plan, Settings, Step, Trigger, View, plan},
        validity::Lifetimes,
    },
    directory::Directory,
    events::{Events, Severity},
    issuer::generate_successor,
    keeper::chain,
    metrics::{Metrics, PhaseLabel, Reason},
    signing::CryptoError,
    store::{Read, Store, StoreError},
};

/// Pods named in a warning; all are counted.
const NAMED_PODS: usize = 10;
/// What still stands is told again after this time.
const REMIND: Duration = Duration::from_hours(1);

/// A step was not done; it is tried again at the next look.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// It was not stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The successor was not made.
    #[error("failed to generate the new root")]
    Generate(#[from] CryptoError),
}

/// Where the anchors of sidecars are seen.
#[derive(Debug, Clone)]
pub enum Sidecars {
    /// In the pods of the cluster, which are all there are.
    Pods(Directory),
    /// Some run where they cannot be seen.
    Unseen,
}

/// Changes roots.
#[derive(Debug)]
pub struct Rotation {
    /// Sentry's own name.
    pub sentry: SpiffeId,
    /// Clock skew for the new CA's NotBefore.
    pub lifetimes: Lifetimes,
    /// When and how fast.
    pub settings: Settings,
    /// Who is counted.
    pub sidecars: Sidecars,
    /// Gauges.
    pub metrics: Metrics,
    /// When the last reminder was given.
    pub reminded: Option<Instant>,
}

impl Rotation {
    /// How often to look while a rotation is in progress.
    pub fn pace(&self) -> Duration {
        Duration::from_secs(self.settings.settle.unsigned_abs()) / 2
    }

    /// Takes one look and at most one step. True if the store was written. `read` is a bundle
    /// in order with its public copy in line, `bundle` what was loaded from it.
    pub async fn look(
        &mut self,
        read: Read,
        bundle: &X509Bundle,
        store: &Store,
        events: &Events,
    ) -> Result<Looked, RotationError> {
        let view = View { snapshot: &read.snapshot, bundle, settings: self.settings, now: unix_now() };
        let plan = plan(view, |root| self.count(root));
        self.show(&plan);
        self.remind(&plan, events).await;
        let in_progress = plan.phase.is_some();
        let (next, news) = match plan.step {
            Step::Stay => return Ok(Looked { wrote: false, in_progress }),
            Step::Begin(trigger) => {
                let successor = generate_successor(&self.sentry, self.lifetimes, bundle, view.now)?;
                (rotation::announce(view, &successor), Told::Announced(trigger))
            }
            Step::Write(next, news) => (*next, Told::News(news)),
        };
        match store.write(&next, read.revision).await {
            Ok(()) => {}
            // Another replica took this step, or a user wrote: the next look tells.
            Err(StoreError::Conflict { .. }) => return Ok(Looked { wrote: false, in_progress: true }),
            Err(error) => return Err(error.into()),
        }
        self.metrics.changed.inc();
        self.tell(news, plan.root, events).await;
        Ok(Looked { wrote: true, in_progress: true })
    }

    fn count(&self, root: NewRoot) -> Holders {
        match &self.sidecars {
            Sidecars::Unseen => Holders::Uncounted,
            Sidecars::Pods(directory) => {
                directory.pods_without(root, 0).map_or(Holders::Uncounted, |(count, _)| Holders::Counted(count))
            }
        }
    }

    fn show(&self, plan: &Plan) {
        for phase in [Phase::Announce, Phase::Sign] {
            let label = PhaseLabel { phase: phase.name() };
            self.metrics.rotation_phase.get_or_create(&label).set(i64::from(plan.phase == Some(phase)));
        }
        self.metrics.old_anchor_pods.set(match plan.holders {
            Holders::Uncounted => -1,
            Holders::Counted(count) => i64::try_from(count).unwrap_or(i64::MAX),
        });
        for blocked in [rotation::Blocked::PathLength, rotation::Blocked::UserCa] {
            let label = Reason { reason: blocked.reason() };
            self.metrics.rotation_blocked.get_or_create(&label).set(i64::from(plan.blocked == Some(blocked)));
        }
    }

    /// Says what will go wrong if nobody acts, once an hour.
    async fn remind(&mut self, plan: &Plan, events: &Events) {
        if self.reminded.is_some_and(|at| at.elapsed() < REMIND) {
            return;
        }
        let text = if let Some(blocked) = plan.blocked {
            let why = match blocked {
                rotation::Blocked::PathLength => {
                    "its issuer's path length leaves no room for a seamless change: every sidecar must be restarted after a new CA is written"
                }
                rotation::Blocked::UserCa => {
                    "it was not made by sentry: write a new one, or give the command start (ca-rotation) to let sentry make it"
                }
            };
            format!("the CA comes near its end and is not replaced, because {why}")
        } else if let (Some(at), Some(root)) = (plan.breaks_at, plan.root) {
            format!(
                "{} will be cut off at {at} (Unix seconds), when the old root ends: restart them before",
                self.who(plan.holders, root)
            )
        } else {
            return;
        };
        self.reminded = Some(Instant::now());
        tracing::warn!("{text}");
        events.report(Severity::Warning, "RootRotationNeedsAction", &text).await;
    }

    /// The pods that hold only the old anchor, in words.
    fn who(&self, holders: Holders, root: NewRoot) -> String {
        let named = match &self.sidecars {
            Sidecars::Pods(directory) => directory.pods_without(root, NAMED_PODS).map(|(_, names)| names),
            Sidecars::Unseen => None,
        };
        match holders {
            Holders::Uncounted => "sidecars that were started before the new root, as far as there are any,".into(),
            Holders::Counted(count) => {
                format!("{count} pods that hold only the old anchor ({})", named.unwrap_or_default().join(", "))
            }
        }
    }

    /// What is told when the new issuer begins to sign.
    fn signing(&self, root: Option<NewRoot>) -> String {
        let text = "the new issuer signs; its chain also leads to the old anchor";
        match root.map(|root| (self.count(root), root)) {
            None | Some((Holders::Counted(0), _)) => text.into(),
            Some((holders, root)) => format!("{text}: restart {} before the old root goes", self.who(holders, root)),
        }
    }

    async fn tell(&self, told: Told, root: Option<NewRoot>, events: &Events) {
        let (severity, reason, text) = match told {
            Told::Announced(trigger) => {
                let why = match trigger {
                    Trigger::Command => "on command",
                    Trigger::Expiry => "because the CA comes near its end",
                };
                (
                    Severity::Normal,
                    "RootRotationAnnounced",
                    format!("a new root was made {why}: both anchors are published"),
                )
            }
            Told::News(News::Signing) => (Severity::Normal, "RootRotationSigning", self.signing(root)),
            Told::News(News::Retired { left, forced: true }) if left != Holders::Counted(0) => {
                let who = root.map_or_else(String::new, |root| self.who(left, root));
                let text = format!(
                    "the old root was retired before its time was over: {who} cannot connect any more and must be restarted"
                );
                (Severity::Warning, "RootRotationForced", text)
            }
            Told::News(News::Retired { .. }) => {
                (Severity::Normal, "RootRotationDone", "the old root was retired: nobody needed it any more".into())
            }
            Told::News(News::Cancelled) => {
                (Severity::Normal, "RootRotationCancelled", "the new root was withdrawn on command".into())
            }
            Told::News(News::Abandoned) => {
                let text = "the bundle or the rotation's state was changed by somebody else: the rotation ended, the bundle stays as it is".into();
                (Severity::Warning, "RootRotationAbandoned", text)
            }
            Told::News(News::Refused(why)) => {
                (Severity::Warning, "RootRotationRefused", format!("the command ca-rotation was not obeyed: {why}"))
            }
        };
        match severity {
            Severity::Normal => tracing::info!(reason, "{text}"),
            Severity::Warning => tracing::error!(reason, "{text}"),
        }
        events.report(severity, reason, &text).await;
    }

    /// Notes trouble with a step.
    pub fn complain(&self, error: &RotationError) {
        tracing::warn!(error = %chain(error), "step of the root's rotation failed, trying again");
    }
}

/// What one look did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// Whether the store was written.
    pub wrote: bool,
    /// Whether a rotation is in progress.
    pub in_progress: bool,
}

enum Told {
    Announced(Trigger),
    News(News),
}
