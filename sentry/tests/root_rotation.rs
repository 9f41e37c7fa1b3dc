//! A change of the root: whoever holds the old, the new or both anchors verifies everybody in
//! every phase, until nobody needs the old one (RULINGS 12). Chains are verified by the
//! identity crate, as the control plane does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions of a test")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use identity::{SpiffeId, TrustAnchors};
use proptest::prelude::*;
use rustls_pki_types::{CertificateDer, UnixTime};
use sentry::{
    core::{
        bundle::{Stored, X509Bundle},
        decide::{PublicCopy, Rules, Situation, Snapshot, Step as BundleStep, decide},
        keys::PrivateKey,
        profile::Leaf,
        rotation::{
            self, Blocked, CertificateId, Holders, NewRoot, News, Phase, Plan, Settings, Step, Trigger, View, plan,
        },
        validity::{Lifetimes, window},
    },
    issuer::{generate_ca, generate_successor, sign_leaf},
};
use support::{Ca, certificates};

const DAY: i64 = 24 * 3600;
const TTL: i64 = 10 * DAY;
const SETTLE: i64 = 600;
const SETTINGS: Settings = Settings { before: 90 * DAY, settle: SETTLE, ttl: TTL };

fn sentry_id() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/dapr-system/dapr-sentry").unwrap()
}

fn lifetimes() -> Lifetimes {
    Lifetimes::try_new(Duration::from_secs(TTL.unsigned_abs()), Duration::from_mins(15)).unwrap()
}

fn real_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn snapshot(stored: &Stored) -> Snapshot {
    Snapshot {
        anchors: stored.anchors.clone(),
        chain: stored.chain.clone(),
        key: stored.key.clone(),
        copy: Some(PublicCopy { anchors: stored.anchors.clone(), jwks: Vec::new() }),
        ..Snapshot::default()
    }
}

fn load(snapshot: &Snapshot, now: i64) -> X509Bundle {
    let Snapshot { anchors, chain, key, .. } = snapshot.clone();
    X509Bundle::load(Stored { anchors, chain, key }, now).unwrap()
}

/// A chain that a sidecar presents, and when it renews it.
#[derive(Clone)]
struct Presented {
    chain: Vec<CertificateDer<'static>>,
    renew_at: i64,
}

fn issue(bundle: &X509Bundle, now: i64) -> Presented {
    let key = PrivateKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
    let id = SpiffeId::parse("spiffe://public/ns/ns/app").unwrap();
    let window = window(lifetimes(), now, bundle.limit(), 0.5).unwrap();
    let leaf = sign_leaf(bundle, &Leaf { id: &id, dns: &[], key: key.public(), window, serial: [7; 16] }).unwrap();
    let chain = std::iter::once(leaf).chain(bundle.chain_der().map(<[u8]>::to_vec)).map(CertificateDer::from).collect();
    Presented { chain, renew_at: window.not_before + (window.not_after - window.not_before) / 2 }
}

fn verifies(anchors: &[u8], presented: &Presented, now: i64) -> bool {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
    TrustAnchors::parse(anchors.to_vec()).unwrap().verify(&presented.chain, now).is_ok()
}

fn look(snapshot: &Snapshot, now: i64, holders: Holders) -> Plan {
    let bundle = load(snapshot, now);
    plan(View { snapshot, bundle: &bundle, settings: SETTINGS, now }, |_| holders)
}

/// The snapshot after the announcement.
fn announced(snapshot: &Snapshot, now: i64) -> Snapshot {
    let bundle = load(snapshot, now);
    let successor = generate_successor(&sentry_id(), lifetimes(), &bundle, now).unwrap();
    publish(rotation::announce(View { snapshot, bundle: &bundle, settings: SETTINGS, now }, &successor))
}

fn publish(mut snapshot: Snapshot) -> Snapshot {
    snapshot.copy = Some(snapshot.wanted_copy());
    snapshot
}

fn written(plan: Plan) -> (Snapshot, News) {
    let Step::Write(next, news) = plan.step else { panic!("{plan:?}") };
    (publish(*next), news)
}

fn command(snapshot: &Snapshot, command: &str) -> Snapshot {
    let mut snapshot = snapshot.clone();
    snapshot.rotation.command = Some(command.into());
    snapshot
}

#[test]
fn old_and_new_anchor_holders_verify_each_other_in_every_phase_whatever_the_old_ca() {
    let olds = [
        generate_ca(&sentry_id(), lifetimes()).unwrap(),
        Ca::new(&rcgen::PKCS_ED25519).stored(),
        Ca::new(&rcgen::PKCS_ECDSA_P256_SHA256).stored(),
        Ca::new(&rcgen::PKCS_ECDSA_P384_SHA384).stored(),
        Ca::new(&rcgen::PKCS_RSA_SHA256).stored(),
        Ca::with_intermediate().stored(),
    ];
    for stored in olds {
        let now = real_now();
        let before = snapshot(&stored);
        let old_leaf = issue(&load(&before, now), now);
        let asked = look(&command(&before, "start"), now, Holders::Counted(0));
        assert_eq!(asked.step, Step::Begin(Trigger::Command));

        let announce = announced(&before, now);
        assert_eq!(certificates(&announce.anchors).len(), 2);
        let announced_leaf = issue(&load(&announce, now), now);
        for anchors in [&before.anchors, &announce.anchors] {
            assert!(verifies(anchors, &old_leaf, now) && verifies(anchors, &announced_leaf, now));
        }
        assert_eq!(look(&announce, now + SETTLE - 1, Holders::Counted(1)).step, Step::Stay);

        let now = now + SETTLE;
        let (sign, news) = written(look(&announce, now, Holders::Counted(1)));
        assert_eq!((news, &sign.anchors), (News::Signing, &announce.anchors));
        assert!(sign.rotation.next_key.is_empty());
        let new_leaf = issue(&load(&sign, now), now);
        let new_root = support::certificates(&sign.anchors).remove(0);
        let new_only = sentry::core::keys::pem_block("CERTIFICATE", new_root).into_bytes();
        assert!(verifies(&before.anchors, &new_leaf, now), "old anchor, new leaf");
        assert!(verifies(&sign.anchors, &new_leaf, now) && verifies(&new_only, &new_leaf, now));
        assert!(verifies(&sign.anchors, &old_leaf, now));
        assert!(!verifies(&new_only, &old_leaf, now), "why retiring waits for the last old leaf");

        let leaves_end = now + TTL + SETTLE;
        assert_eq!(look(&sign, leaves_end, Holders::Counted(0)).step, Step::Stay);
        assert_eq!(look(&sign, leaves_end + 1, Holders::Counted(1)).step, Step::Stay);
        assert_eq!(look(&sign, leaves_end + 1, Holders::Uncounted).step, Step::Stay);
        let (retired, news) = written(look(&sign, leaves_end + 1, Holders::Counted(0)));
        assert_eq!(news, News::Retired { left: Holders::Counted(0), forced: false });
        assert_eq!(retired.anchors, new_only);
        let last_leaf = issue(&load(&retired, leaves_end + 1), leaves_end + 1);
        assert_eq!(last_leaf.chain.len(), 2, "leaf and issuer, as in a new CA");
        assert!(verifies(&new_only, &last_leaf, leaves_end + 1) && verifies(&sign.anchors, &last_leaf, leaves_end + 1));
        assert_eq!(look(&retired, leaves_end + 2, Holders::Counted(0)).step, Step::Stay);
    }
}

/// What is seen of a pod may be no more than when it read the anchors: the start of the signing phase
/// is the first moment at which everybody finds the new one.
#[test]
fn anchors_that_were_read_before_the_new_issuer_signed_may_lack_the_new_root() {
    let before = snapshot(&Ca::new(&rcgen::PKCS_ED25519).stored());
    let announce = announced(&before, real_now());
    let new = CertificateId::all_of(&announce.anchors)[0];
    let root = look(&announce, real_now(), Holders::Counted(0)).root;
    assert_eq!(root, Some(NewRoot { id: new, published: None }));
    let signs_since = real_now() + SETTLE + 7;
    let (sign, _) = written(look(&announce, signs_since, Holders::Counted(1)));
    let root = look(&sign, signs_since + DAY, Holders::Counted(1)).root;
    assert_eq!(root, Some(NewRoot { id: new, published: Some(signs_since) }));
}

#[test]
fn a_ca_that_sentry_made_is_replaced_90_days_before_its_end_and_a_users_is_not() {
    let own = snapshot(&generate_ca(&sentry_id(), lifetimes()).unwrap());
    let end = load(&own, real_now()).limit();
    assert_eq!(look(&own, end - 90 * DAY - 1, Holders::Counted(0)).step, Step::Stay);
    assert_eq!(look(&own, end - 90 * DAY, Holders::Counted(0)).step, Step::Begin(Trigger::Expiry));
    let never = Settings { before: 0, ..SETTINGS };
    let bundle = load(&own, end);
    let view = View { snapshot: &own, bundle: &bundle, settings: never, now: end };
    assert_eq!(plan(view, |_| Holders::Counted(0)).step, Step::Stay);

    let given = Snapshot { given: true, ..own.clone() };
    let blocked = look(&given, end - 90 * DAY, Holders::Counted(0));
    assert_eq!((blocked.step, blocked.blocked), (Step::Stay, Some(Blocked::UserCa)));

    let users = snapshot(&Ca::new(&rcgen::PKCS_ED25519).stored());
    let end = load(&users, real_now()).limit();
    let blocked = look(&users, end - DAY, Holders::Counted(0));
    assert_eq!((blocked.step, blocked.blocked), (Step::Stay, Some(Blocked::UserCa)));
}

#[test]
fn a_path_length_below_two_blocks_a_rotation_and_says_so() {
    let with_length = |length: u8| {
        let ca = Ca::with(&rcgen::PKCS_ED25519, |which, params| {
            if which == 1 {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(length));
            }
        });
        snapshot(&ca.stored())
    };
    for length in [0, 1] {
        let tight = with_length(length);
        let (left, news) = written(look(&command(&tight, "start"), real_now(), Holders::Counted(0)));
        assert!(matches!(news, News::Refused(_)), "{news:?}");
        assert_eq!(left, tight, "the command is gone, the bundle as it was");
        let near_end = look(&tight, load(&tight, real_now()).limit() - DAY, Holders::Counted(0));
        assert_eq!((near_end.step, near_end.blocked), (Step::Stay, Some(Blocked::PathLength)));
        // Why: the old anchor does not lead to the new issuer.
        let sign = written(look(&announced(&tight, real_now()), real_now() + SETTLE, Holders::Counted(0))).0;
        assert!(!verifies(&tight.anchors, &issue(&load(&sign, real_now()), real_now()), real_now()));
    }
    let wide = with_length(2);
    let plan = look(&command(&wide, "start"), real_now(), Holders::Counted(0));
    assert_eq!(plan.step, Step::Begin(Trigger::Command));
    let sign = written(look(&announced(&wide, real_now()), real_now() + SETTLE, Holders::Counted(0))).0;
    assert!(verifies(&wide.anchors, &issue(&load(&sign, real_now()), real_now()), real_now()));
}

#[test]
fn the_old_root_goes_with_pods_left_only_at_its_end_or_on_command_and_says_who_breaks() {
    let now = real_now();
    let before = snapshot(&generate_ca(&sentry_id(), lifetimes()).unwrap());
    let end = load(&before, now).limit();
    let (sign, _) = written(look(&announced(&before, now), now + SETTLE, Holders::Counted(3)));
    for left in [Holders::Counted(3), Holders::Uncounted] {
        let early = look(&sign, end - 15 * DAY, left);
        assert_eq!((&early.step, early.breaks_at), (&Step::Stay, None));
        let warned = look(&sign, end - 14 * DAY, left);
        assert_eq!((&warned.step, warned.breaks_at), (&Step::Stay, Some(end)));
        assert_eq!(look(&sign, end, left).step, Step::Stay);
        let (_, news) = written(look(&sign, end + 1, left));
        assert_eq!(news, News::Retired { left, forced: true });
        let (_, news) = written(look(&command(&sign, "retire"), now + SETTLE, left));
        assert_eq!(news, News::Retired { left, forced: true });
    }
}

#[test]
fn an_anchor_of_another_mesh_survives() {
    let now = real_now();
    let other = Ca::new(&rcgen::PKCS_ED25519);
    let mut stored = generate_ca(&sentry_id(), lifetimes()).unwrap();
    stored.anchors.extend_from_slice(other.root_pem.as_bytes());
    let (sign, _) = written(look(&announced(&snapshot(&stored), now), now + SETTLE, Holders::Counted(0)));
    let (retired, _) = written(look(&sign, now + 2 * SETTLE + TTL + 1, Holders::Counted(0)));
    let kept = CertificateId::all_of(&retired.anchors);
    assert_eq!(kept.len(), 2);
    assert!(kept.contains(&CertificateId::all_of(other.root_pem.as_bytes())[0]));
}

#[test]
fn a_bundle_that_somebody_else_wrote_ends_the_rotation_and_stays() {
    let now = real_now();
    let before = snapshot(&generate_ca(&sentry_id(), lifetimes()).unwrap());
    let users = Ca::new(&rcgen::PKCS_ECDSA_P256_SHA256).stored();
    let announce = announced(&before, now);
    let (sign, _) = written(look(&announce, now + SETTLE, Holders::Counted(0)));
    for rotating in [announce.clone(), sign] {
        let overwritten = Snapshot { rotation: rotating.rotation.clone(), ..snapshot(&users) };
        let (next, news) = written(look(&overwritten, now + SETTLE, Holders::Counted(0)));
        assert_eq!((news, next), (News::Abandoned, snapshot(&users)));
        let mut spoiled = rotating.clone();
        spoiled.rotation.state = b"{".to_vec();
        let (next, news) = written(look(&spoiled, now + SETTLE, Holders::Counted(0)));
        assert_eq!((news, &next.chain, &next.key), (News::Abandoned, &rotating.chain, &rotating.key));
    }
    let mut lost = announce;
    lost.rotation.next_key.clear();
    let (next, news) = written(look(&lost, now + SETTLE, Holders::Counted(0)));
    assert_eq!((news, &next.key), (News::Abandoned, &before.key), "the old issuer signs on");
}

#[test]
fn a_command_that_does_not_fit_the_phase_is_refused_and_removed() {
    let now = real_now();
    let before = snapshot(&generate_ca(&sentry_id(), lifetimes()).unwrap());
    let announce = announced(&before, now);
    let (sign, _) = written(look(&announce, now + SETTLE, Holders::Counted(0)));
    let rows: [(&Snapshot, &[&str]); 3] = [
        (&before, &["cancel", "retire", "x"]),
        (&announce, &["start", "retire", "x"]),
        (&sign, &["start", "cancel", "x"]),
    ];
    for (phase, commands) in rows {
        for text in commands {
            let (next, news) = written(look(&command(phase, text), now, Holders::Counted(0)));
            assert!(matches!(news, News::Refused(_)), "{text}: {news:?}");
            assert_eq!(&next, phase);
        }
    }
    let (cancelled, news) = written(look(&command(&announce, "cancel"), now, Holders::Counted(0)));
    assert_eq!((news, cancelled), (News::Cancelled, before));
}

/// One sidecar: its anchors never change, its leaf does.
struct Pod {
    anchors: Vec<u8>,
    presented: Presented,
}

#[derive(Default)]
struct Replica {
    held: Option<X509Bundle>,
    read: Option<(Snapshot, u64)>,
    looked_at: i64,
}

/// The cluster: Secret and ConfigMap in one snapshot with a version, replicas and sidecars.
struct World {
    now: i64,
    stored: Snapshot,
    version: u64,
    /// The public copy before the last change, and when it changed: injectors may be late.
    previous_copy: (Vec<u8>, i64),
    replicas: [Replica; 2],
    pods: Vec<Pod>,
    phases: BTreeSet<&'static str>,
}

impl World {
    fn new() -> Self {
        let stored = snapshot(&generate_ca(&sentry_id(), lifetimes()).unwrap());
        let previous_copy = (stored.anchors.clone(), 0);
        let mut world = Self {
            now: real_now(),
            stored,
            version: 0,
            previous_copy,
            replicas: Default::default(),
            pods: Vec::new(),
            phases: BTreeSet::new(),
        };
        world.both_look();
        world
    }

    fn copy(&self) -> &[u8] {
        &self.stored.copy.as_ref().unwrap().anchors
    }

    fn read(&mut self, index: usize) {
        self.replicas[index].read = Some((self.stored.clone(), self.version));
    }

    /// Acts on what was read, as the keeper does.
    fn act(&mut self, index: usize) {
        let Some((read, version)) = self.replicas[index].read.take() else { return };
        let starting = Situation::Starting { waited: false, others_running: false };
        let rules = Rules { jwt: None, key_id: None };
        let BundleStep::Adopt { bundle, repair_copy } = decide(&read, starting, rules, self.now) else {
            panic!("a bundle in the midst of a rotation is not in order");
        };
        let count = |root: NewRoot| {
            Holders::Counted(
                self.pods.iter().filter(|pod| !CertificateId::all_of(&pod.anchors).contains(&root.id)).count(),
            )
        };
        let view = View { snapshot: &read, bundle: &bundle.x509, settings: SETTINGS, now: self.now };
        let planned = plan(view, count);
        if repair_copy {
            let copy = read.wanted_copy();
            if version == self.version {
                self.previous_copy = (self.copy().to_vec(), self.now);
                self.stored.copy = Some(copy);
                self.version += 1;
            }
        } else {
            self.phases.extend(planned.phase.map(Phase::name));
            let next = match planned.step {
                Step::Stay => None,
                Step::Begin(_) => {
                    let successor = generate_successor(&sentry_id(), lifetimes(), &bundle.x509, self.now).unwrap();
                    Some(rotation::announce(view, &successor))
                }
                Step::Write(next, news) => {
                    assert_ne!(news, News::Abandoned, "nobody else wrote");
                    Some(*next)
                }
            };
            if let Some(next) = next
                && version == self.version
            {
                self.stored = Snapshot { copy: self.stored.copy.clone(), ..next };
                self.version += 1;
            }
        }
        self.replicas[index].held = Some(bundle.x509);
        self.replicas[index].looked_at = self.now;
    }

    fn both_look(&mut self) {
        for index in [0, 1] {
            self.read(index);
            self.act(index);
        }
    }

    fn sign(&self, index: usize) -> Presented {
        issue(self.replicas[index].held.as_ref().unwrap(), self.now)
    }

    /// Time passes; replicas look, at the latest after the time to settle, and sidecars renew.
    fn advance(&mut self, seconds: i64, late: Option<usize>) {
        self.now += seconds;
        for index in [0, 1] {
            if late != Some(index) || self.now - self.replicas[index].looked_at > SETTLE - 60 {
                self.read(index);
                self.act(index);
            }
        }
        for index in 0..self.pods.len() {
            if self.now >= self.pods[index].presented.renew_at {
                self.pods[index].presented = self.sign(index % 2);
            }
        }
        // Where all anchors have ended, only a restart helps; the warnings said so.
        let now = self.now;
        self.pods.retain(|pod| {
            certificates(&pod.anchors).iter().any(|der| {
                let (_, root) = x509_parser::parse_x509_certificate(der).unwrap();
                root.validity().not_after.timestamp() >= now
            })
        });
    }

    fn start_pod(&mut self, late_injector: bool, replica: usize) {
        let (previous, changed) = &self.previous_copy;
        let is_late = late_injector && self.now - changed < SETTLE;
        let anchors = if is_late { previous.clone() } else { self.copy().to_vec() };
        let presented = self.sign(replica);
        self.pods.push(Pod { anchors, presented });
    }

    /// Everybody who runs verifies everybody who runs, the control plane and sentry included.
    fn check(&self) {
        let own = [self.sign(0), self.sign(1)];
        let mut holders: Vec<&[u8]> = self.pods.iter().map(|pod| pod.anchors.as_slice()).collect();
        holders.push(self.copy());
        if self.now - self.previous_copy.1 < SETTLE {
            holders.push(&self.previous_copy.0);
        }
        for anchors in holders {
            for presented in self.pods.iter().map(|pod| &pod.presented).chain(&own) {
                assert!(verifies(anchors, presented, self.now), "a call would fail");
            }
        }
    }

    fn step(&mut self, which: u8, choice: u8) {
        let replica = usize::from(choice) % 2;
        match which {
            0..=2 => self.advance(300, (choice < 4).then_some(replica)),
            3..=5 => self.advance(i64::from(choice) * DAY / 4, None),
            6 => self.read(replica),
            7 => self.act(replica),
            // A crash between reading and writing, then a start.
            8 => {
                self.replicas[replica] = Replica::default();
                self.read(replica);
                self.act(replica);
            }
            9 | 10 if self.pods.len() < 4 => self.start_pod(choice < 4, replica),
            11 if !self.pods.is_empty() => {
                self.pods.remove(usize::from(choice) % self.pods.len());
            }
            12 => {
                let text = ["start", "start", "start", "cancel", "x"][usize::from(choice) % 5];
                self.stored.rotation.command = Some(text.into());
                self.version += 1;
            }
            _ => self.both_look(),
        }
    }
}

proptest! {
    // A case is a hundred certificates: a fifth of the usual number.
    #![proptest_config(ProptestConfig::with_cases((ProptestConfig::default().cases / 5).max(1)))]

    /// Replicas look late, crash between reading and writing and overtake each other, sidecars
    /// start with what a late injector knows, users give commands: no call fails at any time, and
    /// in the end there is one new root, the same for all.
    #[test]
    fn no_call_fails_in_any_phase_and_all_replicas_end_on_one_new_root(
        moves in proptest::collection::vec((0u8..14, 0u8..8), 10..60),
    ) {
        let mut world = World::new();
        let first_root = CertificateId::all_of(&world.stored.anchors)[0];
        world.start_pod(false, 0);
        world.check();
        for (which, choice) in moves {
            world.step(which, choice);
            world.check();
        }
        // The last command is obeyed, be it to cancel; a look repairs the copy before.
        world.both_look();
        world.both_look();
        // Everything old is restarted and time goes on.
        if CertificateId::all_of(&world.stored.anchors).as_ref() == [first_root] {
            world.stored.rotation.command = Some("start".into());
            world.version += 1;
            world.both_look();
            world.both_look();
        }
        while world.pods.len() < 2 {
            world.start_pod(true, 1);
        }
        for _ in 0..12 {
            world.advance(2 * DAY, None);
            world.check();
            world.both_look();
            let copy = world.copy().to_vec();
            for pod in &mut world.pods {
                pod.anchors.clone_from(&copy);
            }
            world.check();
        }
        world.both_look();
        prop_assert!(world.phases.contains("announce") && world.phases.contains("sign"), "{:?}", world.phases);
        let left = CertificateId::all_of(&world.stored.anchors);
        prop_assert!(left.len() == 1 && left[0] != first_root);
        prop_assert_eq!(&world.stored.rotation, &rotation::Items::default());
        prop_assert_eq!(world.copy(), world.stored.anchors.as_slice());
        for replica in &world.replicas {
            prop_assert_eq!(&replica.held.as_ref().unwrap().stored().anchors, &world.stored.anchors);
        }
    }
}
