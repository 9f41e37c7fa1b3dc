//! The chart, rendered by a real Helm.
//!
//! `HELM` names the program; without it `helm` on the path or the one in the cache of the local
//! cluster is taken, else the pinned version is built with Go. Without any of them these tests fail.
//! Kubernetes 1.30, the oldest supported version, is what the renders are for.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail as the tests do")]

mod acceptance;
mod arguments;
mod network;
mod render;
mod upstream;
mod values;
