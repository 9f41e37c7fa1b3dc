//! Everything sentry decides, as pure functions.
//!
//! No clock, randomness, environment or I/O: the time and random bytes come in as
//! arguments, effects go out as values. Times are whole Unix seconds, as in certificates.

pub mod asked;
pub mod bundle;
pub mod csr;
pub mod decide;
pub mod dns_names;
pub mod jwks;
pub mod jws;
pub mod jwt;
pub mod keys;
pub mod oidc;
pub mod pod_identity;
pub mod profile;
pub mod rotation;
pub mod validity;
