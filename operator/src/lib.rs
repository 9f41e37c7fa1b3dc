//! Serves Dapr resources to sidecars.

pub mod core;
