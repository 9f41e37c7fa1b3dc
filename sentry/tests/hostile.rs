//! Hostile PEM bundles, key sets and tokens: a clear refusal, never a panic, and no change slips
//! through. `PROPTEST_CASES` sets how many cases each property gets; without it, 256.
#![allow(clippy::unwrap_used, clippy::panic, reason = "assertions of a test")]

mod support;

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use rcgen::{KeyPair, SigningKey as _};
use sentry::core::{
    bundle::{Stored, X509Bundle},
    jwks::{Jwk, JwkSet},
    jws::{self, Expected},
    keys::{PrivateKey, pem_block},
    pod_identity::claimed_pod,
};
use serde_json::json;
use support::Ca;

const NOW: i64 = 1_800_000_000;
const EXPECTED: Expected<'static> = Expected { audience: "aud", subject: "sub" };
static GOOD: LazyLock<Stored> = LazyLock::new(|| Ca::with_intermediate().stored());

/// A token that verifies, and the set it verifies against.
static TOKEN: LazyLock<(String, JwkSet)> = LazyLock::new(|| {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let public = PrivateKey::from_pem(key.serialize_pem().as_bytes()).unwrap();
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({"alg": "EdDSA", "kid": "k"}));
    let signed = format!("{header}.{}", part(json!({"aud": "aud", "sub": "sub", "exp": NOW + 60})));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap());
    let jwk = Jwk { kid: Some("k".into()), ..Jwk::of(public.public()) };
    (format!("{signed}.{signature}"), JwkSet { keys: vec![jwk] })
});

fn part(stored: &mut Stored, which: usize) -> &mut Vec<u8> {
    match which % 3 {
        0 => &mut stored.anchors,
        1 => &mut stored.chain,
        _ => &mut stored.key,
    }
}

#[test]
fn the_unchanged_bundle_and_token_pass() {
    X509Bundle::load(GOOD.clone(), NOW).unwrap();
    jws::verify(&TOKEN.0, &TOKEN.1, EXPECTED, NOW).unwrap();
}

proptest! {
    #[test]
    fn any_bytes_in_place_of_one_item_are_refused(
        which in 0usize..3, bytes in proptest::collection::vec(any::<u8>(), 0..2048), tag in 0usize..4,
    ) {
        let tag = ["", "CERTIFICATE", "PRIVATE KEY", "EC PRIVATE KEY"][tag];
        let mut stored = GOOD.clone();
        *part(&mut stored, which) = if tag.is_empty() { bytes } else { pem_block(tag, bytes).into_bytes() };
        prop_assert!(X509Bundle::load(stored, NOW).is_err());
    }

    /// A byte of any certificate's DER: what it says and the signature over it no longer agree,
    /// except in an item nothing depends on, and there is none in this bundle.
    #[test]
    fn a_changed_byte_in_a_certificate_never_passes(
        in_chain in any::<bool>(), block in 0usize..2, position in 0usize..4096, change in 1u8..=255,
    ) {
        let mut stored = GOOD.clone();
        let item = part(&mut stored, usize::from(in_chain));
        let mut blocks: Vec<Vec<u8>> =
            pem::parse_many(&*item).unwrap().into_iter().map(pem::Pem::into_contents).collect();
        let block = block % blocks.len();
        let position = position % blocks[block].len();
        blocks[block][position] ^= change;
        *item = blocks.into_iter().flat_map(|der| pem_block("CERTIFICATE", der).into_bytes()).collect();
        prop_assert!(X509Bundle::load(stored, NOW).is_err());
    }

    #[test]
    fn a_truncated_item_never_passes(which in 0usize..3, keep in 0.0f64..0.98) {
        let mut stored = GOOD.clone();
        let item = part(&mut stored, which);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let keep = (item.len() as f64 * keep) as usize;
        item.truncate(keep);
        // Of the chain whole certificates may remain, and then they must still reach the anchor.
        prop_assert!(X509Bundle::load(stored, NOW).is_err());
    }

    #[test]
    fn blocks_in_any_other_order_or_number_are_refused(order in proptest::collection::vec(0usize..3, 0..6)) {
        let chain = pem::parse_many(&GOOD.chain).unwrap();
        let root = pem::parse(&GOOD.anchors).unwrap();
        let all = [&chain[0], &chain[1], &root];
        let text: String = order.iter().map(|index| pem::encode(all[*index])).collect();
        let stored = Stored { chain: text.into_bytes(), ..GOOD.clone() };
        // Roots at the end are left out.
        let good = order.starts_with(&[0, 1]) && order[2..].iter().all(|index| *index == 2);
        prop_assert_eq!(X509Bundle::load(stored, NOW).is_ok(), good);
    }

    #[test]
    fn any_text_is_no_token(text in "\\PC{0,200}", dots in "[A-Za-z0-9_=-]{0,40}\\.[A-Za-z0-9_=-]{0,40}\\.[A-Za-z0-9_=-]{0,40}") {
        for token in [text, dots] {
            prop_assert!(jws::verify(&token, &TOKEN.1, EXPECTED, NOW).is_err());
            if let Ok(pod) = claimed_pod(&token) {
                prop_assert!(!pod.contains(['/', '%', '?', '#']), "{}", pod);
            }
        }
    }

    #[test]
    fn a_changed_or_cut_token_never_passes(position in 0usize..4096, with in "[A-Za-z0-9_.=+/ -]") {
        let (token, keys) = &*TOKEN;
        let position = position % token.len();
        let changed = format!("{}{with}{}", &token[..position], &token[position + 1..]);
        prop_assume!(changed != *token);
        prop_assert!(jws::verify(&changed, keys, EXPECTED, NOW).is_err());
        prop_assert!(jws::verify(&token[..position], keys, EXPECTED, NOW).is_err());
        let longer = format!("{token}{with}");
        prop_assert!(jws::verify(&longer, keys, EXPECTED, NOW).is_err());
    }

    #[test]
    fn a_pod_claim_is_a_pods_name_or_refused(name in "\\PC{0,64}") {
        let claims = json!({"kubernetes.io": {"pod": {"name": name}}}).to_string();
        let signed = format!("e30.{}.AA", URL_SAFE_NO_PAD.encode(&claims));
        for token in [claims, signed] {
            match claimed_pod(&token) {
                Ok(found) => {
                    prop_assert_eq!(&found, &name);
                    prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)));
                }
                Err(_) => prop_assert!(
                    name.is_empty() || name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.')
                ),
            }
        }
    }

    #[test]
    fn any_key_set_is_read_or_refused_without_its_private_members(
        bytes in proptest::collection::vec(any::<u8>(), 0..512), kty in "RSA|EC|OKP|oct|\\PC{0,8}",
        crv in "P-256|P-384|P-521|Ed25519|x", x in "[A-Za-z0-9_=-]{0,90}", d in "[a-z]{43}",
    ) {
        JwkSet::parse(&bytes).ok();
        let text = json!({"keys": [{"kty": kty, "crv": crv, "x": x, "y": x, "n": x, "e": "AQAB", "d": d}]}).to_string();
        let set = JwkSet::parse(text.as_bytes()).unwrap();
        set.keys[0].public_key();
        prop_assume!(!x.contains(&d) && !kty.contains(&d));
        prop_assert!(!set.to_json().contains(&d));
    }
}
