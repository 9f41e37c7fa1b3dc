//! Compiles the `.proto` files without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 3] = [
        "proto/dapr/proto/operator/v1/operator.proto",
        "proto/dapr/proto/placement/v1/placement.proto",
        "proto/dapr/proto/sentry/v1/sentry.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        // Payloads are shared between streams: `Bytes` makes a clone a reference count.
        .bytes(".dapr.proto.operator.v1")
        // One encoding for one table, whatever the hash seed.
        .btree_map(".dapr.proto.placement.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
