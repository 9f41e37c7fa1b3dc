//! Pure decisions: annotations to options, options to a plan, a plan to a patch, and who may
//! ask. No clock, no network, no environment; the same input always gives the same bytes.

pub mod annotations;
pub mod app_id;
pub mod bundle;
pub mod callers;
pub mod components;
pub mod env_list;
pub mod flags;
pub mod glob;
pub mod options;
pub mod patch;
pub mod plan;
pub mod quantity;
pub mod resources;
pub mod review;
pub mod settings;
pub mod sidecar;
pub mod values;
pub mod volumes;

pub use patch::{Patch, patch};
pub use plan::{Plan, Refusal, plan};
pub use settings::{Install, Settings};
