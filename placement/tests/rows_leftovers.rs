//! Row W24 of contract placement.md §15: what a stream that was lost between UPDATE and UNLOCK left blocked
//! in a 1.18 sidecar is released by the first UNLOCK of the next one (G10), and nobody else sees how.
//!
//! The pure machine is fed by hand here; the simulation has the sidecar's side of it.

#[path = "support/namespace.rs"]
mod namespace;

use namespace::{Namespace, host, id};
use placement::core::{Carried, Event, Generation, Moment, Operation};

const V118: (Generation, u32) = (Generation::V118, 20);

#[test]
fn a_new_1_18_stream_gets_the_types_before_its_first_table_and_is_unlocked_after_both() {
    let mut namespace = Namespace::new();
    namespace.open(1, &["a"], V118);
    assert_eq!(namespace.sent(1), ["lock"]);
    namespace.ack(1, Operation::Lock);
    assert_eq!(namespace.sent(1), ["types", "update"]);
    namespace.ack(1, Operation::Update);
    assert_eq!(namespace.sent(1), [""; 0], "the types are acknowledged, the table is not");
    namespace.ack(1, Operation::Update);
    assert_eq!(namespace.sent(1), ["unlock"]);
}

#[test]
fn later_rounds_of_a_1_18_stream_have_one_update() {
    let mut namespace = Namespace::new();
    namespace.open(1, &["a"], V118);
    namespace.settle(&[1]);
    namespace.open(2, &["a"], V118);
    namespace.ack(1, Operation::Lock);
    namespace.ack(2, Operation::Lock);
    assert_eq!((namespace.sent(1), namespace.sent(2)), (vec!["lock", "update"], vec!["lock", "types", "update"]));
}

#[test]
fn a_1_18_stream_that_needs_no_round_gets_the_types_too() {
    let mut namespace = Namespace::new();
    namespace.open(1, &["a"], V118);
    namespace.settle(&[1]);
    namespace.open(2, &[], V118);
    assert_eq!(namespace.sent(2), ["lock", "types", "update", "unlock"]);
    namespace.settle(&[1, 2]);
    assert_eq!(namespace.sent(1), [""; 0]);
}

#[test]
fn no_other_client_gets_an_update_without_hosts() {
    let others = [(Generation::V117, 20), (Generation::V116, 20), (Generation::OpLess, 0), (Generation::V118, 0)];
    for who in others {
        let mut namespace = Namespace::new();
        namespace.open(1, &["a"], who);
        if who.0 == Generation::OpLess {
            namespace.ack(1, Operation::Unknown);
        } else if who.0 != Generation::V116 {
            namespace.ack(1, Operation::Lock);
        }
        let sent = namespace.sent(1);
        assert!(sent.contains(&"update") && !sent.contains(&"types"), "{who:?}: {sent:?}");
        namespace.open(2, &[], who);
        assert!(!namespace.sent(2).contains(&"types"), "{who:?}");
    }
}

#[test]
fn a_round_that_is_given_up_sends_the_types_again() {
    let mut namespace = Namespace::new();
    namespace.open(9, &["a"], V118);
    namespace.settle(&[9]);
    namespace.open(1, &["a"], V118);
    namespace.ack(9, Operation::Lock);
    namespace.ack(1, Operation::Lock);
    assert_eq!(namespace.sent(1), ["lock", "types", "update"]);
    // The other replica is lost while its host may hold either table.
    namespace.step(Event::Lost { replica: 2 });
    assert_eq!(namespace.sent(1), ["lock"]);
    namespace.ack(1, Operation::Lock);
    assert_eq!(namespace.sent(1), ["types", "update"]);
}

#[test]
fn a_stream_that_outlives_its_leader_gets_the_types_only_if_it_was_never_unlocked() {
    let carried = |seq, table| {
        let (host, locked) = (host(seq, &["a"], 20), Some(Moment::default()));
        Carried { lock: 7, locked, table, ..Carried::new(id(seq), host, Generation::V118) }
    };
    let mut namespace = Namespace::new();
    namespace.step(Event::Resumed { streams: vec![carried(1, Some(6)), carried(2, None)] });
    assert_eq!((namespace.sent(1), namespace.sent(2)), (vec!["lock"], vec!["lock"]));
    namespace.ack(1, Operation::Lock);
    namespace.ack(2, Operation::Lock);
    assert_eq!((namespace.sent(1), namespace.sent(2)), (vec!["update"], vec!["types", "update"]));
}
