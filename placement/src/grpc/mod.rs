//! The gRPC service: admission of streams, reading them, and nothing that decides.

mod admission;
mod reader;

pub use admission::{PlacementService, ServiceOptions};
pub use reader::ReadersTask;
