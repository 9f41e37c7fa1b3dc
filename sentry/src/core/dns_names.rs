//! The DNS names that three control-plane services get beside their SPIFFE ID (contract §5.3).

use identity::ControlPlaneService;

/// Where the control plane lives and what the cluster's names end in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The control plane's namespace.
    pub namespace: String,
    /// The cluster domain, or the trust domain where there is none.
    pub cluster_domain: String,
}

/// The DNS names of `app_id` in `namespace`; none outside the control plane's namespace.
pub fn dns_names(home: &Home, namespace: &str, app_id: &str) -> Vec<String> {
    if namespace != home.namespace {
        return Vec::new();
    }
    match ControlPlaneService::from_app_id(app_id) {
        Some(ControlPlaneService::Injector) => {
            vec![format!("dapr-sidecar-injector.{namespace}.svc")]
        }
        Some(ControlPlaneService::Operator) => vec![format!("dapr-webhook.{namespace}.svc")],
        Some(ControlPlaneService::Scheduler) => (0..3)
            .map(|n| format!("dapr-scheduler-server-{n}.dapr-scheduler-server.{namespace}.svc.{}", home.cluster_domain))
            .collect(),
        Some(ControlPlaneService::Placement | ControlPlaneService::Sentry) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn injector_and_operator_in_the_control_plane_namespace_get_their_service_dns_san() {
        let home = Home { namespace: "dapr".into(), cluster_domain: "k8s.example".into() };
        assert_eq!(dns_names(&home, "dapr", "dapr-injector"), ["dapr-sidecar-injector.dapr.svc"]);
        assert_eq!(dns_names(&home, "dapr", "dapr-operator"), ["dapr-webhook.dapr.svc"]);
        assert_eq!(
            dns_names(&home, "dapr", "dapr-scheduler")[2],
            "dapr-scheduler-server-2.dapr-scheduler-server.dapr.svc.k8s.example"
        );
        assert!(dns_names(&home, "dapr", "dapr-placement").is_empty());
        assert!(dns_names(&home, "elsewhere", "dapr-injector").is_empty());
        assert!(dns_names(&home, "dapr", "my-app").is_empty());
    }
}
