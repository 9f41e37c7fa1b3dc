//! What sidecars are told, and that the order of inputs does not matter in the end.

use std::collections::BTreeMap;

use identity::AppId;
use proptest::prelude::*;

use super::*;
use crate::core::wire;

const KIND: ApiKind = ApiKind::Component;

fn namespace(name: &str) -> Namespace {
    Namespace::parse(name).unwrap()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { namespace: namespace("fuse"), name: name.to_owned() }
}

fn viewer(app: &str) -> Viewer {
    Viewer { namespace: namespace("fuse"), app_id: AppId::parse(app).unwrap() }
}

fn object(kind: ApiKind, name: &str, version: u32, scopes: &[&str], secret: &str) -> Object {
    let scopes = serde_json::to_string(scopes).unwrap();
    let pair = format!(r#"[{{"name":"p","secretKeyRef":{{"name":"{secret}","key":"k"}}}}]"#);
    let spec = match kind {
        ApiKind::Component => format!(r#"{{"type":"t","version":"v1","metadata":{pair}}}"#),
        _ => format!(r#"{{"baseUrl":"u","headers":{pair}}}"#),
    };
    let json = format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"fuse","resourceVersion":"{version}"}},
            "scopes":{scopes},"spec":{spec}}}"#
    );
    wire::read(kind, &json).unwrap()
}

fn plain(name: &str, version: u32, scopes: &[&str]) -> Object {
    object(KIND, name, version, scopes, "")
}

fn synced() -> Catalog {
    let mut catalog = Catalog::default();
    for kind in ApiKind::ALL {
        assert_eq!(catalog.reset(kind, Vec::new()), Effects::default());
    }
    catalog
}

fn change(effects: &Effects, app: &str) -> Option<Change> {
    assert!(effects.deltas.len() <= 1, "{effects:?}");
    effects.deltas.first()?.event_for(&viewer(app)).map(|event| event.change)
}

fn data(value: &str) -> Observed {
    Observed::Data(BTreeMap::from([("k".to_owned(), value.as_bytes().to_vec())]))
}

#[test]
fn every_row_of_the_event_table_holds() {
    let rows: [(&[&str], &[&str], Option<Change>); 5] = [
        (&["a"], &["a", "b"], Some(Change::Updated)),
        (&["b"], &[], Some(Change::Created)),
        (&["b"], &["a"], Some(Change::Created)),
        (&["a"], &["b"], Some(Change::Deleted)),
        (&["b"], &["c"], None),
    ];
    for (before, after, told) in rows {
        let mut catalog = synced();
        let created = catalog.apply(KIND, plain("x", 1, before));
        assert_eq!(change(&created, "a"), before.contains(&"a").then_some(Change::Created));
        let modified = catalog.apply(KIND, plain("x", 2, after));
        assert_eq!(change(&modified, "a"), told, "{before:?} to {after:?}");
        let deleted = catalog.delete(KIND, &key("x"));
        let sees = after.is_empty() || after.contains(&"a");
        assert_eq!(change(&deleted, "a"), sees.then_some(Change::Deleted));
    }
}

#[test]
fn a_lost_scope_deletes_with_the_old_object() {
    let mut catalog = synced();
    catalog.apply(KIND, plain("x", 1, &["a"]));
    let effects = catalog.apply(KIND, plain("x", 2, &["b"]));
    let event = effects.deltas[0].event_for(&viewer("a")).unwrap();
    let json = String::from_utf8(event.version.json.to_vec()).unwrap();
    assert!(json.contains(r#""resourceVersion":"1""#), "{json}");
}

#[test]
fn other_namespaces_are_told_nothing() {
    let mut catalog = synced();
    let effects = catalog.apply(KIND, plain("x", 1, &[]));
    let stranger = Viewer { namespace: namespace("other"), app_id: AppId::parse("a").unwrap() };
    assert_eq!(effects.deltas[0].event_for(&stranger), None);
    assert_eq!(catalog.list(KIND, &stranger).count(), 0);
    assert_eq!(catalog.list(KIND, &viewer("a")).count(), 1);
}

#[test]
fn a_replayed_version_is_dropped_and_an_empty_one_is_not() {
    let mut catalog = synced();
    catalog.apply(KIND, plain("x", 1, &[]));
    assert_eq!(catalog.apply(KIND, plain("x", 1, &[])), Effects::default());
    let mut unversioned = plain("x", 1, &[]);
    unversioned.resource_version.clear();
    assert_eq!(change(&catalog.apply(KIND, unversioned.clone()), "a"), Some(Change::Updated));
    assert_eq!(change(&catalog.apply(KIND, unversioned), "a"), Some(Change::Updated));
}

#[test]
fn the_first_list_is_no_news_and_a_relist_is_a_difference() {
    let mut catalog = Catalog::default();
    let first = catalog.reset(KIND, vec![plain("x", 1, &[]), plain("y", 1, &[])]);
    assert_eq!(first.deltas, []);
    let again = catalog.reset(KIND, vec![plain("y", 2, &[]), plain("z", 1, &[])]);
    let changes: Vec<_> = again
        .deltas
        .iter()
        .filter_map(|delta| delta.event_for(&viewer("a")))
        .map(|event| (event.version.key.name.clone(), event.change))
        .collect();
    assert_eq!(
        changes,
        [("x".to_owned(), Change::Deleted), ("y".to_owned(), Change::Updated), ("z".to_owned(), Change::Created)]
    );
}

#[test]
fn an_object_is_published_once_its_secret_is_known() {
    let mut catalog = synced();
    let applied = catalog.apply(KIND, object(KIND, "x", 1, &[], "s"));
    assert_eq!(applied.deltas, []);
    assert_eq!(applied.wanted, BTreeSet::from([key("s")]));
    assert_eq!(catalog.get(KIND, &key("x")), Some(&Listed::Waiting));
    assert_eq!(change(&catalog.observe_secret(&key("s"), data("v")), "a"), Some(Change::Created));
    assert!(matches!(catalog.get(KIND, &key("x")), Some(Listed::Whole(_))));
}

#[test]
fn a_missing_secret_leaves_the_object_partial_and_unpublished_until_it_appears() {
    let mut catalog = Catalog::default();
    catalog.reset(KIND, vec![object(KIND, "x", 1, &[], "s")]);
    assert_eq!(catalog.observe_secret(&key("s"), Observed::Missing).deltas, []);
    assert!(matches!(catalog.get(KIND, &key("x")), Some(Listed::Partial(_))));
    assert_eq!(change(&catalog.observe_secret(&key("s"), data("v")), "a"), Some(Change::Created));
}

#[test]
fn rotation_is_pushed_for_components_and_only_listed_for_http_endpoints() {
    for (kind, told) in [(ApiKind::Component, Some(Change::Updated)), (ApiKind::HttpEndpoint, None)] {
        let mut catalog = synced();
        catalog.apply(kind, object(kind, "x", 1, &[], "s"));
        let first = catalog.observe_secret(&key("s"), data("v1"));
        assert_eq!(change(&first, "a"), Some(Change::Created), "{kind:?}");
        let rotated = catalog.observe_secret(&key("s"), data("v2"));
        assert_eq!(change(&rotated, "a"), told, "{kind:?}");
        let Some(Listed::Whole(version)) = catalog.get(kind, &key("x")) else {
            panic!("{kind:?} is whole");
        };
        assert!(String::from_utf8_lossy(&version.json).contains("djI="), "{kind:?}");
    }
}

#[test]
fn a_secret_is_released_with_the_last_object_that_refers_to_it() {
    let mut catalog = synced();
    catalog.apply(KIND, object(KIND, "x", 1, &[], "s"));
    catalog.apply(KIND, object(KIND, "y", 1, &[], "s"));
    assert_eq!(catalog.delete(KIND, &key("x")).released, BTreeSet::new());
    let moved = catalog.apply(KIND, object(KIND, "y", 2, &[], "t"));
    assert_eq!((moved.wanted, moved.released), ([key("t")].into(), [key("s")].into()));
}

#[test]
fn deleting_an_object_whose_secret_never_came_is_still_told() {
    let mut catalog = synced();
    catalog.apply(KIND, object(KIND, "x", 1, &[], "s"));
    catalog.observe_secret(&key("s"), Observed::Missing);
    assert_eq!(change(&catalog.delete(KIND, &key("x")), "a"), Some(Change::Deleted));
}

#[derive(Debug, Clone)]
enum Input {
    Apply(u8, u8),
    Delete(u8),
    Reset(Vec<(u8, u8)>),
    Secret(u8, Option<u8>),
}

fn input() -> impl Strategy<Value = Input> {
    let object = || (0u8..4, 0u8..6);
    prop_oneof![
        object().prop_map(|(name, version)| Input::Apply(name, version)),
        (0u8..4).prop_map(Input::Delete),
        prop::collection::vec(object(), 0..4).prop_map(Input::Reset),
        (0u8..2, prop::option::of(0u8..3)).prop_map(|(secret, value)| Input::Secret(secret, value)),
    ]
}

/// The object that a name and a version stand for: scopes and secrets vary with the version.
fn model(name: u8, version: u8) -> Object {
    let scopes: &[&str] = [&[][..], &["a"], &["b"]][usize::from(version) % 3];
    let secret = ["", "s0", "s1"][usize::from(version / 2) % 3];
    object(KIND, &format!("o{name}"), version.into(), scopes, secret)
}

/// Applies a delta as a sidecar would, from its events alone.
fn follow(seen: &mut BTreeMap<String, Bytes>, effects: &Effects) {
    for event in effects.deltas.iter().filter_map(|delta| delta.event_for(&viewer("a"))) {
        let name = event.version.key.name.clone();
        match event.change {
            Change::Deleted => seen.remove(&name),
            Change::Created | Change::Updated => seen.insert(name, event.version.json.clone()),
        };
    }
}

fn feed(catalog: &mut Catalog, model_now: &mut BTreeMap<u8, u8>, input: &Input) -> Effects {
    match input {
        Input::Apply(name, version) => {
            model_now.insert(*name, *version);
            catalog.apply(KIND, model(*name, *version))
        }
        Input::Delete(name) => {
            model_now.remove(name);
            catalog.delete(KIND, &key(&format!("o{name}")))
        }
        Input::Reset(objects) => {
            *model_now = objects.iter().copied().collect();
            let objects = model_now.iter().map(|(name, version)| model(*name, *version));
            catalog.reset(KIND, objects.collect())
        }
        Input::Secret(secret, value) => {
            let observed = value.map_or(Observed::Missing, |value| data(&value.to_string()));
            catalog.observe_secret(&key(&format!("s{secret}")), observed)
        }
    }
}

proptest! {
    #[test]
    fn any_order_of_inputs_ends_like_a_rebuild(inputs in prop::collection::vec(input(), 0..40)) {
        let mut catalog = synced();
        let (mut now, mut seen) = (BTreeMap::new(), BTreeMap::new());
        for input in &inputs {
            let effects = feed(&mut catalog, &mut now, input);
            follow(&mut seen, &effects);
        }
        let mut rebuilt = Catalog::default();
        rebuilt.reset(KIND, now.iter().map(|(name, version)| model(*name, *version)).collect());
        for secret in ["s0", "s1"] {
            let effects = catalog.observe_secret(&key(secret), data("last"));
            follow(&mut seen, &effects);
            rebuilt.observe_secret(&key(secret), data("last"));
        }
        for app in ["a", "b"] {
            let ours: Vec<_> = catalog.list(KIND, &viewer(app)).collect();
            let theirs: Vec<_> = rebuilt.list(KIND, &viewer(app)).collect();
            prop_assert_eq!(ours, theirs);
        }
        prop_assert_eq!(
            catalog.secrets().keys().collect::<Vec<_>>(),
            rebuilt.secrets().keys().collect::<Vec<_>>()
        );
        // And a sidecar that only followed the events has exactly the list.
        let listed: BTreeMap<_, _> = catalog
            .list(KIND, &viewer("a"))
            .filter_map(|listed| match listed {
                Listed::Whole(version) => Some((version.key.name.clone(), version.json.clone())),
                _ => None,
            })
            .collect();
        prop_assert_eq!(seen, listed);
    }
}
