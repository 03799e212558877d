//! `docs/escape-hatches.md` names every place that makes a proof.

use std::{collections::BTreeMap, fs, path::Path};

const MAKERS: [&str; 3] = ["mint(", "proven(", "listed_none("];

/// Calls of the makers in a file, without their definitions, comments and tests.
fn calls(text: &str) -> [usize; 3] {
    let code = text.lines().map(str::trim_start).take_while(|line| !line.starts_with("mod tests"));
    let code: Vec<_> = code.filter(|line| !line.starts_with("//") && !line.contains("fn ")).collect();
    let is_name = |char: char| char.is_alphanumeric() || char == '_';
    let count = |line: &str, maker| line.match_indices(maker).filter(|(at, _)| !line[..*at].ends_with(is_name)).count();
    MAKERS.map(|maker| code.iter().map(|line| count(line, maker)).sum())
}

fn walk(folder: &Path, found: &mut BTreeMap<String, [usize; 3]>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
            continue;
        }
        if path.extension().is_none_or(|ending| ending != "rs") {
            continue;
        }
        let calls = calls(&fs::read_to_string(&path).unwrap());
        if calls != [0; 3] {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
            found.insert(name.to_str().unwrap().replace('\\', "/"), calls);
        }
    }
}

#[test]
fn u3_every_place_that_makes_a_proof_is_on_the_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeMap::new();
    walk(&root.join("src"), &mut found);
    let page = fs::read_to_string(root.join("docs/escape-hatches.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `src/")).map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let number = |at: usize| cells[at].parse().unwrap();
        (cells[0].to_owned(), [number(1), number(2), number(3)])
    });
    assert_eq!(rows.collect::<BTreeMap<_, _>>(), found, "docs/escape-hatches.md, against the sources");
}
