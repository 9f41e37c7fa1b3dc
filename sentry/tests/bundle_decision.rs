//! No path makes a new root while a usable one exists, nothing partial is overwritten, and all
//! replicas end on one bundle (RULINGS 10).

#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions of a test")]

mod support;

use std::sync::LazyLock;

use proptest::prelude::*;
use sentry::{
    core::{
        bundle::{Stored, X509Bundle},
        decide::{Bundle, JwtSource, Problem, PublicCopy, Rules, Situation, Snapshot, Source, Step, decide},
        jwks::JwtBundle,
        keys::PrivateKey,
        validity::Lifetimes,
    },
    issuer::generate_ca,
};
use support::Ca;

const NO_JWT: Rules<'static> = Rules { jwt: None, key_id: None };
static A: LazyLock<Stored> = LazyLock::new(|| Ca::new(&rcgen::PKCS_ED25519).stored());
static B: LazyLock<Stored> = LazyLock::new(|| Ca::new(&rcgen::PKCS_ECDSA_P256_SHA256).stored());

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn bundle(stored: &Stored) -> Bundle {
    Bundle { x509: X509Bundle::load(stored.clone(), now()).unwrap(), jwt: None }
}

fn snapshot(stored: Option<&Stored>, copy: &[u8]) -> Snapshot {
    let part = |part: fn(&Stored) -> &Vec<u8>| stored.map_or_else(Vec::new, |stored| part(stored).clone());
    Snapshot {
        anchors: part(|stored| &stored.anchors),
        chain: part(|stored| &stored.chain),
        key: part(|stored| &stored.key),
        copy: Some(PublicCopy { anchors: copy.to_vec(), jwks: Vec::new() }),
        ..Snapshot::default()
    }
}

const STARTING: Situation<'static> = Situation::Starting { waited: false, others_running: false };

#[test]
fn nothing_stored_and_nobody_running_makes_a_new_ca() {
    let step = decide(&snapshot(None, b""), STARTING, NO_JWT, now());
    assert!(matches!(step, Step::Create { x509: Source::New, .. }), "{step:?}");
}

#[test]
fn a_missing_or_different_configmap_is_repaired_from_the_secret() {
    for copy in [&b""[..], b"garbage", &B.anchors] {
        let step = decide(&snapshot(Some(&A), copy), STARTING, NO_JWT, now());
        let Step::Adopt { bundle: adopted, repair_copy: true } = step else { panic!("{step:?}") };
        assert_eq!(*adopted.x509.stored(), *A);
    }
}

#[test]
fn a_running_replica_writes_its_bundle_back_unless_a_reset_is_asked_for() {
    let held = bundle(&A);
    let mut emptied = snapshot(None, &A.anchors);
    let step = decide(&emptied, Situation::Running(&held), NO_JWT, now());
    assert!(matches!(step, Step::Create { x509: Source::Held, .. }), "{step:?}");
    emptied.reset = true;
    let step = decide(&emptied, Situation::Running(&held), NO_JWT, now());
    assert!(matches!(step, Step::Create { x509: Source::New, .. }), "{step:?}");
}

#[test]
fn a_starting_replica_waits_for_whoever_may_hold_a_lost_bundle() {
    assert_eq!(decide(&snapshot(None, &A.anchors), STARTING, NO_JWT, now()), Step::AwaitHolder);
    let seen = Situation::Starting { waited: false, others_running: true };
    assert_eq!(decide(&snapshot(None, b""), seen, NO_JWT, now()), Step::AwaitHolder);
    let waited = Situation::Starting { waited: true, others_running: true };
    let step = decide(&snapshot(None, &A.anchors), waited, NO_JWT, now());
    assert!(matches!(step, Step::Create { x509: Source::New, .. }), "{step:?}");
}

#[test]
fn a_missing_key_is_named() {
    let mut partial = snapshot(Some(&A), b"");
    partial.key.clear();
    let step = decide(&partial, STARTING, NO_JWT, now());
    assert_eq!(step, Step::Refuse(Problem::Partial { missing: vec!["issuer.key"] }));
}

#[test]
fn an_expired_bundle_is_refused_and_not_replaced() {
    let in_three_thousand_years = now() + 3000 * 365 * 24 * 3600;
    let step = decide(&snapshot(Some(&A), &A.anchors), STARTING, NO_JWT, in_three_thousand_years);
    let Step::Refuse(problem) = step else { panic!("{step:?}") };
    assert_eq!(problem.reason(), "expired");
}

/// One item's value among absent, A's, B's and garbage.
fn item(choice: usize, part: fn(&Stored) -> &Vec<u8>) -> Vec<u8> {
    match choice {
        0 => Vec::new(),
        1 => part(&A).clone(),
        2 => part(&B).clone(),
        _ => b"-----BEGIN garbage".to_vec(),
    }
}

#[test]
fn every_combination_of_missing_changed_and_garbage_keys_keeps_the_rules() {
    let held = bundle(&A);
    let situations = [
        STARTING,
        Situation::Starting { waited: true, others_running: false },
        Situation::Starting { waited: false, others_running: true },
        Situation::Running(&held),
    ];
    for case in 0..4 * 4 * 4 * 4 * 2 {
        let choice = |place: u32| (case / 4usize.pow(place)) % 4;
        let choices = [choice(0), choice(1), choice(2)];
        let snapshot = Snapshot {
            anchors: item(choices[0], |stored| &stored.anchors),
            chain: item(choices[1], |stored| &stored.chain),
            key: item(choices[2], |stored| &stored.key),
            copy: Some(PublicCopy { anchors: item(choice(3), |stored| &stored.anchors), jwks: Vec::new() }),
            reset: case >= 256,
            ..Snapshot::default()
        };
        let bare = choices == [0, 0, 0];
        let whole = choices == [1, 1, 1] || choices == [2, 2, 2];
        for situation in situations {
            let running = matches!(situation, Situation::Running(_));
            match decide(&snapshot, situation, NO_JWT, now()) {
                Step::Adopt { bundle, repair_copy } => {
                    assert!(whole, "{choices:?}");
                    assert_eq!(bundle.x509.stored().anchors, snapshot.anchors);
                    assert_eq!(repair_copy, choice(3) != choices[0]);
                }
                Step::Create { x509: Source::New, .. } => {
                    assert!(bare, "{choices:?}");
                    assert!(snapshot.reset || !running, "a running replica let go of its bundle");
                }
                Step::Create { x509: Source::Held, .. } => assert!(bare && running && !snapshot.reset),
                Step::Create { x509: Source::Stored, .. } => panic!("nothing is missing but JWT"),
                Step::AwaitHolder => assert!(bare && !running && !snapshot.reset),
                Step::Refuse(_) => assert!(!bare && !whole, "{choices:?}"),
            }
        }
    }
}

fn jwt_items() -> JwtBundle {
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem().into_bytes();
    JwtBundle::of_key(PrivateKey::from_pem(&pem).unwrap(), pem, None, "ES256")
}

/// As above for the JWT half: a stored key is never replaced, a set without its key is never
/// taken for nothing, and what is adopted fits together.
#[test]
fn every_combination_of_jwt_items_keeps_the_rules() {
    let items = [jwt_items(), jwt_items()];
    let value = |choice: usize, part: fn(&JwtBundle) -> &Vec<u8>| match choice {
        0 => Vec::new(),
        1 | 2 => part(&items[choice - 1]).clone(),
        _ => b"garbage".to_vec(),
    };
    let held_without = bundle(&A);
    let mut held_with = bundle(&A);
    held_with.jwt = Some(JwtBundle::load(value(1, |jwt| &jwt.key_pem), value(1, |jwt| &jwt.jwks_json), None).unwrap());
    let algorithms = [None, Some("ES256"), Some("RS256")];
    for case in 0..4 * 4 * 3 * 3 * 2 * 2 {
        let (key, jwks, reset, bare) = (case % 4, case / 4 % 4, case / 144 % 2 == 1, case / 288 == 1);
        let algorithm = algorithms[case / 16 % 3];
        let situation = match case / 48 % 3 {
            0 => STARTING,
            1 => Situation::Running(&held_without),
            _ => Situation::Running(&held_with),
        };
        let snapshot = Snapshot {
            jwt_key: value(key, |jwt| &jwt.key_pem),
            jwks: value(jwks, |jwt| &jwt.jwks_json),
            reset,
            ..snapshot((!bare).then_some(&*A), b"")
        };
        let rules = Rules { jwt: algorithm.map(|name| name.parse().unwrap()), key_id: None };
        let on = algorithm.is_some();
        let holds_jwt = case / 48 % 3 == 2;
        let step = decide(&snapshot, situation, rules, now());
        let what = format!("key {key}, set {jwks}, {algorithm:?}, reset {reset}, bare {bare}: {step:?}");
        let fits = key == jwks && (key == 1 || key == 2) && algorithm != Some("RS256");
        match step {
            Step::Adopt { bundle, .. } => {
                assert!(!bare && (fits || (!on && (key == 0 || jwks == 0))), "{what}");
                assert_eq!(bundle.jwt.is_some(), fits, "{what}");
            }
            Step::Create { jwt: JwtSource::New, .. } => {
                assert!(on && (key, jwks) == (0, 0) && (reset || !holds_jwt), "{what}");
            }
            Step::Create { jwt: JwtSource::Held, .. } => {
                assert!(on && (key, jwks) == (0, 0) && holds_jwt && !reset, "{what}");
            }
            Step::Create { jwt: JwtSource::SetOfStoredKey, .. } => assert!(on && key != 0 && jwks == 0, "{what}"),
            Step::Create { jwt: JwtSource::Stored, .. } => {
                assert!(bare && (fits || (!on && (key == 0 || jwks == 0))), "{what}");
            }
            Step::Refuse(problem) => {
                assert!(problem.reason().ends_with("jwt"), "{what}");
                assert!(!fits && (key, jwks) != (0, 0), "{what}");
            }
            Step::AwaitHolder => panic!("nothing was published and nobody runs: {what}"),
        }
    }
}

/// The stored objects, each with a version that conditional writes compare.
#[derive(Default)]
struct World {
    secret: Option<Stored>,
    secret_version: u64,
    copy: Vec<u8>,
    copy_version: u64,
    /// New CAs made while a usable one existed.
    crimes: Vec<String>,
}

#[derive(Default)]
struct Replica {
    alive: bool,
    held: Option<Bundle>,
    /// The secret's version it waits at, and the steps of others it has seen since.
    waiting: Option<(u64, u32)>,
    /// Read but not yet acted on: (snapshot, secret version, copy version).
    read: Option<(Snapshot, u64, u64)>,
}

/// One half step: first read, then act on what was read. A crash may fall between.
fn step(world: &mut World, replicas: &mut [Replica; 2], index: usize) {
    let other = replicas[1 - index].alive && replicas[1 - index].held.is_some();
    let someone_holds = replicas.iter().any(|replica| replica.alive && replica.held.is_some());
    let me = &mut replicas[index];
    if !me.alive {
        return;
    }
    let Some((read, secret_version, copy_version)) = me.read.take() else {
        me.read = Some((snapshot(world.secret.as_ref(), &world.copy), world.secret_version, world.copy_version));
        return;
    };
    me.waiting = me.waiting.filter(|(version, _)| *version == secret_version);
    let waited = me.waiting.is_some_and(|(_, steps)| steps >= 4 || !other);
    let situation = match &me.held {
        Some(bundle) => Situation::Running(bundle),
        None => Situation::Starting { waited, others_running: other },
    };
    let write = |world: &mut World, stored: Stored| {
        if world.secret_version == secret_version {
            world.secret = Some(stored);
            world.secret_version += 1;
        }
    };
    match decide(&read, situation, NO_JWT, now()) {
        Step::Adopt { bundle, repair_copy } => {
            me.waiting = None;
            if repair_copy && world.copy_version == copy_version {
                world.copy.clone_from(&bundle.x509.stored().anchors);
                world.copy_version += 1;
            }
            me.held = Some(*bundle);
        }
        Step::Create { x509: Source::New, .. } => {
            let sentry = identity::SpiffeId::parse("spiffe://td/ns/n/dapr-sentry").unwrap();
            let stored = generate_ca(&sentry, Lifetimes::default()).unwrap();
            let lands = world.secret_version == secret_version;
            if lands && (world.secret.is_some() || someone_holds) {
                world.crimes.push("a new root while a usable one exists".into());
            }
            write(world, stored);
        }
        Step::Create { .. } => {
            let stored = me.held.as_ref().expect("only holders write back").x509.stored().clone();
            write(world, stored);
        }
        Step::AwaitHolder => me.waiting = Some(me.waiting.unwrap_or((secret_version, 0))),
        Step::Refuse(_) => me.alive = false,
    }
    if let Some((_, steps)) = &mut replicas[1 - index].waiting {
        *steps += 1;
    }
}

/// Two replicas start, stop, crash between any two writes, while a user empties the secret and
/// spoils the copy; then all runs undisturbed.
fn play(moves: &[u8]) -> Result<(), TestCaseError> {
    let mut world = World::default();
    let mut replicas = [Replica::default(), Replica::default()];
    for next in moves {
        match next {
            0..=3 => step(&mut world, &mut replicas, 0),
            4..=7 => step(&mut world, &mut replicas, 1),
            8 => replicas[0] = Replica { alive: true, ..Replica::default() },
            9 => replicas[1] = Replica { alive: true, ..Replica::default() },
            10 => {
                // Emptied while somebody who holds it runs on: it must come back.
                if replicas.iter().any(|replica| replica.alive && replica.held.is_some()) {
                    world.secret = None;
                    world.secret_version += 1;
                }
            }
            _ => {
                world.copy = b"spoiled".to_vec();
                world.copy_version += 1;
            }
        }
    }
    for replica in &mut replicas {
        replica.alive = true;
    }
    for _ in 0..30 {
        step(&mut world, &mut replicas, 0);
        step(&mut world, &mut replicas, 1);
    }
    prop_assert!(world.crimes.is_empty(), "{:?}", world.crimes);
    let anchors = world.secret.expect("a bundle is stored in the end").anchors;
    prop_assert_eq!(&world.copy, &anchors);
    for replica in &replicas {
        let held = replica.held.as_ref().expect("every replica holds a bundle in the end");
        prop_assert_eq!(&held.x509.stored().anchors, &anchors);
    }
    Ok(())
}

proptest! {
    #[test]
    fn replicas_never_make_a_second_root_and_end_on_one_bundle(
        moves in proptest::collection::vec(0u8..12, 10..60),
    ) {
        play(&moves)?;
    }
}

/// Replica 1 began to wait before replica 0 made the first bundle, and does not see it before it is
/// emptied: its time must begin again, for replica 0 has yet to look.
#[test]
fn a_wait_begins_again_when_the_secret_was_filled_and_emptied_meanwhile() {
    play(&[11, 9, 8, 0, 4, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 4, 4]).unwrap();
}
