//! The three settings of sidecars that have a syntax of their own: the cluster's domain, the
//! tolerations that make the command explicit, and the default resources.

use std::{collections::BTreeMap, io};

use k8s_openapi::{
    api::core::v1::{ResourceRequirements, Toleration},
    apimachinery::pkg::api::resource::Quantity,
};
use serde_json::{Map, Value};

use crate::core::resources::{self, BadQuantity};

const DEFAULT_DOMAIN: &str = "cluster.local";

/// The DNS domain of the cluster: as configured, else what the resolver searches.
pub fn cluster_domain(
    configured: Option<String>,
    resolv_conf: &dyn Fn() -> io::Result<String>,
    warnings: &mut Vec<String>,
) -> String {
    if let Some(domain) = configured.filter(|domain| !domain.is_empty()) {
        return domain;
    }
    match resolv_conf() {
        Ok(text) => first_search_domain(&text).unwrap_or(DEFAULT_DOMAIN).to_owned(),
        Err(error) => {
            warnings.push(format!("/etc/resolv.conf: {error}; the cluster domain is taken to be {DEFAULT_DOMAIN}"));
            DEFAULT_DOMAIN.to_owned()
        }
    }
}

/// The alphabetically first entry of the last `search` line.
fn first_search_domain(text: &str) -> Option<&str> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut search = lines.filter_map(|line| line.strip_prefix("search")).filter(|rest| rest.starts_with([' ', '\t']));
    search.next_back()?.split_whitespace().min()
}

/// The tolerations in `json`; text that is no list of them is ignored with a warning.
///
/// The chart's documented default carries backslashes before its quotes; that form is read too.
pub fn parse_tolerations(json: &str, warnings: &mut Vec<String>) -> Vec<Toleration> {
    if json.is_empty() {
        return Vec::new();
    }
    match tolerations(json).or_else(|error| tolerations(&json.replace("\\\"", "\"")).map_err(|_| error)) {
        Ok(tolerations) => tolerations,
        Err(error) => {
            warnings
                .push(format!("IGNORE_ENTRYPOINT_TOLERATIONS is ignored: {json:?} is no list of tolerations: {error}"));
            Vec::new()
        }
    }
}

fn tolerations(json: &str) -> Result<Vec<Toleration>, serde_json::Error> {
    let list: Vec<Map<String, Value>> = serde_json::from_str(json)?;
    list.into_iter().map(|fields| serde_json::from_value(Value::Object(canonical_names(fields)))).collect()
}

/// Field names count in any case, as they do for Go's decoder.
fn canonical_names(fields: Map<String, Value>) -> Map<String, Value> {
    let known = ["key", "operator", "value", "effect", "tolerationSeconds"];
    let canonical = |name: String| {
        known.iter().find(|known| known.eq_ignore_ascii_case(&name)).map_or(name, |known| (*known).to_owned())
    };
    fields.into_iter().map(|(name, value)| (canonical(name), value)).collect()
}

/// What is wrong with the default resources.
#[derive(Debug, thiserror::Error)]
pub enum ResourcesError {
    /// Not the JSON of a container's `resources`.
    #[error("{found:?} is not a JSON object such as {{\"requests\":{{\"cpu\":\"100m\"}},\"limits\":{{}}}}")]
    NotResources {
        /// The text found.
        found: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A quantity is none.
    #[error(transparent)]
    Quantity(#[from] BadQuantity),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    requests: Option<BTreeMap<String, Value>>,
    limits: Option<BTreeMap<String, Value>>,
}

/// The default resources in `json`: a container's `resources`, or nothing.
pub fn parse_resources(json: &str) -> Result<Option<ResourceRequirements>, ResourcesError> {
    if json.trim().is_empty() {
        return Ok(None);
    }
    let not_resources = |source| ResourcesError::NotResources { found: json.to_owned(), source };
    let Some(given) = serde_json::from_str::<Option<Given>>(json).map_err(not_resources)? else {
        return Ok(None);
    };
    let requirements = ResourceRequirements {
        requests: quantities("requests", given.requests)?,
        limits: quantities("limits", given.limits)?,
        ..ResourceRequirements::default()
    };
    Ok((requirements != ResourceRequirements::default()).then_some(requirements))
}

type Quantities = Option<BTreeMap<String, Quantity>>;

fn quantities(half: &str, given: Option<BTreeMap<String, Value>>) -> Result<Quantities, BadQuantity> {
    let mut found = BTreeMap::new();
    for (resource, value) in given.unwrap_or_default() {
        // Helm renders `cpu: 1` as a number.
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let quantity = resources::parse(&format!("{half}.{resource}"), &text)?;
        found.insert(resource, quantity);
    }
    Ok((!found.is_empty()).then_some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_is_configured_or_searched_or_the_usual_one() {
        let domain = |configured: Option<&str>, text: io::Result<&str>| {
            let text = text.map(str::to_owned).map_err(|error| error.kind());
            let read = || text.clone().map_err(io::Error::from);
            cluster_domain(configured.map(Into::into), &read, &mut Vec::new())
        };
        let searched = "search z.example # c\nsearch svc.cluster.example cluster.example\nnameserver 1.1.1.1";
        assert_eq!(domain(Some("my.domain"), Ok(searched)), "my.domain");
        assert_eq!(domain(Some(""), Ok(searched)), "cluster.example");
        assert_eq!(domain(None, Ok("nameserver 1.1.1.1")), "cluster.local");
        assert_eq!(domain(None, Ok("#search a.b")), "cluster.local");
        assert_eq!(domain(None, Err(io::ErrorKind::NotFound.into())), "cluster.local");
    }

    #[test]
    fn tolerations_are_read_with_and_without_backslashes_and_else_ignored() {
        let mut warnings = Vec::new();
        let plain = parse_tolerations(r#"[{"effect":"NoSchedule","Key":"aws"}]"#, &mut warnings);
        let escaped = parse_tolerations(r#"[{\"effect\":\"NoSchedule\",\"key\":\"aws\"}]"#, &mut warnings);
        assert_eq!(plain, escaped);
        assert_eq!(plain[0].key.as_deref(), Some("aws"));
        assert!(warnings.is_empty(), "{warnings:?}");
        for bad in ["{}", "nonsense", "[1]"] {
            assert_eq!(parse_tolerations(bad, &mut warnings), [], "{bad}");
        }
        assert_eq!(warnings.len(), 3);
    }

    #[test]
    fn default_resources_are_canonical_and_bad_ones_are_named() {
        let found = parse_resources(r#"{"requests":{"cpu":0.5,"memory":"1024Mi"}}"#).unwrap().unwrap();
        assert_eq!(found.requests.unwrap()["cpu"], Quantity("500m".to_owned()));
        assert_eq!(parse_resources("").unwrap(), None);
        assert_eq!(parse_resources("null").unwrap(), None);
        assert_eq!(parse_resources("{}").unwrap(), None);
        let error = parse_resources(r#"{"limits":{"memory":"lots"}}"#).unwrap_err().to_string();
        assert!(error.contains("limits.memory") && error.contains("lots"), "{error}");
        assert!(parse_resources(r#"{"request":{}}"#).is_err());
    }
}
