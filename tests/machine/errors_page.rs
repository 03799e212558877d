//! `docs/errors.md` has each compile error, in the compiler's own words.

use std::{fs, path::Path};

#[test]
fn every_compile_fail_program_has_its_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/errors.md")).unwrap();
    let mut cases = 0;
    for entry in fs::read_dir(root.join("ui-tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_none_or(|extension| extension != "stderr") {
            continue;
        }
        cases += 1;
        assert!(page.contains(&format!("(../ui-tests/{name}.rs)")), "docs/errors.md does not mention {name}");
        let words = fs::read_to_string(&path).unwrap();
        let errors: Vec<_> = words.lines().filter(|line| line.starts_with("error")).collect();
        assert!(
            errors.iter().any(|error| page.lines().any(|line| line == *error)),
            "docs/errors.md does not say what the compiler says of {name}: {errors:#?}"
        );
    }
    assert!(cases >= 15, "only {cases} compile-fail programs");
}
