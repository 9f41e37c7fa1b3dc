//! The decisions are pure.

#[test]
fn the_core_names_no_clock_socket_runtime_or_random_number() {
    testkit::assert_core_is_pure(env!("CARGO_MANIFEST_DIR"));
}
