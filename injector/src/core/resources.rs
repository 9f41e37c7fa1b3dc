//! The sidecar's resource requests and limits.
//!
//! Annotations win as a whole: the defaults of the installation apply only to a pod whose
//! annotations give nothing usable, so that a default limit never falls below a request the
//! pod asked for. One bad quantity discards all four, never the pod.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};

use super::{options::ContainerOptions, quantity};

/// A quantity that is none, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {found:?} {source}")]
pub struct BadQuantity {
    place: String,
    found: String,
    source: quantity::QuantityError,
}

/// The resources for `options`, else `default`, else none.
pub fn resources(
    options: &ContainerOptions,
    default: Option<&ResourceRequirements>,
    warnings: &mut Vec<String>,
) -> ResourceRequirements {
    let annotated = annotated(options).unwrap_or_else(|bad| {
        warnings.push(format!("{bad}: none of the pod's resource annotations are used"));
        None
    });
    annotated.or_else(|| default.cloned()).unwrap_or_default()
}

fn annotated(options: &ContainerOptions) -> Result<Option<ResourceRequirements>, BadQuantity> {
    let requests = [
        ("cpu", "dapr.io/sidecar-cpu-request", &options.cpu_request),
        ("memory", "dapr.io/sidecar-memory-request", &options.memory_request),
    ];
    let limits = [
        ("cpu", "dapr.io/sidecar-cpu-limit", &options.cpu_limit),
        ("memory", "dapr.io/sidecar-memory-limit", &options.memory_limit),
    ];
    let requirements = ResourceRequirements {
        requests: quantities(&requests)?,
        limits: quantities(&limits)?,
        ..ResourceRequirements::default()
    };
    Ok((requirements != ResourceRequirements::default()).then_some(requirements))
}

type Given<'a> = (&'static str, &'static str, &'a Option<String>);

fn quantities(given: &[Given<'_>]) -> Result<Option<BTreeMap<String, Quantity>>, BadQuantity> {
    let mut found = BTreeMap::new();
    for (resource, annotation, value) in given {
        if let Some(value) = value {
            found.insert((*resource).to_owned(), parse(annotation, value)?);
        }
    }
    Ok((!found.is_empty()).then_some(found))
}

/// The canonical quantity in `text`; `place` is where a person finds it.
pub fn parse(place: &str, text: &str) -> Result<Quantity, BadQuantity> {
    quantity::canonical(text).map(Quantity).map_err(|source| BadQuantity {
        place: place.to_owned(),
        found: text.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::core::options::Options;

    fn requirements(cpu: &str) -> ResourceRequirements {
        let cpu = BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned()))]);
        ResourceRequirements { requests: Some(cpu), ..ResourceRequirements::default() }
    }

    fn chosen(annotation: Option<&str>, default: Option<&str>) -> (ResourceRequirements, usize) {
        let mut pod = Pod::default();
        let pair = annotation.map(|value| ("dapr.io/sidecar-cpu-request".to_owned(), value.to_owned()));
        pod.metadata.annotations = Some(pair.into_iter().collect());
        let mut warnings = Vec::new();
        let default = default.map(requirements);
        let chosen = resources(&Options::of(&pod).0.container, default.as_ref(), &mut warnings);
        (chosen, warnings.len())
    }

    #[test]
    fn the_default_applies_only_to_a_pod_that_gives_nothing_usable() {
        assert_eq!(chosen(None, Some("100m")), (requirements("100m"), 0));
        assert_eq!(chosen(Some(""), Some("100m")), (requirements("100m"), 0));
        assert_eq!(chosen(Some("2"), Some("100m")), (requirements("2"), 0));
        assert_eq!(chosen(Some("bad"), Some("100m")), (requirements("100m"), 1));
        assert_eq!(chosen(None, None), (ResourceRequirements::default(), 0));
    }
}
