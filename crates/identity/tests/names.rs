//! Names: parse and print agree, and hostile text is refused with SPIFFE's own words.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use identity::{AppId, ControlPlaneService, NameError, Namespace, SpiffeId, SpiffeUri, TrustDomain};
use proptest::prelude::*;

const TD_CHARS: &str =
    "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores";
const PATH_CHARS: &str = "path segment characters are limited to letters, numbers, dots, dashes, and underscores";

#[test]
fn a_trust_domain_is_refused_in_spiffes_words() {
    for (text, refusal) in [
        ("", "trust domain is missing"),
        ("Public", TD_CHARS),
        ("a b", TD_CHARS),
        ("a/b", TD_CHARS),
        ("ümlaut", TD_CHARS),
        ("a\0b", TD_CHARS),
        ("spiffe:///ns", "trust domain is missing"),
        ("https://td", "scheme is missing or invalid"),
        ("spiffe://TD/x", TD_CHARS),
        ("spiffe://td/x$", PATH_CHARS),
        ("spiffe://td//x", "path cannot contain empty segments"),
        ("spiffe://td/../x", "path cannot contain dot segments"),
    ] {
        let error = TrustDomain::parse(text).unwrap_err();
        assert_eq!(error.to_string(), refusal, "{text:?}");
    }
}

#[test]
fn a_trust_domain_may_be_given_as_a_whole_id() {
    let domain = TrustDomain::parse("spiffe://cluster.local/ns/a/b").unwrap();
    assert_eq!(domain.as_str(), "cluster.local");
    assert_eq!(TrustDomain::parse("spiffe://td").unwrap().as_str(), "td");
    assert_eq!(TrustDomain::public().as_str(), "public");
}

#[test]
fn an_id_is_refused_for_its_first_fault() {
    for (text, refusal) in [
        ("", NameError::Empty),
        ("SPIFFE://td/ns/a/b", NameError::Scheme),
        ("spiffe:/td/ns/a/b", NameError::Scheme),
        ("spiffe://", NameError::MissingTrustDomain),
        ("spiffe:///ns/a/b", NameError::MissingTrustDomain),
        ("spiffe://td:1/ns/a/b", NameError::TrustDomainChar),
        ("spiffe://u@td/ns/a/b", NameError::TrustDomainChar),
        ("spiffe://td?/ns/a/b", NameError::TrustDomainChar),
        ("spiffe://td/", NameError::TrailingSlash),
        ("spiffe://td/ns/a/b/", NameError::TrailingSlash),
        ("spiffe://td//", NameError::EmptySegment),
        ("spiffe://td/ns//b", NameError::EmptySegment),
        ("spiffe://td/ns/./b", NameError::DotSegment),
        ("spiffe://td/ns/a/..", NameError::DotSegment),
        ("spiffe://td/ns/a%2e/b", NameError::SegmentChar),
        ("spiffe://td/ns/a/b?x", NameError::SegmentChar),
        ("spiffe://td/ns/a/b#x", NameError::SegmentChar),
        ("spiffe://td", NameError::Shape),
        ("spiffe://td/ns/a", NameError::Shape),
        ("spiffe://td/ns/a/b/c", NameError::Shape),
        ("spiffe://td/NS/a/b", NameError::Shape),
        ("spiffe://td/x/a/b", NameError::Shape),
    ] {
        assert_eq!(SpiffeId::parse(text), Err(refusal), "{text:?}");
    }
}

#[test]
fn a_peer_may_have_further_path_segments() {
    let id = SpiffeId::parse_peer("spiffe://td/ns/shop/cart/v1/x").unwrap();
    assert_eq!(id.to_string(), "spiffe://td/ns/shop/cart");
    for text in ["", "spiffe://td/ns/shop", "spiffe://td/x/shop/cart", "spiffe://td/ns/shop/", "x"] {
        let error = SpiffeId::parse_peer(text).unwrap_err();
        assert_eq!(error.to_string(), format!("malformed SPIFFE ID: {text}"));
    }
}

#[test]
fn only_the_very_same_id_is_exact() {
    let expected = SpiffeId::parse("spiffe://td/ns/shop/cart").unwrap();
    let is_exact = |text: &str| expected.is_exactly(&SpiffeUri::parse(text).unwrap());
    assert!(is_exact("spiffe://td/ns/shop/cart"));
    for other in [
        "spiffe://td/ns/shop/cart/x",
        "spiffe://td2/ns/shop/cart",
        "spiffe://td/ns/shop/carts",
        "spiffe://td/ns/shops/cart",
        "spiffe://td/ns/shop",
        "spiffe://td",
    ] {
        assert!(!is_exact(other), "{other}");
    }
}

#[test]
fn an_app_id_and_a_namespace_are_one_segment() {
    assert_eq!(AppId::parse("a/b"), Err(NameError::SegmentChar));
    assert_eq!(AppId::parse("ns:sa"), Err(NameError::SegmentChar));
    assert_eq!(Namespace::parse(""), Err(NameError::EmptySegment));
    assert_eq!(Namespace::parse(".."), Err(NameError::DotSegment));
    assert_eq!(AppId::parse("...").unwrap().as_str(), "...");
}

#[test]
fn control_plane_services_have_their_reserved_app_ids() {
    for service in ControlPlaneService::ALL {
        assert_eq!(service.app_id().as_str(), format!("dapr-{service}"));
        assert_eq!(service.name().parse(), Ok(service));
        assert_eq!(ControlPlaneService::from_app_id(service.app_id_str()), Some(service));
    }
    assert!("Sentry".parse::<ControlPlaneService>().is_err());
    assert_eq!(ControlPlaneService::from_app_id("sentry"), None);
    let sentry = SpiffeId::sentry("cluster.local".parse().unwrap(), "dapr-system".parse().unwrap());
    assert_eq!(sentry.to_string(), "spiffe://cluster.local/ns/dapr-system/dapr-sentry");
}

#[test]
fn names_are_checked_when_they_are_deserialised() {
    let id: SpiffeId = serde_json::from_str("\"spiffe://td/ns/a/b\"").unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://td/ns/a/b\"");
    assert!(serde_json::from_str::<SpiffeId>("\"spiffe://td/ns/a\"").is_err());
    assert!(serde_json::from_str::<AppId>("\"a/b\"").is_err());
    assert!(serde_json::from_str::<TrustDomain>("\"A\"").is_err());
}

fn segment() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._-]{1,70}".prop_filter("dots alone", |text| text != "." && text != "..")
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_the_same_id(
        domain in "[a-z0-9._-]{1,60}", namespace in segment(), app_id in segment(),
    ) {
        let id = SpiffeId::new(
            TrustDomain::parse(&domain).unwrap(),
            Namespace::parse(&namespace).unwrap(),
            AppId::parse(&app_id).unwrap(),
        );
        let text = id.to_string();
        prop_assert_eq!(SpiffeId::parse(&text), Ok(id.clone()));
        prop_assert_eq!(SpiffeId::parse_peer(&text), Ok(id.clone()));
        prop_assert!(id.is_exactly(&SpiffeUri::parse(&text).unwrap()));
    }

    #[test]
    fn any_text_that_parses_prints_as_itself(text in "(spiffe://)?[a-z./_%:A-Z0-9?#\\PC-]{0,40}") {
        if let Ok(uri) = SpiffeUri::parse(&text) {
            prop_assert_eq!(uri.to_string(), text.clone());
        }
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.to_string(), text.clone());
        }
        if let Ok(app_id) = AppId::parse(&text) {
            prop_assert_eq!(app_id.as_str(), text.as_str());
        }
    }

    #[test]
    fn near_misses_of_an_id_never_change_whose_it_is(
        namespace in segment(), app_id in segment(), tail in "[/.$ %\\x00-\\x1f]{1,3}",
    ) {
        let text = format!("spiffe://td/ns/{namespace}/{app_id}{tail}");
        if let Ok(id) = SpiffeId::parse_peer(&text) {
            prop_assert_eq!(id.namespace().as_str(), namespace);
            prop_assert!((app_id.clone() + &tail).starts_with(id.app_id().as_str()));
        }
    }
}
