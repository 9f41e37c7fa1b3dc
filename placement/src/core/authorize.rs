//! Who may say what on a stream (placement.md §8.1). Every message is checked, in this order.

use std::sync::Arc;

use super::event::Operation;

/// The verified peer of a connection, as the rules need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// mTLS is off: any app id and namespace is believed.
    Unauthenticated,
    /// mTLS is on, but the peer's certificate carries no usable SPIFFE ID.
    Nameless,
    /// mTLS is on and this is the peer.
    Named {
        /// Namespace of the peer's SPIFFE ID.
        namespace: Arc<str>,
        /// App id of the peer's SPIFFE ID.
        app_id: Arc<str>,
    },
}

/// Why a message was refused. Texts are fixed by placement.md §8.2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// E3.
    #[error("failed to get client ID from context")]
    NoClientId,
    /// E4.
    #[error("both operation and version must be set or both must be unset")]
    VersionWithoutOperation,
    /// E5.
    #[error("host ID and namespace must be provided")]
    Incomplete,
    /// E6.
    #[error("provided app ID {claimed} doesn't match the one in the SPIFFE ID ({proven})")]
    ForeignAppId {
        /// What the message says.
        claimed: String,
        /// What the certificate says.
        proven: Arc<str>,
    },
    /// E7.
    #[error("provided client namespace {claimed} doesn't match the one in the SPIFFE ID ({proven})")]
    ForeignNamespace {
        /// What the message says.
        claimed: String,
        /// What the certificate says.
        proven: Arc<str>,
    },
    /// E8.
    #[error("entity {entity} is not allowed for app ID {app_id} in namespace {namespace}")]
    ForeignEntity {
        /// The first offending actor type.
        entity: String,
        /// The app that reported it.
        app_id: String,
        /// Its namespace.
        namespace: String,
    },
}

/// What of a message the rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Reported app id.
    pub app_id: &'a str,
    /// Reported namespace.
    pub namespace: &'a str,
    /// Reported operation.
    pub operation: Operation,
    /// Whether a version is present.
    pub versioned: bool,
    /// Reported actor types.
    pub entities: &'a [String],
}

/// Checks one message of a caller.
pub fn authorize(caller: &Caller, claim: &Claim<'_>) -> Result<(), Refusal> {
    if *caller == Caller::Nameless {
        return Err(Refusal::NoClientId);
    }
    if claim.operation == Operation::Unknown && claim.versioned {
        return Err(Refusal::VersionWithoutOperation);
    }
    if claim.app_id.is_empty() || claim.namespace.is_empty() {
        return Err(Refusal::Incomplete);
    }
    if let Caller::Named { namespace, app_id } = caller {
        if claim.app_id != &**app_id {
            return Err(Refusal::ForeignAppId { claimed: claim.app_id.into(), proven: app_id.clone() });
        }
        if claim.namespace != &**namespace {
            return Err(Refusal::ForeignNamespace { claimed: claim.namespace.into(), proven: namespace.clone() });
        }
    }
    match claim.entities.iter().find(|e| !may_host(e, claim.namespace, claim.app_id)) {
        Some(entity) => Err(Refusal::ForeignEntity {
            entity: entity.clone(),
            app_id: claim.app_id.into(),
            namespace: claim.namespace.into(),
        }),
        None => Ok(()),
    }
}

/// Types under `dapr.internal` belong to the app they name. The app's literal prefix is compared, not
/// dot-separated parts: app ids may contain dots (placement.md §15 W21).
fn may_host(entity: &str, namespace: &str, app_id: &str) -> bool {
    let Some(rest) = entity.strip_prefix("dapr.internal") else { return true };
    if !(rest.is_empty() || rest.starts_with('.')) {
        return true;
    }
    rest.strip_prefix('.')
        .and_then(|r| r.strip_prefix(namespace))
        .and_then(|r| r.strip_prefix('.'))
        .and_then(|r| r.strip_prefix(app_id))
        .is_some_and(|r| r.is_empty() || r.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim<'a>(app_id: &'a str, namespace: &'a str, entities: &'a [String]) -> Claim<'a> {
        Claim { app_id, namespace, operation: Operation::Report, versioned: false, entities }
    }

    fn named(namespace: &str, app_id: &str) -> Caller {
        Caller::Named { namespace: namespace.into(), app_id: app_id.into() }
    }

    #[test]
    fn without_mtls_any_app_id_and_namespace_is_accepted() {
        assert_eq!(authorize(&Caller::Unauthenticated, &claim("a", "b", &[])), Ok(()));
    }

    #[test]
    fn with_mtls_id_and_namespace_must_be_the_peers() {
        let peer = named("default", "app-1");
        assert_eq!(authorize(&peer, &claim("app-1", "default", &[])), Ok(()));
        assert_eq!(
            authorize(&peer, &claim("app-2", "default", &[])).unwrap_err().to_string(),
            "provided app ID app-2 doesn't match the one in the SPIFFE ID (app-1)"
        );
        assert_eq!(
            authorize(&peer, &claim("app-1", "other", &[])).unwrap_err().to_string(),
            "provided client namespace other doesn't match the one in the SPIFFE ID (default)"
        );
        assert_eq!(
            authorize(&peer, &claim("app-1", "", &[])).unwrap_err().to_string(),
            "host ID and namespace must be provided"
        );
    }

    #[test]
    fn a_nameless_peer_is_refused_before_anything_else_is_looked_at() {
        let mut bad = claim("", "", &[]);
        bad.operation = Operation::Unknown;
        bad.versioned = true;
        assert_eq!(authorize(&Caller::Nameless, &bad), Err(Refusal::NoClientId));
        assert_eq!(authorize(&Caller::Unauthenticated, &bad), Err(Refusal::VersionWithoutOperation));
    }

    #[test]
    fn reserved_types_belong_to_the_app_they_name() {
        for allowed in ["dapr.internal.default.app-1", "dapr.internal.default.app-1.workflow", "dapr.internalize", "x"]
        {
            let entities = ["ok".to_owned(), allowed.to_owned()];
            assert_eq!(authorize(&Caller::Unauthenticated, &claim("app-1", "default", &entities)), Ok(()), "{allowed}");
        }
        for foreign in [
            "dapr.internal",
            "dapr.internal.",
            "dapr.internal.foo.bar",
            "dapr.internal.default.",
            "dapr.internal.default.app-2",
            "dapr.internal.default.app-10",
        ] {
            let entities = ["ok".to_owned(), foreign.to_owned()];
            let refused = authorize(&named("default", "app-1"), &claim("app-1", "default", &entities)).unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!("entity {foreign} is not allowed for app ID app-1 in namespace default")
            );
        }
    }

    #[test]
    fn an_app_id_with_dots_may_host_its_own_workflow_types() {
        let entities = ["dapr.internal.ns.my.app.workflow".to_owned()];
        assert_eq!(authorize(&Caller::Unauthenticated, &claim("my.app", "ns", &entities)), Ok(()));
    }
}
