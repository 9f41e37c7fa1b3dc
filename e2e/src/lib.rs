//! A local cluster for the control plane: brought up, filled, tried and taken down again.
//!
//! | step | module | what it owns |
//! |---|---|---|
//! | choose | `mode`, `packages` | how the cluster runs here, what the machine must have |
//! | build | `cache`, `modules`, `upstream`, `downloads`, `artifacts`, `samples` | programs, cached by version |
//! | run | `netns`, `pki`, `api`, `node`, `addons`, `backends`, `processes`, `state` | processes and their folder |
//! | fill | `images`, `components`, `helm` | images and the chart |
//! | try | `quickstart`, `compat` | applications on it, for the table and for long tests |
//! | end | `cleanup` | nothing left behind |
//! | measure | `bench` | our services beside upstream's, without a cluster |
//! | | `actors` | actors with real sidecars while their hosts and placement are disturbed |
//!
//! `cluster::Cluster::current()` is the handle that tests start from. This package is a test
//! harness, so its errors are `anyhow` with the context a person needs, not enums for a caller.

pub mod actors;
pub mod addons;
pub mod api;
pub mod args;
pub mod artifacts;
pub mod backends;
pub mod bench;
pub mod cache;
pub mod cleanup;
pub mod cluster;
pub mod command;
pub mod compat;
pub mod components;
pub mod downloads;
pub mod flows;
pub mod helm;
pub mod http;
pub mod images;
pub mod kind;
pub mod mode;
pub mod modules;
pub mod netns;
pub mod node;
pub mod packages;
pub mod pki;
pub mod plain;
pub mod processes;
pub mod progress;
pub mod quickstart;
pub mod samples;
pub mod services;
pub mod state;
pub mod up;
pub mod upstream;

pub use cluster::Cluster;
