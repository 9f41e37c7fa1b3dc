//! The seven kinds served to sidecars: their names in the Kubernetes API.

/// A kind of resource that sidecars list and watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiKind {
    /// `components.dapr.io`.
    Component,
    /// `configurations.dapr.io`.
    Configuration,
    /// `httpendpoints.dapr.io`.
    HttpEndpoint,
    /// `mcpservers.dapr.io`.
    McpServer,
    /// `resiliencies.dapr.io`.
    Resiliency,
    /// `subscriptions.dapr.io`, read as v2alpha1.
    Subscription,
    /// `workflowaccesspolicies.dapr.io`.
    WorkflowAccessPolicy,
}

impl ApiKind {
    /// Every kind, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Component,
        Self::Configuration,
        Self::HttpEndpoint,
        Self::McpServer,
        Self::Resiliency,
        Self::Subscription,
        Self::WorkflowAccessPolicy,
    ];

    /// The position in [`ApiKind::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The kind as manifests spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Component => "Component",
            Self::Configuration => "Configuration",
            Self::HttpEndpoint => "HTTPEndpoint",
            Self::McpServer => "MCPServer",
            Self::Resiliency => "Resiliency",
            Self::Subscription => "Subscription",
            Self::WorkflowAccessPolicy => "WorkflowAccessPolicy",
        }
    }

    /// The resource name in API paths.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Component => "components",
            Self::Configuration => "configurations",
            Self::HttpEndpoint => "httpendpoints",
            Self::McpServer => "mcpservers",
            Self::Resiliency => "resiliencies",
            Self::Subscription => "subscriptions",
            Self::WorkflowAccessPolicy => "workflowaccesspolicies",
        }
    }

    /// The version read from the API server and sent to sidecars.
    pub const fn version(self) -> &'static str {
        match self {
            Self::Subscription => "v2alpha1",
            _ => "v1alpha1",
        }
    }

    /// Group and version as manifests spell them.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Subscription => "dapr.io/v2alpha1",
            _ => "dapr.io/v1alpha1",
        }
    }

    /// Whether a rotated Secret is pushed to sidecars.
    ///
    /// A sidecar restarts its whole runtime on a changed HTTPEndpoint or Configuration, so
    /// for those the new value waits for the next list (RULINGS 24).
    pub const fn pushes_rotated_secrets(self) -> bool {
        matches!(self, Self::Component | Self::McpServer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_kind_is_its_place_in_the_list_of_all() {
        for (place, kind) in ApiKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), place);
        }
    }
}
