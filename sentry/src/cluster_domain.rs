//! The cluster's DNS domain, for the scheduler's DNS names.
//!
//! Upstream asks for the canonical name of `kubernetes.default.svc`, which the resolver finds by
//! its search list. The same list is read here and the answer confirmed by a look-up.

use std::time::Duration;

use tokio::{net::lookup_host, time::timeout};

/// As long as upstream waits.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// The cluster domain, if this runs in a cluster that answers.
pub async fn find() -> Option<String> {
    let resolv_conf = tokio::fs::read_to_string("/etc/resolv.conf").await.ok()?;
    let domain = from_search_list(&resolv_conf)?;
    let host = format!("kubernetes.default.svc.{domain}:443");
    match timeout(LOOKUP_LIMIT, lookup_host(host)).await {
        Ok(Ok(_)) => Some(domain),
        Ok(Err(error)) => {
            tracing::debug!(%error, domain, "cluster domain does not resolve");
            None
        }
        Err(_) => None,
    }
}

fn from_search_list(resolv_conf: &str) -> Option<String> {
    resolv_conf
        .lines()
        .filter_map(|line| line.strip_prefix("search"))
        .flat_map(str::split_whitespace)
        .find_map(|entry| entry.strip_prefix("svc."))
        .map(|domain| domain.trim_matches('.').to_owned())
        .filter(|domain| !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_follows_svc_in_the_search_list() {
        let text = "nameserver 10.0.0.10\nsearch ns.svc.k8s.example svc.k8s.example k8s.example\noptions ndots:5\n";
        assert_eq!(from_search_list(text).as_deref(), Some("k8s.example"));
        assert_eq!(from_search_list("nameserver 1.1.1.1\nsearch home.arpa\n"), None);
    }
}
