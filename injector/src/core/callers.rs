//! Who may have sidecars injected: controllers by name, accounts by UID, cluster admins.

use super::glob::{BadPattern, Glob};

/// The controllers whose pods get sidecars in every cluster, `namespace:name`.
pub const BUILT_IN: [&str; 10] = [
    "kube-system:replicaset-controller",
    "kube-system:replication-controller",
    "kube-system:deployment-controller",
    "kube-system:cronjob-controller",
    "kube-system:job-controller",
    "kube-system:statefulset-controller",
    "kube-system:daemon-set-controller",
    "openshift-operator-lifecycle-manager:olm-operator-serviceaccount",
    "tekton-pipelines:tekton-pipelines-controller",
    "mirrord:mirrord-operator",
];

const ADMINS: &str = "system:masters";
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// The user behind an admission request.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Requester {
    /// `system:serviceaccount:<namespace>:<name>` for service accounts.
    pub username: Option<String>,
    /// The account's UID.
    pub uid: Option<String>,
    /// Its groups.
    pub groups: Option<Vec<String>>,
}

/// Who may have sidecars injected.
#[derive(Debug, Clone)]
pub struct Callers {
    patterns: Vec<AccountPattern>,
    uids: Vec<String>,
}

/// `namespace:name`, each half a glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountPattern {
    namespace: Glob,
    name: Glob,
}

/// A pattern that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// None or several `:`.
    #[error("invalid pattern {pattern:?}, must contain exactly one ':' separating namespace and name")]
    Colons {
        /// The pattern found.
        pattern: String,
    },
    /// Only a `:`.
    #[error("namespace and name patterns cannot both be empty")]
    Empty,
    /// A broken class or escape.
    #[error("invalid {half} pattern {pattern:?}")]
    Glob {
        /// Which half is broken.
        half: &'static str,
        /// What it says.
        pattern: String,
        /// Why.
        source: BadPattern,
    },
}

impl AccountPattern {
    /// Reads a comma list of patterns; empty entries are skipped.
    pub fn parse_list(list: &str) -> Result<Vec<Self>, PatternError> {
        list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(Self::parse).collect()
    }

    fn parse(pattern: &str) -> Result<Self, PatternError> {
        let colons = || PatternError::Colons { pattern: pattern.to_owned() };
        let (namespace, name) = pattern.split_once(':').ok_or_else(colons)?;
        if name.contains(':') {
            return Err(colons());
        }
        let (namespace, name) = (namespace.trim(), name.trim());
        if namespace.is_empty() && name.is_empty() {
            return Err(PatternError::Empty);
        }
        let glob = |half, text: &str| {
            Glob::parse(text).map_err(|source| PatternError::Glob { half, pattern: text.to_owned(), source })
        };
        Ok(Self { namespace: glob("namespace", namespace)?, name: glob("service account", name)? })
    }

    /// Whether the pattern covers the account.
    pub fn matches(&self, namespace: &str, name: &str) -> bool {
        self.namespace.matches(namespace) && self.name.matches(name)
    }
}

impl Callers {
    /// The built-in controllers and `patterns`.
    #[expect(clippy::missing_panics_doc, reason = "the built-in patterns are constants that a test parses")]
    pub fn new(patterns: Vec<AccountPattern>) -> Self {
        let built_in = BUILT_IN.iter().map(|pattern| {
            AccountPattern::parse(pattern).expect("the built-in patterns are well-formed: a test parses them")
        });
        Self { patterns: built_in.chain(patterns).collect(), uids: Vec::new() }
    }

    /// Also accepts accounts with these UIDs.
    #[must_use]
    pub fn with_uids(self, uids: Vec<String>) -> Self {
        // An empty UID would match every requester that has none.
        let uids = uids.into_iter().filter(|uid| !uid.is_empty()).collect();
        Self { uids, ..self }
    }

    /// Whether `requester` may have sidecars injected.
    pub fn allow(&self, requester: &Requester) -> bool {
        requester.username.as_deref().is_some_and(|name| self.allow_username(name))
            || requester.uid.as_ref().is_some_and(|uid| self.uids.contains(uid))
            || requester.groups.iter().flatten().any(|group| group == ADMINS)
    }

    fn allow_username(&self, username: &str) -> bool {
        let mut parts = username.strip_prefix(ACCOUNT_PREFIX).unwrap_or_default().split(':');
        let (Some(namespace), Some(name)) = (parts.next(), parts.next()) else {
            return false;
        };
        self.patterns.iter().any(|pattern| pattern.matches(namespace, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> Requester {
        Requester { username: Some(format!("{ACCOUNT_PREFIX}{name}")), ..Requester::default() }
    }

    fn callers(list: &str) -> Callers {
        Callers::new(AccountPattern::parse_list(list).unwrap())
    }

    #[test]
    fn built_in_controllers_stay_allowed_whatever_is_added() {
        for callers in [callers(""), callers("a:b"), callers("*:*")] {
            for built_in in BUILT_IN {
                assert!(callers.allow(&account(built_in)), "{built_in}");
            }
        }
        assert!(!callers("a:b").allow(&account("kube-system:deployment-controller-extra")));
    }

    #[test]
    fn patterns_work_in_both_halves() {
        let callers = callers(" argo* : app-[0-9]? ,,flux:*,:x, ns : exact ");
        for yes in ["argocd:app-1x", "argo:app-9z", "flux:any", "ns:exact", "flux:any:extra"] {
            assert!(callers.allow(&account(yes)), "{yes}");
        }
        for no in ["argocd:app-x1", "xargo:app-1x", "flux2:any", "ns:exactly", "other:x", "flux"] {
            assert!(!callers.allow(&account(no)), "{no}");
        }
        let nobody = Requester::default();
        assert!(!callers.allow(&nobody));
        let user = Requester { username: Some("flux:any".to_owned()), ..Requester::default() };
        assert!(!callers.allow(&user));
    }

    #[test]
    fn admins_and_known_uids_may_ask() {
        let callers = callers("").with_uids(vec!["uid-1".to_owned(), String::new()]);
        let with = |uid: Option<&str>, group: Option<&str>| Requester {
            username: None,
            uid: uid.map(Into::into),
            groups: group.map(|group| vec![group.to_owned()]),
        };
        assert!(callers.allow(&with(Some("uid-1"), None)));
        assert!(callers.allow(&with(None, Some("system:masters"))));
        assert!(!callers.allow(&with(Some("uid-2"), Some("system:kubelet"))));
        assert!(!callers.allow(&with(Some(""), None)));
    }

    #[test]
    fn patterns_that_cannot_be_meant_are_refused() {
        let error = |list| AccountPattern::parse_list(list).unwrap_err();
        assert!(matches!(error("noColon"), PatternError::Colons { .. }));
        assert!(matches!(error("a:b:c"), PatternError::Colons { .. }));
        assert_eq!(error(" : "), PatternError::Empty);
        assert!(matches!(error("a:b,[:x"), PatternError::Glob { half: "namespace", .. }));
        assert!(matches!(error("a:["), PatternError::Glob { half: "service account", .. }));
        assert_eq!(AccountPattern::parse_list(" , ").unwrap(), []);
    }
}
