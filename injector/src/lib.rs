//! The sidecar injector.

pub mod core;
