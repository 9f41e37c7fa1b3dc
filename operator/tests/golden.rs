//! What sidecars get equals what upstream's own operator sent for the same objects.
//!
//! The recordings were made by `tests/golden/record_test.go` with upstream's types, encoder
//! and secret resolution. Deliberate differences: none in these objects. In others,
//! `managedFields` and the annotation of `kubectl apply` are left out: no sidecar reads them.
#![allow(clippy::unwrap_used, reason = "test helpers; a failure is the test's")]

use std::{collections::BTreeMap, fs, path::Path};

use operator::core::{
    api_kind::ApiKind,
    template::{Lookup, Rendered},
    wire,
};

fn kind(name: &str) -> ApiKind {
    let found = ApiKind::ALL.into_iter().find(|kind| kind.name() == name);
    found.expect("files are named for their kind")
}

#[test]
fn every_object_is_sent_as_upstream_sends_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let secret = BTreeMap::from([
        ("key".to_owned(), b"a<b>&\xe2\x80\xa8\xff\"\\/".to_vec()),
        ("secret".to_owned(), b"own".to_vec()),
    ]);
    let keyless = BTreeMap::new();
    let mut seen = 0;
    for file in fs::read_dir(folder.join("objects")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let stored = fs::read_to_string(folder.join("objects").join(&name)).unwrap();
        let recorded = fs::read_to_string(folder.join("upstream").join(&name)).unwrap();
        let kind = kind(name.split('.').next().unwrap());
        let object = wire::read(kind, &stored).unwrap();
        let rendered = object.template.render(|asked| match asked {
            "secret" => Lookup::Data(&secret),
            "missing-key" => Lookup::Data(&keyless),
            other => panic!("{name} refers to {other}"),
        });
        let Rendered::Whole(json) = rendered else { panic!("{name}: {rendered:?}") };
        assert_eq!(String::from_utf8(json.to_vec()).unwrap(), recorded.trim_end(), "{name}");
        seen += 1;
    }
    assert!(seen >= 19, "only {seen} objects were compared");
}

#[test]
fn the_core_is_pure() {
    testkit::assert_core_is_pure(env!("CARGO_MANIFEST_DIR"));
}
