//! How a new root takes the place of an old one without a restart (RULINGS 12): one pure
//! function from what is stored, the clock and the pods' anchors to the next write.
//!
//! | phase | anchors | signs | left when |
//! |---|---|---|---|
//! | none | old | old issuer | a command, or expiry comes near |
//! | announce | new, old | old issuer | everybody had time to take up both anchors |
//! | sign | new, old | new issuer; its chain also leads to the old anchor | no leaf of the old issuer is valid any more and no pod holds only the old anchor, or the old CA has expired |
//!
//! Who holds the old anchor can verify every leaf until the last step: the chain goes on from the
//! new issuer over the new root, signed by the old issuer, to the old anchor. Each step is one
//! conditional write of the Secret, so a crash leaves the phase before it or after it, and of
//! two replicas one loses. The state names the very bundle it belongs to: a bundle that somebody
//! else wrote ends the rotation and is left as it is. Upstream ignores the state's keys and
//! accepts the bundle of every phase.

use serde::{Deserialize, Serialize};

use super::{
    bundle::{Stored, X509Bundle},
    decide::Snapshot,
};

/// What is stored of a rotation besides the bundle.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Items {
    /// `root-rotation.json`.
    pub state: Vec<u8>,
    /// `next-issuer.crt`, while announcing.
    pub next_chain: Vec<u8>,
    /// `next-issuer.key`, while announcing.
    pub next_key: Vec<u8>,
    /// The user's command: the annotation `dapr.io/ca-rotation`, or the file `ca-rotation`.
    pub command: Option<String>,
}

impl std::fmt::Debug for Items {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Items").field("command", &self.command).finish_non_exhaustive()
    }
}

/// Names a certificate: the first 8 bytes of its SHA-256. It tells roots apart, nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CertificateId(u64);

impl CertificateId {
    /// Of a certificate in DER.
    pub fn of(der: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        Self(digest.as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte)))
    }

    /// Of every certificate in a PEM text; of none if it cannot be read.
    pub fn all_of(pem: &[u8]) -> Box<[Self]> {
        certificates(pem).iter().map(|der| Self::of(der)).collect()
    }
}

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Both anchors are published, the old issuer signs.
    Announce,
    /// The new issuer signs.
    Sign,
}

impl Phase {
    /// The label of the metric.
    pub fn name(self) -> &'static str {
        match self {
            Self::Announce => "announce",
            Self::Sign => "sign",
        }
    }
}

/// What is stored of a rotation in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    phase: Phase,
    /// When the phase began.
    since: i64,
    /// The new root.
    root: CertificateId,
    /// The anchors that go.
    retiring: Vec<CertificateId>,
    /// The bundle of this phase: SHA-256 over anchors and chain.
    bundle: String,
    /// Until when a leaf of the old issuer may be in use.
    leaves_until: i64,
    /// The last second of the old CA.
    old_until: i64,
}

/// Settings, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long before its end a CA that sentry made is replaced; 0 for never.
    pub before: i64,
    /// Within this time a change reaches every replica, the injector and the control plane.
    pub settle: i64,
    /// The longest life of a leaf.
    pub ttl: i64,
}

/// What a pod must have taken up so that it does not need the old root any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewRoot {
    /// The root.
    pub id: CertificateId,
    /// Since when whoever reads the published anchors finds it; none while it is announced, when they
    /// may not have reached everybody. It tells of pods whose anchors cannot be seen.
    pub published: Option<i64>,
}

/// How many pods hold anchors without the new root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holders {
    /// Not all sidecars can be seen, so there may be any number.
    Uncounted,
    /// So many.
    Counted(usize),
}

/// Why a rotation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A user asked for it.
    Command,
    /// The CA comes near its end.
    Expiry,
}

/// Why a CA that comes near its end is not replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// A path length leaves no room below the old issuer.
    PathLength,
    /// The CA was not made by sentry, or its values are kept elsewhere too, as in those of Helm,
    /// from where they would come back: only a command replaces it.
    UserCa,
}

impl Blocked {
    /// The label of the metric.
    pub fn reason(self) -> &'static str {
        match self {
            Self::PathLength => "path_length",
            Self::UserCa => "user_ca",
        }
    }
}

/// What a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// From now on the new issuer signs.
    Signing,
    /// The old root is gone.
    Retired {
        /// Who still held only it.
        left: Holders,
        /// Whether it went although somebody might.
        forced: bool,
    },
    /// A user ended the rotation before the new issuer signed.
    Cancelled,
    /// Somebody else wrote the bundle, or spoiled the state: the rotation is forgotten.
    Abandoned,
    /// A command was not obeyed.
    Refused(&'static str),
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing to do now.
    Stay,
    /// Make a successor and store what [`announce`] gives.
    Begin(Trigger),
    /// Store this.
    Write(Box<Snapshot>, News),
}

/// Where a rotation is and what comes next.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// The phase, if one is in progress.
    pub phase: Option<Phase>,
    /// The new root, if a rotation is in progress.
    pub root: Option<NewRoot>,
    /// Who holds only the old anchor, while somebody signs with the new issuer.
    pub holders: Holders,
    /// Why nothing happens though it should.
    pub blocked: Option<Blocked>,
    /// The old CA ends soon, with pods that hold only its anchor: its last second.
    pub breaks_at: Option<i64>,
    /// What to do.
    pub step: Step,
}

/// What is decided on: a bundle in order, whose public copy is in line.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// As stored.
    pub snapshot: &'a Snapshot,
    /// The bundle in it.
    pub bundle: &'a X509Bundle,
    /// Settings.
    pub settings: Settings,
    /// The time.
    pub now: i64,
}

/// This long before the old CA ends, pods that hold only its anchor are warned of.
const WARN_SECS: i64 = 14 * 24 * 3600;
/// A short-lived CA is replaced when this part of its life is left.
const LIFE_PART: i64 = 3;

/// Decides. `count` tells how many pods hold anchors without a root.
pub fn plan(view: View<'_>, count: impl Fn(NewRoot) -> Holders) -> Plan {
    if view.snapshot.rotation.state.is_empty() {
        return idle(view);
    }
    let idle_plan =
        |step| Plan { phase: None, root: None, holders: Holders::Counted(0), blocked: None, breaks_at: None, step };
    let Some(state) = State::of(view.snapshot) else {
        return idle_plan(Step::Write(Box::new(without_rotation(view.snapshot)), News::Abandoned));
    };
    let root = state.new_root();
    let holders = count(root);
    let step = match state.phase {
        Phase::Announce => announced(view, &state),
        Phase::Sign => signing(view, &state, holders),
    };
    let breaks = holders != Holders::Counted(0) && state.old_until - view.now <= WARN_SECS;
    Plan {
        phase: Some(state.phase),
        root: Some(root),
        holders,
        breaks_at: breaks.then_some(state.old_until),
        ..idle_plan(step)
    }
}

fn idle(view: View<'_>) -> Plan {
    let bundle = view.bundle;
    let life = bundle.issuer_not_after() - bundle.issuer_not_before();
    let is_near = view.settings.before > 0 && bundle.limit() - view.now <= view.settings.before.min(life / LIFE_PART);
    let has_room = bundle.has_room_for_successor();
    let (step, blocked) = match view.snapshot.rotation.command.as_deref() {
        Some("start") if has_room => (Step::Begin(Trigger::Command), None),
        Some("start") => (refuse(view, "a path length leaves no room below the issuer"), None),
        Some("cancel" | "retire") => (refuse(view, "no rotation is in progress"), None),
        Some(_) => (refuse(view, "allowed are start, cancel and retire"), None),
        None if !is_near => (Step::Stay, None),
        None if !has_room => (Step::Stay, Some(Blocked::PathLength)),
        None if view.snapshot.given || !bundle.is_made_by_sentry() => (Step::Stay, Some(Blocked::UserCa)),
        None => (Step::Begin(Trigger::Expiry), None),
    };
    Plan { phase: None, root: None, holders: Holders::Counted(0), blocked, breaks_at: None, step }
}

fn refuse(view: View<'_>, why: &'static str) -> Step {
    let mut next = view.snapshot.clone();
    next.rotation.command = None;
    Step::Write(Box::new(next), News::Refused(why))
}

fn announced(view: View<'_>, state: &State) -> Step {
    match view.snapshot.rotation.command.as_deref() {
        Some("cancel") => {
            let mut next = without_rotation(view.snapshot);
            next.anchors = pem_without(&next.anchors, &[state.root]);
            return Step::Write(Box::new(next), News::Cancelled);
        }
        Some("start") => return refuse(view, "a rotation is in progress"),
        Some("retire") => return refuse(view, "the new issuer does not sign yet"),
        Some(_) => return refuse(view, "allowed are start, cancel and retire"),
        None => {}
    }
    let has_settled = view.now >= state.since + view.settings.settle;
    let ends_first = state.old_until - view.now <= view.settings.settle;
    if !has_settled && !ends_first {
        return Step::Stay;
    }
    let mut next = without_rotation(view.snapshot);
    next.chain.clone_from(&view.snapshot.rotation.next_chain);
    next.key.clone_from(&view.snapshot.rotation.next_key);
    if X509Bundle::load(stored(&next), view.now).is_err() {
        return Step::Write(Box::new(without_rotation(view.snapshot)), News::Abandoned);
    }
    let leaves_until = (view.now + view.settings.ttl + view.settings.settle).min(state.old_until);
    State { phase: Phase::Sign, since: view.now, leaves_until, ..state.clone() }.put(&mut next);
    Step::Write(Box::new(next), News::Signing)
}

fn signing(view: View<'_>, state: &State, holders: Holders) -> Step {
    let command = view.snapshot.rotation.command.as_deref();
    match command {
        None | Some("retire") => {}
        Some("start") => return refuse(view, "a rotation is in progress"),
        Some("cancel") => return refuse(view, "the new issuer signs already"),
        Some(_) => return refuse(view, "allowed are start, cancel and retire"),
    }
    let leaves_are_gone = view.now > state.leaves_until;
    let is_done = leaves_are_gone && holders == Holders::Counted(0);
    if !is_done && command.is_none() && view.now <= state.old_until {
        return Step::Stay;
    }
    let mut next = without_rotation(view.snapshot);
    next.anchors = pem_without(&next.anchors, &state.retiring);
    // The new issuer leads the chain; what follows only led to the old anchor.
    let old_way: Vec<CertificateId> = CertificateId::all_of(&next.chain).iter().skip(1).copied().collect();
    next.chain = pem_without(&next.chain, &old_way);
    if X509Bundle::load(stored(&next), view.now).is_err() {
        return Step::Write(Box::new(without_rotation(view.snapshot)), News::Abandoned);
    }
    Step::Write(Box::new(next), News::Retired { left: holders, forced: !is_done })
}

/// A new CA that the old one vouches for.
#[derive(Clone)]
pub struct Successor {
    /// The new root.
    pub root: Vec<u8>,
    /// The new issuer, the new root signed by the old issuer, the old issuer's chain.
    pub chain: Vec<u8>,
    /// The new issuer's key.
    pub key: Vec<u8>,
}

/// What to store so that a rotation to `successor` begins.
pub fn announce(view: View<'_>, successor: &Successor) -> Snapshot {
    let mut next = without_rotation(view.snapshot);
    next.anchors = [successor.root.as_slice(), view.bundle.anchors_pem().as_bytes()].concat();
    next.rotation.next_chain.clone_from(&successor.chain);
    next.rotation.next_key.clone_from(&successor.key);
    let root = certificates(&successor.root).first().map_or(CertificateId(0), |der| CertificateId::of(der));
    let state = State {
        phase: Phase::Announce,
        since: view.now,
        root,
        retiring: view.bundle.anchors_of_chain(),
        bundle: String::new(),
        leaves_until: view.bundle.limit(),
        old_until: view.bundle.limit(),
    };
    state.put(&mut next);
    next
}

impl State {
    fn new_root(&self) -> NewRoot {
        let published = match self.phase {
            Phase::Announce => None,
            // The time to settle was over before this phase began.
            Phase::Sign => Some(self.since),
        };
        NewRoot { id: self.root, published }
    }

    /// The state, if it can be read and belongs to the bundle beside it.
    fn of(snapshot: &Snapshot) -> Option<Self> {
        let state: Self = serde_json::from_slice(&snapshot.rotation.state).ok()?;
        (state.bundle == bundle_digest(snapshot)).then_some(state)
    }

    fn put(mut self, snapshot: &mut Snapshot) {
        self.bundle = bundle_digest(snapshot);
        snapshot.rotation.state = serde_json::to_vec(&self).expect("numbers and strings serialise");
    }
}

fn bundle_digest(snapshot: &Snapshot) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(&snapshot.anchors);
    // Neither item holds this byte.
    context.update(&[0]);
    context.update(&snapshot.chain);
    hex::encode(context.finish())
}

fn without_rotation(snapshot: &Snapshot) -> Snapshot {
    Snapshot { rotation: Items::default(), ..snapshot.clone() }
}

fn stored(snapshot: &Snapshot) -> Stored {
    Stored { anchors: snapshot.anchors.clone(), chain: snapshot.chain.clone(), key: snapshot.key.clone() }
}

fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    let blocks = pem::parse_many(pem).unwrap_or_default();
    blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE").map(pem::Pem::into_contents).collect()
}

fn pem_without(pem: &[u8], unwanted: &[CertificateId]) -> Vec<u8> {
    certificates(pem)
        .into_iter()
        .filter(|der| !unwanted.contains(&CertificateId::of(der)))
        .flat_map(|der| super::keys::pem_block("CERTIFICATE", der).into_bytes())
        .collect()
}
