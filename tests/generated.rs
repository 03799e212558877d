//! Generated files say what the table says, or this fails and tells how to write them anew.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/diagram.rs"]
mod diagram;

use std::{env, fs, path::Path};

fn check(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if env::var_os("WINDDOWN_REGENERATE").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{file} does not say what src/machine/table.rs says. Write it anew: WINDDOWN_REGENERATE=1 cargo test --test generated"
    );
}

#[test]
fn the_page_of_transitions_is_what_the_table_says() {
    check("docs/transitions.md", &diagram::markdown());
}

#[test]
fn the_picture_of_transitions_is_what_the_table_says() {
    check("docs/transitions.svg", &diagram::svg());
}

/// The picture is embedded in rustdoc's Markdown, where a blank line would end it.
#[test]
fn the_picture_has_no_blank_line() {
    assert!(diagram::svg().lines().all(|line| !line.trim().is_empty()));
}
