//! Which Configuration belongs to which app, by the annotations of its pods.
//!
//! A sidecar restarts when it hears of a Configuration other than its own, so it is told of
//! one only while all pods of its app that name one agree.

use std::collections::BTreeMap;

use identity::Namespace;

use super::{
    golang,
    wire::{ObjectKey, Viewer},
};

/// What a pod says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    app_id: String,
    configuration: String,
}

/// The pods that name a Configuration.
#[derive(Debug, Default)]
pub struct Assignments {
    pods: BTreeMap<Namespace, BTreeMap<String, Claim>>,
}

impl Assignments {
    /// A pod exists with these annotations.
    pub fn apply(&mut self, pod: &ObjectKey, annotations: &BTreeMap<String, String>) {
        match claim(pod, annotations) {
            Some(claim) => {
                let pods = self.pods.entry(pod.namespace.clone()).or_default();
                pods.insert(pod.name.clone(), claim);
            }
            None => self.delete(pod),
        }
    }

    /// A pod is gone.
    pub fn delete(&mut self, pod: &ObjectKey) {
        if let Some(pods) = self.pods.get_mut(&pod.namespace) {
            pods.remove(&pod.name);
            if pods.is_empty() {
                self.pods.remove(&pod.namespace);
            }
        }
    }

    /// Forgets every pod that `is_present` does not know.
    pub fn retain(&mut self, is_present: impl Fn(&ObjectKey) -> bool) {
        for (namespace, pods) in &mut self.pods {
            pods.retain(|name, _| is_present(&ObjectKey { namespace: namespace.clone(), name: name.clone() }));
        }
        self.pods.retain(|_, pods| !pods.is_empty());
    }

    /// The Configuration of `viewer`, if its pods name exactly one.
    pub fn of(&self, viewer: &Viewer) -> Option<&str> {
        let mut names = self
            .pods
            .get(&viewer.namespace)?
            .values()
            .filter(|claim| claim.app_id == viewer.app_id.as_str())
            .map(|claim| claim.configuration.as_str());
        let first = names.next()?;
        names.all(|name| name == first).then_some(first)
    }
}

fn claim(pod: &ObjectKey, annotations: &BTreeMap<String, String>) -> Option<Claim> {
    let get = |key: &str| annotations.get(key).map(String::as_str).unwrap_or_default();
    let configuration = get("dapr.io/config");
    if !golang::is_truthy(get("dapr.io/enabled")) || configuration.is_empty() {
        return None;
    }
    let app_id = match get("dapr.io/app-id") {
        "" => pod.name.as_str(),
        app_id => app_id,
    };
    Some(Claim { app_id: app_id.to_owned(), configuration: configuration.to_owned() })
}

#[cfg(test)]
mod tests {
    use identity::AppId;

    use super::*;

    fn pod(name: &str) -> ObjectKey {
        ObjectKey { namespace: Namespace::parse("fuse").unwrap(), name: name.to_owned() }
    }

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn viewer(app: &str) -> Viewer {
        Viewer { namespace: Namespace::parse("fuse").unwrap(), app_id: AppId::parse(app).unwrap() }
    }

    const A: [(&str, &str); 3] = [("dapr.io/enabled", "true"), ("dapr.io/app-id", "order"), ("dapr.io/config", "a")];
    const B: [(&str, &str); 3] = [("dapr.io/enabled", "1"), ("dapr.io/app-id", "order"), ("dapr.io/config", "b")];

    #[test]
    fn pods_that_agree_assign_and_pods_that_differ_do_not() {
        let mut assignments = Assignments::default();
        assignments.apply(&pod("p1"), &annotations(&A));
        assignments.apply(&pod("p2"), &annotations(&A));
        assert_eq!(assignments.of(&viewer("order")), Some("a"));
        assignments.apply(&pod("p2"), &annotations(&B));
        assert_eq!(assignments.of(&viewer("order")), None);
        assignments.delete(&pod("p1"));
        assert_eq!(assignments.of(&viewer("order")), Some("b"));
        assignments.retain(|_| false);
        assert_eq!(assignments.of(&viewer("order")), None);
    }

    #[test]
    fn a_pod_without_app_id_is_its_own_app_and_a_disabled_one_counts_for_nothing() {
        let mut assignments = Assignments::default();
        assignments.apply(&pod("p1"), &annotations(&[("dapr.io/enabled", "yes"), ("dapr.io/config", "c")]));
        assert_eq!(assignments.of(&viewer("p1")), Some("c"));
        assignments.apply(&pod("p1"), &annotations(&[("dapr.io/config", "c")]));
        assert_eq!(assignments.of(&viewer("p1")), None);
    }
}
