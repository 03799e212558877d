//! Generated files say what the table says, or this fails and tells how to write them anew.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::Path};

use crate::diagram;

fn check(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if env::var_os("WINDDOWN_REGENERATE").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{file} is out of date: it is generated from the code. Regenerate it: WINDDOWN_REGENERATE=1 cargo test --test machine generated"
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

/// Each invariant's tests, found by their names.
#[test]
fn the_page_of_invariants_lists_every_test_that_carries_a_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for folder in ["src", "tests", "examples"] {
        collect(root, &root.join(folder), &mut tests);
    }
    let page = fs::read_to_string(root.join("docs/invariants.md")).unwrap();
    let mut expected = String::new();
    let mut skipping = false;
    for line in page.lines() {
        skipping &= line != "<!-- end -->";
        if !skipping {
            expected.push_str(line);
            expected.push('\n');
        }
        if let Some(invariant) = line.strip_prefix("<!-- tests:").and_then(|rest| rest.strip_suffix(" -->")) {
            skipping = true;
            let mut found = tests.remove(invariant).unwrap_or_default();
            found.sort();
            for (file, test) in found {
                let _ = writeln!(expected, "- `{test}` ({file})");
            }
        }
    }
    assert!(tests.is_empty(), "tests of an invariant that the page does not have: {tests:?}");
    check("docs/invariants.md", &expected);
}

fn collect(root: &Path, folder: &Path, tests: &mut BTreeMap<String, Vec<(String, String)>>) {
    each_line(folder, &mut |path, line| {
        let Some((_, name)) = line.split_once("fn i") else { return };
        let Some((test, _)) = name.split_once('(') else { return };
        let Some((number, _)) = test.split_once('_') else { return };
        if number.parse::<u8>().is_ok() {
            let file = path.strip_prefix(root).unwrap().display().to_string();
            tests.entry(format!("i{number}")).or_default().push((file, format!("i{test}")));
        }
    });
}

/// Every line of every Rust file below a folder.
pub(crate) fn each_line(folder: &Path, look: &mut dyn FnMut(&Path, &str)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            each_line(&path, look);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            fs::read_to_string(&path).unwrap().lines().for_each(|line| look(&path, line));
        }
    }
}
