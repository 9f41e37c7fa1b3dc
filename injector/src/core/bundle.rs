//! Whether a bundle of trust anchors says all that another says.
//!
//! While anchors rotate, replicas of the injector know different bundles for a while. One
//! that finds a larger bundle in place leaves it, so that they do not overwrite each other.

use std::collections::BTreeSet;

/// Whether every certificate of `ours` is in `found`; the bytes around them do not matter.
pub fn covers(found: &[u8], ours: &[u8]) -> bool {
    let (found, ours) = (certificates(found), certificates(ours));
    !ours.is_empty() && found.is_superset(&ours)
}

/// The PEM blocks, without white space.
fn certificates(pem: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(pem);
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let bodies = blocks.filter_map(|block| block.split_once("-----END CERTIFICATE-----"));
    bodies.map(|(body, _)| body.split_whitespace().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(bodies: &[&str]) -> Vec<u8> {
        let block = |body: &&str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        bodies.iter().map(block).collect::<String>().into_bytes()
    }

    #[test]
    fn a_larger_bundle_covers_a_smaller_one_and_not_the_other_way() {
        assert!(covers(&pem(&["old", "new"]), &pem(&["old"])));
        assert!(covers(&pem(&["a b"]), &pem(&["a\nb"])));
        assert!(!covers(&pem(&["old"]), &pem(&["old", "new"])));
        assert!(!covers(b"", &pem(&["old"])));
        assert!(!covers(&pem(&["old"]), b"nonsense"));
    }
}
