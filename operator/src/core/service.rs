//! The Service a Dapr-enabled workload gets: `<app id>-dapr` (contract operator.md §9).
//!
//! `desired` says what it must look like, `reconcile` what to do about the one that exists.
//! Everything comes from the pod template's annotations and the workload's identity.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};

use super::golang;

const METRICS_PORT: i32 = 9090;
const GRPC_PORT: i32 = 50001;
const INTERNAL_GRPC_PORT: i32 = 50002;
const HTTP_PORT: i32 = 3500;
/// A Service's name is a DNS label.
const NAME_LIMIT: usize = 63;

/// The label every such Service carries, and the only one.
pub const LABEL: &str = "dapr.io/enabled";

/// What of a Deployment, StatefulSet or Rollout matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    /// Its API version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// Whether it is being deleted.
    pub is_deleted: bool,
    /// The pods it selects.
    pub match_labels: BTreeMap<String, String>,
    /// The annotations of its pod template.
    pub annotations: BTreeMap<String, String>,
}

/// Why a workload gets no Service although Dapr is enabled on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has no app id.
    #[error("value for the dapr.io/app-id annotation is empty")]
    NoAppId,
    /// Its app id makes no name.
    #[error(
        "invalid app id {app_id:?} in annotation dapr.io/app-id: {app_id}-dapr must be at most 63 lower-case letters, digits and '-', with a letter or digit at both ends"
    )]
    AppId {
        /// The app id.
        app_id: String,
    },
}

/// What to do about a Service.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Nothing.
    Keep,
    /// Create this.
    Create(Box<Service>),
    /// Replace the present one with this.
    Replace(Box<Service>),
}

/// The app id of a workload that wants a Service, or `None` if it wants none.
pub fn app_id(workload: &Workload) -> Result<Option<&str>, Refusal> {
    let enabled = annotation(workload, "dapr.io/enabled");
    if workload.is_deleted || !golang::is_truthy(enabled) {
        return Ok(None);
    }
    let app_id = annotation(workload, "dapr.io/app-id");
    if app_id.is_empty() {
        return Err(Refusal::NoAppId);
    }
    if !is_dns_label(&service_name(app_id)) {
        return Err(Refusal::AppId { app_id: app_id.to_owned() });
    }
    Ok(Some(app_id))
}

/// The name of the Service of an app.
pub fn service_name(app_id: &str) -> String {
    format!("{app_id}-dapr")
}

/// What is to be done so that `workload` has its Service, given the one there is.
pub fn reconcile(workload: &Workload, app_id: &str, present: Option<&Service>) -> Action {
    let mut wanted = desired(workload, app_id);
    let Some(present) = present else {
        return Action::Create(Box::new(wanted));
    };
    if is_as_wanted(present, &wanted) {
        return Action::Keep;
    }
    wanted.metadata.resource_version.clone_from(&present.metadata.resource_version);
    Action::Replace(Box::new(wanted))
}

/// The Service of an app, as upstream writes it.
pub fn desired(workload: &Workload, app_id: &str) -> Service {
    let port = |key: &str, default: i32| annotation(workload, key).parse().unwrap_or(default);
    let metrics_port = port("dapr.io/metrics-port", METRICS_PORT);
    Service {
        metadata: ObjectMeta {
            name: Some(service_name(app_id)),
            namespace: Some(workload.namespace.clone()),
            labels: Some([(LABEL.to_owned(), "true".to_owned())].into()),
            annotations: Some(annotations(workload, app_id, metrics_port)),
            owner_references: Some(vec![owner(workload)]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(workload.match_labels.clone()),
            ports: Some(vec![
                service_port("dapr-http", 80, HTTP_PORT),
                same_port("dapr-grpc", port("dapr.io/grpc-port", GRPC_PORT)),
                same_port("dapr-internal", port("dapr.io/internal-grpc-port", INTERNAL_GRPC_PORT)),
                same_port("dapr-metrics", metrics_port),
            ]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn annotation<'a>(workload: &'a Workload, key: &str) -> &'a str {
    workload.annotations.get(key).map(String::as_str).unwrap_or_default()
}

fn annotations(workload: &Workload, app_id: &str, metrics_port: i32) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([("dapr.io/app-id".to_owned(), app_id.to_owned())]);
    let metrics = annotation(workload, "dapr.io/enable-metrics");
    if metrics.is_empty() || golang::is_truthy(metrics) {
        let port = metrics_port.to_string();
        for (key, value) in [("probe", "true"), ("scrape", "true"), ("port", &port), ("path", "/")] {
            annotations.insert(format!("prometheus.io/{key}"), value.to_owned());
        }
    }
    for pair in annotation(workload, "dapr.io/sidecar-svc-annotations").split(',') {
        let Some((key, value)) = pair.trim().split_once('=') else {
            continue;
        };
        if !key.is_empty() {
            annotations.entry(key.trim().to_owned()).or_insert_with(|| value.trim().to_owned());
        }
    }
    annotations
}

fn owner(workload: &Workload) -> OwnerReference {
    OwnerReference {
        api_version: workload.api_version.clone(),
        kind: workload.kind.clone(),
        name: workload.name.clone(),
        uid: workload.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn same_port(name: &str, port: i32) -> ServicePort {
    service_port(name, port, port)
}

fn service_port(name: &str, port: i32, target: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        protocol: Some("TCP".to_owned()),
        port,
        target_port: Some(IntOrString::Int(target)),
        ..ServicePort::default()
    }
}

/// Whether a PUT would change nothing that we or upstream own: labels, annotations, owner,
/// selector, ports and headlessness. The rest are the API server's defaults.
fn is_as_wanted(present: &Service, wanted: &Service) -> bool {
    let empty = ServiceSpec::default();
    let (have, want) = (present.spec.as_ref().unwrap_or(&empty), wanted.spec.as_ref().unwrap_or(&empty));
    present.metadata.labels == wanted.metadata.labels
        && present.metadata.annotations == wanted.metadata.annotations
        && present.metadata.owner_references == wanted.metadata.owner_references
        && have.selector.clone().unwrap_or_default() == want.selector.clone().unwrap_or_default()
        && have.ports == want.ports
        && have.cluster_ip == want.cluster_ip
        && have.external_ips.as_ref().is_none_or(Vec::is_empty)
        && have.external_name.is_none()
        && have.type_.as_deref().is_none_or(|kind| kind == "ClusterIP")
        && have.publish_not_ready_addresses != Some(true)
}

fn is_dns_label(name: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    name.len() <= NAME_LIMIT
        && bytes.iter().all(|byte| is_alphanumeric(*byte) || *byte == b'-')
        && bytes.first().copied().is_some_and(is_alphanumeric)
        && bytes.last().copied().is_some_and(is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(annotations: &[(&str, &str)]) -> Workload {
        let base = [("dapr.io/enabled", "true"), ("dapr.io/app-id", "order")];
        Workload {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            name: "order-service".into(),
            namespace: "fuse".into(),
            uid: "u".into(),
            is_deleted: false,
            match_labels: [("app".to_owned(), "order".to_owned())].into(),
            annotations: base
                .iter()
                .chain(annotations)
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn ports(service: &Service) -> Vec<(String, i32, i32)> {
        let ports = service.spec.as_ref().unwrap().ports.as_ref().unwrap();
        ports
            .iter()
            .map(|port| {
                let Some(IntOrString::Int(target)) = port.target_port else { panic!("a number") };
                (port.name.clone().unwrap(), port.port, target)
            })
            .collect()
    }

    #[test]
    fn a_service_is_headless_owned_by_its_workload_and_has_four_ports() {
        let service = desired(&workload(&[]), "order");
        assert_eq!(service.metadata.name.as_deref(), Some("order-dapr"));
        let spec = service.spec.as_ref().unwrap();
        assert_eq!(spec.cluster_ip.as_deref(), Some("None"));
        assert_eq!(
            ports(&service),
            [
                ("dapr-http".into(), 80, 3500),
                ("dapr-grpc".into(), 50001, 50001),
                ("dapr-internal".into(), 50002, 50002),
                ("dapr-metrics".into(), 9090, 9090)
            ]
        );
        let owners = service.metadata.owner_references.unwrap();
        assert_eq!(owners.len(), 1);
        assert_eq!((owners[0].kind.as_str(), owners[0].controller), ("Deployment", Some(true)));
    }

    #[test]
    fn ports_follow_their_annotations_and_bad_ones_fall_back() {
        let service = desired(
            &workload(&[
                ("dapr.io/grpc-port", "1"),
                ("dapr.io/internal-grpc-port", "x"),
                ("dapr.io/metrics-port", "9999"),
            ]),
            "order",
        );
        let numbers: Vec<_> = ports(&service).into_iter().map(|(_, port, _)| port).collect();
        assert_eq!(numbers, [80, 1, 50002, 9999]);
        assert_eq!(service.metadata.annotations.unwrap()["prometheus.io/port"], "9999");
    }

    #[test]
    fn metrics_annotations_go_when_metrics_are_off_but_the_port_stays() {
        let service = desired(&workload(&[("dapr.io/enable-metrics", "false")]), "order");
        assert_eq!(ports(&service).len(), 4);
        let annotations = service.metadata.annotations.unwrap();
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["dapr.io/app-id"]);
    }

    #[test]
    fn custom_annotations_are_trimmed_and_never_override() {
        let service = desired(
            &workload(&[(
                "dapr.io/sidecar-svc-annotations",
                " a = 1 ,b=2=3, dapr.io/app-id=evil, =x, nothing, a=9, prometheus.io/port=1, c=",
            )]),
            "order",
        );
        let annotations = service.metadata.annotations.unwrap();
        assert_eq!(annotations["a"], "1");
        assert_eq!(annotations["b"], "2=3");
        assert_eq!(annotations["c"], "");
        assert_eq!(annotations["dapr.io/app-id"], "order");
        assert_eq!(annotations["prometheus.io/port"], "9090");
        assert!(!annotations.contains_key(""));
    }

    #[test]
    fn only_enabled_living_workloads_with_a_legal_app_id_get_one() {
        assert_eq!(app_id(&workload(&[])), Ok(Some("order")));
        for off in ["false", "0", ""] {
            assert_eq!(app_id(&workload(&[("dapr.io/enabled", off)])), Ok(None));
        }
        let mut deleted = workload(&[]);
        deleted.is_deleted = true;
        assert_eq!(app_id(&deleted), Ok(None));
        assert_eq!(app_id(&workload(&[("dapr.io/app-id", "")])), Err(Refusal::NoAppId));
        for illegal in ["Order", "a.b", "-a", &"a".repeat(59)] {
            let refusal = app_id(&workload(&[("dapr.io/app-id", illegal)])).unwrap_err();
            assert!(matches!(refusal, Refusal::AppId { .. }), "{illegal}");
        }
    }

    #[test]
    fn a_service_that_is_as_wanted_is_kept_in_spite_of_api_server_defaults() {
        let workload = workload(&[]);
        let mut present = desired(&workload, "order");
        let spec = present.spec.as_mut().unwrap();
        spec.type_ = Some("ClusterIP".into());
        spec.cluster_ips = Some(vec!["None".into()]);
        spec.session_affinity = Some("None".into());
        present.metadata.resource_version = Some("5".into());
        assert_eq!(reconcile(&workload, "order", Some(&present)), Action::Keep);
    }

    #[test]
    fn a_changed_service_is_replaced_at_its_version() {
        let workload = workload(&[]);
        let mut present = desired(&workload, "order");
        present.metadata.resource_version = Some("5".into());
        present.metadata.labels = None;
        let Action::Replace(service) = reconcile(&workload, "order", Some(&present)) else {
            panic!("it is replaced");
        };
        assert_eq!(service.metadata.resource_version.as_deref(), Some("5"));
        assert!(service.metadata.labels.is_some());
        assert!(matches!(reconcile(&workload, "order", None), Action::Create(_)));
    }
}
