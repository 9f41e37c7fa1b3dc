//! Generated wire types of the control plane, one module for each service.
//!
//! The `.proto` files beside this crate are the contract: nothing here is written by hand.
//! Every service offers a client (`…_client`) and a server (`…_server`) module.
#![allow(missing_docs, reason = "generated from the .proto files, which carry the comments")]
#![allow(clippy::pedantic, clippy::too_many_lines, reason = "generated code")]

/// Certificate authority: `dapr.proto.sentry.v1`.
pub mod sentry {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("dapr.proto.sentry.v1");
    }
}

/// Resources for sidecars: `dapr.proto.operator.v1`.
pub mod operator {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("dapr.proto.operator.v1");
    }
}

/// Actor placement: `dapr.proto.placement.v1`.
pub mod placement {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("dapr.proto.placement.v1");
    }
}
