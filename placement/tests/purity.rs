//! The core decides without touching the world.

#[test]
fn the_core_reads_no_clock_and_does_no_io() {
    testkit::assert_core_is_pure(env!("CARGO_MANIFEST_DIR"));
}
