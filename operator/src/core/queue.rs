//! The events that wait for one sidecar.
//!
//! Every event is kept while there is room, in order. When the queue is full, the events of
//! one object are merged into its last state (RULINGS 26), so a slow sidecar loses
//! intermediate states, never the last, and the queue holds at most the limit or one event
//! per object, whichever is more.

use std::collections::{BTreeMap, VecDeque};

use super::catalog::{Change, Event};

/// A queue of events.
#[derive(Debug)]
pub struct Queue {
    events: VecDeque<Event>,
    limit: usize,
    merged: u64,
}

impl Queue {
    /// An empty queue that merges beyond `limit` events.
    pub fn new(limit: usize) -> Self {
        Self { events: VecDeque::new(), limit, merged: 0 }
    }

    /// Adds an event at the end.
    pub fn push(&mut self, event: Event) {
        self.events.push_back(event);
        if self.events.len() > self.limit {
            self.merge();
        }
    }

    /// The next event.
    pub fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How many events were merged into later ones since this was last asked.
    pub fn take_merged(&mut self) -> u64 {
        std::mem::take(&mut self.merged)
    }

    /// Keeps one event per object, in the place of its last.
    fn merge(&mut self) {
        let before = self.events.len();
        let mut last: BTreeMap<_, (usize, Change)> = BTreeMap::new();
        for (place, event) in self.events.iter().enumerate() {
            let entry = last.entry(event.version.key.clone()).or_insert((place, event.change));
            let change = if entry.0 == place { event.change } else { then(entry.1, event.change) };
            *entry = (place, change);
        }
        let mut place = 0;
        self.events.retain_mut(|event| {
            let kept = last.get(&event.version.key).filter(|(last, _)| *last == place);
            place += 1;
            kept.is_some_and(|(_, change)| {
                event.change = *change;
                true
            })
        });
        self.merged += (before - self.events.len()) as u64;
    }
}

/// What two changes of one object are together, to a sidecar that saw neither.
fn then(first: Change, second: Change) -> Change {
    match (first, second) {
        // Harmless for one that never had it, needed by one that did.
        (_, Change::Deleted) => Change::Deleted,
        (Change::Created, Change::Updated) => Change::Created,
        (Change::Deleted | Change::Updated | Change::Created, _) => Change::Updated,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use identity::Namespace;

    use super::*;
    use crate::core::{
        catalog::Version,
        wire::{ObjectKey, Scopes},
    };

    fn event(change: Change, name: &str, json: &'static str) -> Event {
        Event {
            change,
            version: Arc::new(Version {
                key: ObjectKey { namespace: Namespace::parse("n").unwrap(), name: name.to_owned() },
                scopes: Scopes::default(),
                json: json.into(),
                v1_16: None,
                has_secrets: false,
            }),
        }
    }

    fn drain(queue: &mut Queue) -> Vec<(Change, String, String)> {
        std::iter::from_fn(|| queue.pop())
            .map(|event| {
                let json = String::from_utf8(event.version.json.to_vec()).unwrap();
                (event.change, event.version.key.name.clone(), json)
            })
            .collect()
    }

    #[test]
    fn with_room_every_event_is_kept_in_order() {
        let mut queue = Queue::new(3);
        for (change, json) in [(Change::Created, "1"), (Change::Updated, "2"), (Change::Deleted, "3")] {
            queue.push(event(change, "a", json));
        }
        let changes: Vec<_> = drain(&mut queue).into_iter().map(|(change, ..)| change).collect();
        assert_eq!(changes, [Change::Created, Change::Updated, Change::Deleted]);
        assert_eq!(queue.take_merged(), 0);
    }

    #[test]
    fn a_full_queue_keeps_the_last_state_of_every_object() {
        let mut queue = Queue::new(2);
        queue.push(event(Change::Created, "a", "1"));
        queue.push(event(Change::Updated, "b", "1"));
        queue.push(event(Change::Updated, "a", "2"));
        queue.push(event(Change::Deleted, "b", "2"));
        assert_eq!(
            drain(&mut queue),
            [(Change::Created, "a".into(), "2".into()), (Change::Deleted, "b".into(), "2".into())]
        );
        assert_eq!(queue.take_merged(), 2);
    }

    #[test]
    fn a_deleted_and_recreated_object_is_an_update() {
        let mut queue = Queue::new(1);
        queue.push(event(Change::Deleted, "a", "1"));
        queue.push(event(Change::Created, "a", "2"));
        assert_eq!(drain(&mut queue), [(Change::Updated, "a".into(), "2".into())]);
    }

    #[test]
    fn distinct_objects_are_never_dropped() {
        let mut queue = Queue::new(1);
        for name in ["a", "b", "c"] {
            queue.push(event(Change::Updated, name, "1"));
        }
        assert_eq!(drain(&mut queue).len(), 3);
    }
}
