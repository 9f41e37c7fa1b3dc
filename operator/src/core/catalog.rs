//! The index of everything served: objects in, what changed for sidecars out.
//!
//! `apply`, `delete` and `reset` follow a Kubernetes watch of one kind, `observe_secret` what
//! was found of a Secret. Each returns [`Effects`]: what to tell sidecars, and which Secrets
//! to look for. Invariants:
//!
//! - an object is published to sidecars only with its Secrets settled, so an event waits for
//!   them, while per object the order stays;
//! - the first list of a kind is not news: sidecars read it with their own lists;
//! - any order of inputs that ends with the same objects ends with the same index.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use identity::Namespace;

use super::{
    api_kind::ApiKind,
    generation::Generation,
    secrets::{Observed, SecretBook, User},
    template::Rendered,
    wire::{Object, ObjectKey, Scopes, Viewer},
};

/// One version of an object, as sidecars get it.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    /// Its name.
    pub key: ObjectKey,
    /// The apps it is for.
    pub scopes: Scopes,
    /// Its JSON.
    pub json: Bytes,
    /// Its JSON for v1.16 sidecars, where that differs.
    pub v1_16: Option<Bytes>,
    /// Whether its JSON holds values of Secrets.
    pub has_secrets: bool,
}

impl Version {
    /// Its JSON for a sidecar of this generation.
    pub fn json_for(&self, generation: Generation) -> &Bytes {
        match (generation, &self.v1_16) {
            (Generation::V1_16, Some(json)) => json,
            _ => &self.json,
        }
    }

    /// Whether a sidecar may be told of it again without harm (RULINGS 25): not if a kind
    /// reads its news as a change, and not if it stores a resolved value it compares later.
    pub fn may_be_repeated(&self, kind: ApiKind) -> bool {
        match kind {
            ApiKind::Configuration | ApiKind::Resiliency => true,
            ApiKind::HttpEndpoint => !self.has_secrets,
            ApiKind::Component | ApiKind::McpServer | ApiKind::Subscription | ApiKind::WorkflowAccessPolicy => false,
        }
    }

    /// Whether `viewer` may see it: its own namespace, and in scope.
    pub fn is_visible_to(&self, viewer: &Viewer) -> bool {
        self.key.namespace == viewer.namespace && self.scopes.include(&viewer.app_id)
    }
}

/// A published change of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// Its kind.
    pub kind: ApiKind,
    /// What sidecars had.
    pub old: Option<Arc<Version>>,
    /// What they are to have.
    pub new: Option<Arc<Version>>,
}

/// What a change means to one sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new to it.
    Created,
    /// It had another version.
    Updated,
    /// It is gone for it.
    Deleted,
}

/// A change, as one sidecar gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The new version; of a deleted object the last.
    pub version: Arc<Version>,
}

impl Delta {
    /// What `viewer` is told, if anything (contract operator.md §4).
    pub fn event_for(&self, viewer: &Viewer) -> Option<Event> {
        let old = self.old.as_ref().filter(|version| version.is_visible_to(viewer));
        let new = self.new.as_ref().filter(|version| version.is_visible_to(viewer));
        let (change, version) = match (old, new) {
            (None, None) => return None,
            (None, Some(new)) => (Change::Created, new),
            (Some(_), Some(new)) => (Change::Updated, new),
            (Some(old), None) => (Change::Deleted, old),
        };
        Some(Event { change, version: Arc::clone(version) })
    }

    /// The namespace of the object.
    pub fn namespace(&self) -> Option<&Namespace> {
        let version = self.new.as_ref().or(self.old.as_ref())?;
        Some(&version.key.namespace)
    }
}

/// What is to be done after a change of the index.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// To tell sidecars.
    pub deltas: Vec<Delta>,
    /// Secrets to look for.
    pub wanted: BTreeSet<ObjectKey>,
    /// Secrets nobody refers to any more.
    pub released: BTreeSet<ObjectKey>,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// As it is.
    Whole(Arc<Version>),
    /// With fields left unresolved, because a Secret is missing.
    Partial(Arc<Version>),
    /// Not known yet: a Secret is being looked for.
    Waiting,
    /// It cannot be served, and why.
    Refused(Arc<str>),
}

#[derive(Debug)]
struct Entry {
    object: Object,
    state: Listed,
    /// What sidecars with a stream were told last.
    published: Option<Arc<Version>>,
    /// The next publication is no news: the object came with the first list.
    is_first_list: bool,
}

/// Why an entry is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Object,
    Secret,
}

type Shelf = BTreeMap<Namespace, BTreeMap<String, Entry>>;

/// The index.
#[derive(Debug, Default)]
pub struct Catalog {
    shelves: [Shelf; ApiKind::ALL.len()],
    is_synced: [bool; ApiKind::ALL.len()],
    secrets: SecretBook,
}

impl Catalog {
    /// An object was created or changed.
    pub fn apply(&mut self, kind: ApiKind, object: Object) -> Effects {
        let mut effects = Effects::default();
        self.put(kind, object, &mut effects);
        effects
    }

    /// An object was deleted, or can no longer be read.
    pub fn delete(&mut self, kind: ApiKind, key: &ObjectKey) -> Effects {
        let mut effects = Effects::default();
        self.take(kind, key, &mut effects);
        effects
    }

    /// These are all objects of `kind`.
    pub fn reset(&mut self, kind: ApiKind, objects: Vec<Object>) -> Effects {
        let mut effects = Effects::default();
        let present: BTreeSet<&ObjectKey> = objects.iter().map(|object| &object.key).collect();
        let gone: Vec<ObjectKey> = self.keys(kind).filter(|key| !present.contains(key)).collect();
        for key in gone {
            self.take(kind, &key, &mut effects);
        }
        for object in objects {
            self.put(kind, object, &mut effects);
        }
        self.is_synced[kind.index()] = true;
        effects
    }

    /// A Secret was looked for.
    pub fn observe_secret(&mut self, secret: &ObjectKey, observed: Observed) -> Effects {
        let mut effects = Effects::default();
        for (kind, key) in self.secrets.observe(secret, observed) {
            self.evaluate(kind, &key, Cause::Secret, &mut effects);
        }
        effects
    }

    /// Whether the first list of `kind` has come.
    pub fn is_synced(&self, kind: ApiKind) -> bool {
        self.is_synced[kind.index()]
    }

    /// What `viewer` may see of `kind`, by name.
    pub fn list(&self, kind: ApiKind, viewer: &Viewer) -> impl Iterator<Item = &Listed> {
        let shelf = self.shelves[kind.index()].get(&viewer.namespace);
        shelf
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|entry| entry.object.scopes.include(&viewer.app_id))
            .map(|entry| &entry.state)
    }

    /// One object, whatever its scopes.
    pub fn get(&self, kind: ApiKind, key: &ObjectKey) -> Option<&Listed> {
        self.entry(kind, key).map(|entry| &entry.state)
    }

    /// The Secrets referred to.
    pub fn secrets(&self) -> &SecretBook {
        &self.secrets
    }

    /// The number of objects of `kind`.
    pub fn count(&self, kind: ApiKind) -> usize {
        self.shelves[kind.index()].values().map(BTreeMap::len).sum()
    }

    fn keys(&self, kind: ApiKind) -> impl Iterator<Item = ObjectKey> {
        self.shelves[kind.index()].values().flat_map(BTreeMap::values).map(|entry| entry.object.key.clone())
    }

    fn entry(&self, kind: ApiKind, key: &ObjectKey) -> Option<&Entry> {
        self.shelves[kind.index()].get(&key.namespace)?.get(&key.name)
    }

    fn put(&mut self, kind: ApiKind, object: Object, effects: &mut Effects) {
        let key = object.key.clone();
        let before = self.entry(kind, &key);
        let is_replay = before.is_some_and(|entry| {
            !object.resource_version.is_empty() && entry.object.resource_version == object.resource_version
        });
        if is_replay {
            return;
        }
        let secrets_before = before.map(|entry| secrets_of(&entry.object)).unwrap_or_default();
        self.move_references(&(kind, key.clone()), &secrets_before, &secrets_of(&object), effects);
        let is_first_list = !self.is_synced[kind.index()];
        let shelf = self.shelves[kind.index()].entry(key.namespace.clone()).or_default();
        if let Some(entry) = shelf.get_mut(&key.name) {
            entry.object = object;
        } else {
            let entry = Entry { object, state: Listed::Waiting, published: None, is_first_list };
            shelf.insert(key.name.clone(), entry);
        }
        self.evaluate(kind, &key, Cause::Object, effects);
    }

    fn take(&mut self, kind: ApiKind, key: &ObjectKey, effects: &mut Effects) {
        let shelf = &mut self.shelves[kind.index()];
        let Some(objects) = shelf.get_mut(&key.namespace) else {
            return;
        };
        let Some(entry) = objects.remove(&key.name) else {
            return;
        };
        if objects.is_empty() {
            shelf.remove(&key.namespace);
        }
        let secrets = secrets_of(&entry.object);
        self.move_references(&(kind, key.clone()), &secrets, &BTreeSet::new(), effects);
        // Lists may have shown it even if no stream did.
        let old = entry.published.unwrap_or_else(|| {
            let json = entry.object.template.unresolved();
            Arc::new(version(&entry.object, json))
        });
        effects.deltas.push(Delta { kind, old: Some(old), new: None });
    }

    fn move_references(
        &mut self,
        user: &User,
        before: &BTreeSet<ObjectKey>,
        after: &BTreeSet<ObjectKey>,
        effects: &mut Effects,
    ) {
        for secret in after.difference(before) {
            if self.secrets.add_user(secret.clone(), user.clone()) {
                effects.wanted.insert(secret.clone());
                effects.released.remove(secret);
            }
        }
        for secret in before.difference(after) {
            if self.secrets.remove_user(secret, user) {
                effects.released.insert(secret.clone());
                effects.wanted.remove(secret);
            }
        }
    }

    fn evaluate(&mut self, kind: ApiKind, key: &ObjectKey, cause: Cause, effects: &mut Effects) {
        let secrets = &self.secrets;
        let shelf = self.shelves[kind.index()].get_mut(&key.namespace);
        let Some(entry) = shelf.and_then(|objects| objects.get_mut(&key.name)) else {
            return;
        };
        let rendered = entry
            .object
            .template
            .render(|name| secrets.look_up(&ObjectKey { namespace: key.namespace.clone(), name: name.to_owned() }));
        entry.state = match rendered {
            Rendered::Whole(json) => Listed::Whole(Arc::new(version(&entry.object, json))),
            Rendered::Partial(json) => Listed::Partial(Arc::new(version(&entry.object, json))),
            Rendered::Waiting => Listed::Waiting,
            Rendered::Refused(reason) => Listed::Refused(reason.into()),
        };
        effects.deltas.extend(entry.publish(kind, cause));
    }
}

impl Entry {
    /// Publishes the present state if it is complete; returns the news in it.
    fn publish(&mut self, kind: ApiKind, cause: Cause) -> Option<Delta> {
        let new = match &self.state {
            Listed::Whole(version) => Arc::clone(version),
            Listed::Waiting => return None,
            Listed::Partial(_) | Listed::Refused(_) => {
                // Sidecars may have listed the incomplete form: completing it is news, for
                // the kinds that can take it without a restart.
                self.is_first_list &= !kind.pushes_rotated_secrets();
                return None;
            }
        };
        let old = self.published.replace(Arc::clone(&new));
        let is_first_list = std::mem::take(&mut self.is_first_list);
        let is_rotation = cause == Cause::Secret && old.is_some();
        let is_silent =
            is_first_list || (is_rotation && (!kind.pushes_rotated_secrets() || old.as_ref() == Some(&new)));
        (!is_silent).then_some(Delta { kind, old, new: Some(new) })
    }
}

fn secrets_of(object: &Object) -> BTreeSet<ObjectKey> {
    object
        .template
        .secrets()
        .map(|name| ObjectKey { namespace: object.key.namespace.clone(), name: name.to_owned() })
        .collect()
}

fn version(object: &Object, json: Bytes) -> Version {
    Version {
        key: object.key.clone(),
        scopes: object.scopes.clone(),
        json,
        v1_16: object.v1_16.as_ref().map(super::template::Template::unresolved),
        has_secrets: object.template.secrets().next().is_some(),
    }
}

#[cfg(test)]
mod tests;
