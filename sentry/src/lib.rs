//! Sentry, the certificate authority of the Dapr control plane.
//!
//! | task | owns | receives from | sends to | ends when |
//! |---|---|---|---|---|
//! | `sentry.keeper` | the stored bundle and the change of its root | Secret and ConfigMap, or files | [`issuer::Issuer`] | stop |
//! | `sentry.serving` | own serving certificate | issuer (bundle changed) | TLS handshakes | stop |
//! | `sentry.grpc` | connections | callers | callers | stop, after calls in flight |
//! | `sentry.pods`, `sentry.configurations` | their cache | API server | Kubernetes validator | stop |
//! | `sentry.jwks` | the validator's key set | inline, file or URL | JWKS validator | stop |
//! | `sentry.oidc` | its connections | HTTP clients | HTTP clients | stop |
//! | `sentry.readiness` | health targets | caches | `/healthz` | stop |
//! | `sentry.health`, `sentry.metrics` | admin endpoints | probes | – | stop |
//!
//! Decisions are in [`core`], which neither waits nor looks at a clock.

#![allow(clippy::missing_panics_doc, reason = "each expect states the invariant that makes it impossible")]

pub mod args;
mod clock;
mod cluster_domain;
pub mod configuration;
mod connections;
pub mod core;
pub mod directory;
pub mod events;
mod gathered;
pub mod grpc;
pub mod issuer;
pub mod keeper;
pub mod metrics;
pub mod oidc;
pub mod rotation;
mod service;
pub mod serving;
mod signing;
pub mod status;
pub mod store;
pub mod validators;

pub use service::{Failed, run};
