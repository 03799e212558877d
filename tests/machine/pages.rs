//! What the pages name is there: files, links, test programs, and tests.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Where a name of a file begins, as it stands in a page.
const FOLDERS: [&str; 13] = [
    "src/",
    "tests/",
    "ui-tests/",
    "examples/",
    "benches/",
    "cli/",
    "docs/",
    "proto/",
    "scripts/",
    "deploy/",
    "engines/",
    ".ci/",
    ".cargo/",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages but the change log, which speaks of what was. None in the published package, which
/// leaves out some of what they name.
fn pages() -> Vec<(PathBuf, String)> {
    if is_package() {
        eprintln!("skipped: this is the published package, which leaves out some of what the pages name");
        return Vec::new();
    }
    let of = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| has(path, "md")).collect()
    };
    let paths = [of(root()), of(&root().join("docs"))].concat();
    let paths = paths.into_iter().filter(|path| !path.ends_with("CHANGELOG.md"));
    paths.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

fn is_package() -> bool {
    root().join(".cargo_vcs_info.json").exists()
}

pub(crate) fn has(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|it| it == extension)
}

fn is_of_a_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_./-".contains(c)
}

/// Files and folders of this repository that a page names. A pattern counts up to its last folder.
fn paths_in(page: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for folder in FOLDERS {
        for (at, _) in page.match_indices(folder) {
            if page[..at].chars().next_back().is_some_and(is_of_a_path) {
                continue;
            }
            let end = page[at..].find(|c| !is_of_a_path(c)).map_or(page.len(), |length| at + length);
            let path = page[at..end].trim_end_matches(['.', '-']);
            let is_pattern = page[end..].starts_with(['*', '<', '{']);
            found.insert(if is_pattern { &path[..=path.rfind('/').unwrap_or(0)] } else { path });
        }
    }
    found
}

/// The file, the folder, or the module of this name.
fn exists(path: &str) -> bool {
    root().join(path).exists() || root().join(format!("{path}.rs")).exists()
}

#[test]
fn every_file_that_a_page_names_is_there() {
    let mut missing = Vec::new();
    let mut named = 0;
    for (page, text) in pages() {
        for path in paths_in(&text) {
            named += 1;
            if !exists(path) {
                missing.push(format!("{} names {path}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(named > 50 || is_package(), "only {named} names found in all pages");
}

#[test]
fn every_link_of_a_page_leads_to_a_file() {
    let mut missing = Vec::new();
    for (page, text) in pages() {
        for (at, _) in text.match_indices("](") {
            let link = text[at + 2..].split([')', '#', ' ']).next().unwrap();
            let is_elsewhere = link.is_empty() || link.contains("://") || link.starts_with("mailto:");
            if !is_elsewhere && !page.parent().unwrap().join(link).exists() {
                missing.push(format!("{} links to {link}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Test programs of this package and of those in the same repository.
fn test_programs() -> BTreeSet<String> {
    let mut folders = vec![root().join("tests"), root().join("benches/tests")];
    let packages = ["examples", "engines"].iter().filter_map(|folder| fs::read_dir(root().join(folder)).ok()).flatten();
    folders.extend(packages.map(|entry| entry.unwrap().path().join("tests")));
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    let programs = paths.filter(|path| has(path, "rs") || path.join("main.rs").exists());
    programs.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_test_program_that_is_named_is_there() {
    let programs = test_programs();
    let mutants = root().join(".cargo/mutants.toml");
    let settings = (mutants.clone(), fs::read_to_string(mutants).unwrap_or_default());
    let mut named = 0;
    for (page, text) in pages().into_iter().chain([settings]) {
        // On a command line, and in a list of arguments.
        for mark in ["--test ", "\"--test\", \""] {
            for (at, _) in text.match_indices(mark) {
                let name =
                    text[at + mark.len()..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
                named += 1;
                assert!(programs.contains(name), "{} runs the tests {name:?}; there are {programs:?}", page.display());
            }
        }
    }
    assert!(named > 2 || is_package(), "only {named} test programs are named");
}

/// Each test program is in the table of `docs/architecture.md`, so that a reader finds it.
#[test]
fn the_table_of_tests_has_every_test_program() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let (_, table) = page.split_once("\n## Tests\n").expect("a section on tests");
    let table = table.split("\n## ").next().unwrap();
    for program in fs::read_dir(root().join("tests")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = program.file_name().unwrap().to_str().unwrap();
        if has(&program, "rs") || program.join("main.rs").exists() {
            assert!(table.contains(&format!("`tests/{name}")), "the table of tests does not have tests/{name}");
        }
    }
}

/// Tests by their names (`i4_…`, `b7_…`), wherever a page speaks of them.
#[test]
fn every_test_that_a_page_names_is_there() {
    let mut functions = BTreeSet::new();
    for folder in ["src", "tests", "examples", "benches"] {
        crate::generated::each_line(&root().join(folder), &mut |_, line| {
            if let Some((name, _)) = line.split_once("fn ").and_then(|(_, rest)| rest.split_once(['(', '<'])) {
                functions.insert(name.to_owned());
            }
        });
    }
    let is_name = |word: &str| {
        let (mark, rest) = word.split_once('_').unwrap_or_default();
        let number = mark.trim_start_matches(|c: char| c.is_ascii_lowercase());
        let is_mark = number.len() + 1 == mark.len() && number.parse::<u8>().is_ok();
        is_mark && rest.contains('_') && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let mut named = 0;
    for (page, text) in pages() {
        for name in text.split('`').filter(|word| is_name(word)) {
            named += 1;
            assert!(functions.contains(name), "{} names the test {name}, which is nowhere", page.display());
        }
    }
    assert!(named > 100 || is_package(), "only {named} tests are named");
}

#[test]
fn names_are_found_in_a_page() {
    let page =
        "See `src/lib.rs`, (tests/machine/main.rs), and src/drive. Not mysrc/x, nor ../src/y; `ui-tests/illegal_*.rs`.";
    assert_eq!(
        paths_in(page).into_iter().collect::<Vec<_>>(),
        ["src/drive", "src/lib.rs", "tests/machine/main.rs", "ui-tests/"]
    );
}
