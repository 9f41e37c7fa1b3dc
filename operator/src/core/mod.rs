//! What the operator decides, without doing anything: which object looks how on the wire,
//! who may see it, what changed for whom, which Service a workload gets, which pods the
//! watchdog removes, how a Subscription converts.
//!
//! Nothing in here is async or reads a clock, an environment, a random number or a socket;
//! inputs are bytes and plain values, results are values the shell carries out.

pub mod api_kind;
pub mod assignment;
pub mod catalog;
pub mod conversion;
pub mod generation;
pub mod golang;
pub mod queue;
pub mod secrets;
pub mod service;
pub mod shape;
pub mod shapes;
pub mod template;
pub mod watchdog;
pub mod wire;
