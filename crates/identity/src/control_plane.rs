//! The five control-plane services and the app ids reserved for them.

use std::{fmt, str::FromStr};

use crate::AppId;

/// A control-plane service, as the annotation `dapr.io/control-plane` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ControlPlaneService {
    /// The operator.
    Operator,
    /// Placement.
    Placement,
    /// The sidecar injector.
    Injector,
    /// Sentry, the certificate authority.
    Sentry,
    /// The scheduler.
    Scheduler,
}

/// No control-plane service has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown control plane service {found:?}; one of operator, placement, injector, sentry, scheduler")]
pub struct UnknownService {
    /// The name given.
    pub found: String,
}

impl ControlPlaneService {
    /// All services.
    pub const ALL: [Self; 5] = [Self::Operator, Self::Placement, Self::Injector, Self::Sentry, Self::Scheduler];

    /// The name in the annotation `dapr.io/control-plane`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Placement => "placement",
            Self::Injector => "injector",
            Self::Sentry => "sentry",
            Self::Scheduler => "scheduler",
        }
    }

    /// The app id as text, `dapr-<name>`.
    pub const fn app_id_str(self) -> &'static str {
        match self {
            Self::Operator => "dapr-operator",
            Self::Placement => "dapr-placement",
            Self::Injector => "dapr-injector",
            Self::Sentry => "dapr-sentry",
            Self::Scheduler => "dapr-scheduler",
        }
    }

    /// The app id, `dapr-<name>`.
    pub fn app_id(self) -> AppId {
        AppId::from_legal(self.app_id_str())
    }

    /// The service whose app id this is.
    pub fn from_app_id(app_id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.app_id_str() == app_id)
    }
}

impl FromStr for ControlPlaneService {
    type Err = UnknownService;

    fn from_str(text: &str) -> Result<Self, UnknownService> {
        Self::ALL
            .into_iter()
            .find(|service| service.name() == text)
            .ok_or_else(|| UnknownService { found: text.to_owned() })
    }
}

impl fmt::Display for ControlPlaneService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
