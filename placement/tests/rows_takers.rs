//! Row W25 of contract placement.md §15 and issue 5, line 7: 1.16 is acknowledged on its behalf at once, and
//! yet nobody runs an actor while a 1.16 sidecar may still run a turn of it.
//!
//! The pure machine is fed by hand here; the simulation has the sidecar's side of it.

#[path = "support/namespace.rs"]
mod namespace;

use namespace::{Namespace, id};
use placement::core::{Event, Generation, Message, Operation};

const V116: (Generation, u32) = (Generation::V116, 20);
const V117: (Generation, u32) = (Generation::V117, 20);
const NOTHING: [&str; 0] = [];

/// Stream 1 has type "a" by itself, and stream 2 has just joined it.
fn joined(first: (Generation, u32), second: (Generation, u32)) -> Namespace {
    let mut namespace = Namespace::new();
    namespace.open(1, &["a"], first);
    namespace.settle(&[1]);
    namespace.open(2, &["a"], second);
    namespace
}

#[test]
fn a_host_that_takes_actors_from_1_16_is_unlocked_when_their_turns_are_over_and_nobody_else_waits() {
    let mut namespace = joined(V116, V116);
    assert_eq!(namespace.sent(1), ["lock", "update", "unlock"]);
    assert_eq!(namespace.sent(2), ["lock", "update"]);
    namespace.wait(2100);
    assert_eq!(namespace.sent(2), NOTHING);
    namespace.wait(100);
    assert_eq!(namespace.sent(2), ["unlock"]);
    namespace.wait(60_000);
    assert_eq!((namespace.sent(1), namespace.sent(2)), (vec![], vec![]));
}

#[test]
fn a_1_17_host_that_takes_actors_from_1_16_waits_too() {
    let mut namespace = joined(V116, V117);
    assert_eq!(namespace.sent(2), ["lock"]);
    namespace.ack(2, Operation::Lock);
    namespace.ack(2, Operation::Update);
    assert_eq!((namespace.sent(1), namespace.sent(2)), (vec!["lock", "update", "unlock"], vec!["update"]));
    namespace.wait(2300);
    assert_eq!(namespace.sent(2), ["unlock"]);
}

#[test]
fn nobody_waits_for_who_drains_before_it_acknowledges_or_has_no_such_actors() {
    let mut namespace = joined(V117, V116);
    namespace.ack(1, Operation::Lock);
    namespace.ack(1, Operation::Update);
    assert_eq!(namespace.sent(2), ["lock", "update", "unlock"]);
    let mut namespace = Namespace::new();
    namespace.open(1, &["b"], V116);
    namespace.open(3, &[], V116);
    namespace.open(2, &["a"], V116);
    assert_eq!(namespace.sent(2), ["lock", "update", "unlock"]);
}

#[test]
fn a_departure_goes_out_at_once_while_a_taker_waits_and_takes_part() {
    let mut namespace = Namespace::new();
    namespace.open(3, &["b"], V117);
    namespace.settle(&[3]);
    namespace.open(1, &["a"], V116);
    namespace.settle(&[1, 3]);
    namespace.open(2, &["a"], V116);
    namespace.settle(&[1, 3]);
    assert_eq!(namespace.sent(2), ["lock", "update"]);
    namespace.step(Event::Closed { stream: id(3) });
    namespace.wait(1000);
    assert_eq!(namespace.sent(1), ["lock", "update", "unlock"]);
    assert_eq!(namespace.sent(2), ["update"], "it is locked already");
    namespace.wait(2300);
    assert_eq!(namespace.sent(2), ["unlock"]);
    assert!(namespace.machine.table().hosts.len() == 2);
}

#[test]
fn hosts_that_join_wait_for_the_takers_before_them() {
    let mut namespace = joined(V116, V116);
    assert_eq!((namespace.sent(1).len(), namespace.sent(2).len()), (3, 2));
    let host = namespace::host(3, &["a"], 20);
    namespace.step(Event::Opened { stream: id(3), host, generation: Generation::V116 });
    namespace.wait(2100);
    assert_eq!((namespace.sent(2), namespace.sent(3)), (vec![], vec![]));
    namespace.wait(200);
    assert_eq!(namespace.sent(2), ["unlock", "lock", "update", "unlock"]);
    assert_eq!(namespace.sent(3), ["lock", "update"]);
    namespace.wait(2300);
    assert_eq!(namespace.sent(3), ["unlock"]);
}

#[test]
fn who_is_left_with_the_actors_of_a_type_that_1_16_gives_up_waits_too() {
    let mut namespace = joined(V116, V116);
    namespace.wait(2300);
    assert_eq!((namespace.sent(1).len(), namespace.sent(2).len()), (3, 3));
    let message = Message { operation: Operation::Unknown, version: None, entities: vec!["b".into()] };
    namespace.step(Event::Received { stream: id(1), message });
    namespace.wait(1000);
    assert_eq!((namespace.sent(1), namespace.sent(2)), (vec!["lock", "update", "unlock"], vec!["lock", "update"]));
    namespace.wait(2300);
    assert_eq!(namespace.sent(2), ["unlock"]);
}
