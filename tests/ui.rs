//! What must not compile does not, and the compiler's words are about the shutdown.
//!
//! The words belong to one compiler version; on another they are not compared. Accept new ones
//! after reading them: `TRYBUILD=overwrite cargo test --test ui`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

/// The compiler whose messages `ui-tests/*.stderr` hold.
const PINNED: &str = "1.95.0";

#[test]
fn illegal_shutdowns_do_not_compile() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&output.stdout);
    if version.split_whitespace().nth(1) != Some(PINNED) {
        eprintln!(
            "skipped: ui-tests/*.stderr hold the messages of rustc {PINNED}, and this is {}; run the tests on {PINNED}",
            version.trim()
        );
        return;
    }
    let cases = trybuild::TestCases::new();
    cases.pass("ui-tests/legal_walk.rs");
    cases.compile_fail("ui-tests/illegal_*.rs");
}
