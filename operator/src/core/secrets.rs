//! What is known of the Secrets that served objects refer to.
//!
//! Only referenced Secrets are held, and dropped with the last reference. A Secret that
//! vanished keeps the value it had last (RULINGS 23). `Debug` shows no value.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{api_kind::ApiKind, template::Lookup, wire::ObjectKey};

/// The data of a Secret.
pub type SecretData = BTreeMap<String, Vec<u8>>;

/// An object that refers to a Secret.
pub type User = (ApiKind, ObjectKey);

/// What the shell found when it looked for a Secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Observed {
    /// It exists.
    Data(SecretData),
    /// It does not exist, or may not be read.
    Missing,
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data(_) => "Data(…)",
            Self::Missing => "Missing",
        })
    }
}

#[derive(PartialEq, Eq)]
enum Seen {
    NotYet,
    Nothing,
    Data(SecretData),
}

struct Held {
    seen: Seen,
    users: BTreeSet<User>,
}

/// The Secrets in use.
#[derive(Default)]
pub struct SecretBook {
    held: BTreeMap<ObjectKey, Held>,
}

impl SecretBook {
    /// Notes that `user` refers to `secret`; says whether it must now be looked for.
    pub fn add_user(&mut self, secret: ObjectKey, user: User) -> bool {
        let mut is_new = false;
        let held = self.held.entry(secret).or_insert_with(|| {
            is_new = true;
            Held { seen: Seen::NotYet, users: BTreeSet::new() }
        });
        held.users.insert(user);
        is_new
    }

    /// Notes that `user` no longer refers to `secret`; says whether nobody does.
    pub fn remove_user(&mut self, secret: &ObjectKey, user: &User) -> bool {
        let Some(held) = self.held.get_mut(secret) else {
            return false;
        };
        held.users.remove(user);
        let is_unused = held.users.is_empty();
        if is_unused {
            self.held.remove(secret);
        }
        is_unused
    }

    /// Notes what was found; returns the objects whose text may differ now.
    pub fn observe(&mut self, secret: &ObjectKey, observed: Observed) -> Vec<User> {
        let Some(held) = self.held.get_mut(secret) else {
            return Vec::new();
        };
        let seen = match observed {
            Observed::Data(data) => Seen::Data(data),
            Observed::Missing if matches!(held.seen, Seen::Data(_)) => return Vec::new(),
            Observed::Missing => Seen::Nothing,
        };
        if held.seen == seen {
            return Vec::new();
        }
        held.seen = seen;
        held.users.iter().cloned().collect()
    }

    /// What is known of `secret`.
    pub fn look_up(&self, secret: &ObjectKey) -> Lookup<'_> {
        match self.held.get(secret).map(|held| &held.seen) {
            None | Some(Seen::NotYet) => Lookup::Unknown,
            Some(Seen::Nothing) => Lookup::Missing,
            Some(Seen::Data(data)) => Lookup::Data(data),
        }
    }

    /// Whether `secret` was looked for in vain, and never found before.
    pub fn is_missing(&self, secret: &ObjectKey) -> bool {
        matches!(self.look_up(secret), Lookup::Missing)
    }

    /// Whether somebody refers to `secret`.
    pub fn holds(&self, secret: &ObjectKey) -> bool {
        self.held.contains_key(secret)
    }

    /// The Secrets in use, by name.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.held.keys()
    }
}

impl fmt::Debug for SecretBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.held.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use identity::Namespace;

    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: Namespace::parse("fuse").unwrap(), name: name.to_owned() }
    }

    fn user(name: &str) -> User {
        (ApiKind::Component, key(name))
    }

    fn data(value: &str) -> Observed {
        Observed::Data(BTreeMap::from([("k".to_owned(), value.as_bytes().to_vec())]))
    }

    #[test]
    fn a_secret_is_looked_for_once_and_forgotten_with_its_last_user() {
        let mut book = SecretBook::default();
        assert!(book.add_user(key("s"), user("a")));
        assert!(!book.add_user(key("s"), user("b")));
        assert!(!book.remove_user(&key("s"), &user("a")));
        assert!(book.remove_user(&key("s"), &user("b")));
        assert!(!book.holds(&key("s")));
        assert!(book.observe(&key("s"), data("v")).is_empty());
    }

    #[test]
    fn a_vanished_secret_keeps_its_last_value() {
        let mut book = SecretBook::default();
        book.add_user(key("s"), user("a"));
        assert_eq!(book.look_up(&key("s")), Lookup::Unknown);
        assert_eq!(book.observe(&key("s"), data("v")), [user("a")]);
        assert!(book.observe(&key("s"), Observed::Missing).is_empty());
        assert!(matches!(book.look_up(&key("s")), Lookup::Data(_)));
    }

    #[test]
    fn the_same_data_again_changes_nothing() {
        let mut book = SecretBook::default();
        book.add_user(key("s"), user("a"));
        assert_eq!(book.observe(&key("s"), Observed::Missing), [user("a")]);
        assert!(book.observe(&key("s"), Observed::Missing).is_empty());
        assert_eq!(book.observe(&key("s"), data("v")).len(), 1);
        assert!(book.observe(&key("s"), data("v")).is_empty());
        assert!(!format!("{:?} {book:?}", data("hidden")).contains("hidden"));
    }
}
