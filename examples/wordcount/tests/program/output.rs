//! Takes away, swaps and damages parts of the output between two calls: the next start names the
//! part and changes nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::harness::{Case, contents};

const RUNTIMES: &[&str] = if cfg!(target_os = "linux") { &["embedded", "process"] } else { &["embedded"] };

/// The counts of every worker, as files below the state directory. A lock is no count.
fn parts(case: &Case) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = contents(&case.state().join("output")).into_iter();
    let parts = files.filter(|(name, _)| name.extension().is_none_or(|ending| ending != "lock"));
    parts.map(|(name, contents)| (Path::new("output").join(name), contents)).collect()
}

/// A job that two calls stopped with a checkpoint; gives the parts after each.
fn stopped_twice(runtime: &str) -> (Case, [BTreeMap<PathBuf, Vec<u8>>; 2]) {
    let case = Case::new(600);
    let line = format!("--runtime {runtime} --rate 60 --checkpoint-every 100ms --stop checkpoint@400ms");
    let parts = [(); 2].map(|()| {
        assert_eq!(case.run(&line).code, Some(0));
        parts(&case)
    });
    (case, parts)
}

/// The next start is refused with these words, and changes neither output nor checkpoints.
fn assert_refused(case: &Case, runtime: &str, part: &Path, said: &[&str]) {
    let kept = || {
        let mut kept = contents(&case.state());
        kept.retain(|path, _| path.starts_with("output") || path.starts_with("checkpoints"));
        kept
    };
    let before = kept();
    let refused = case.run(&format!("--runtime {runtime}"));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let name = case.state().join(part).display().to_string();
    for said in said.iter().chain(&[&*name, "--fresh"]) {
        assert!(refused.stderr.contains(said), "{said}: {refused:?}");
    }
    assert!(!case.state().join("counts.tsv").exists());
    assert_eq!(kept(), before);
}

/// With every part as it was, the job goes on to the exact result.
fn assert_goes_on(case: &Case, parts: &BTreeMap<PathBuf, Vec<u8>>) {
    for (name, contents) in parts {
        fs::write(case.state().join(name), contents).unwrap();
    }
    assert_eq!(case.run("").code, Some(0));
    case.assert_exact();
}

#[test]
fn a_part_of_the_output_that_is_missing_is_named() {
    for runtime in RUNTIMES {
        let (case, [_, parts]) = stopped_twice(runtime);
        assert!(parts.len() >= 4, "one for each worker: {:?}", parts.keys());
        for (name, contents) in &parts {
            fs::remove_file(case.state().join(name)).unwrap();
            let expected = format!("expected {} bytes", contents.len());
            assert_refused(&case, runtime, name, &[&expected, "got no file"]);
            fs::write(case.state().join(name), contents).unwrap();
        }
        assert_goes_on(&case, &parts);
    }
}

#[test]
fn an_older_part_under_a_newer_name_is_found() {
    for runtime in RUNTIMES {
        let (case, [before, parts]) = stopped_twice(runtime);
        let newest = parts.keys().rfind(|name| name.starts_with("output/worker-0")).unwrap();
        let older = before.iter().rfind(|(name, _)| name.starts_with("output/worker-0")).unwrap();
        assert_ne!((newest, &parts[newest]), older, "the second call has committed something");
        fs::write(case.state().join(newest), older.1).unwrap();
        assert_refused(&case, runtime, newest, &["expected", "got"]);
        assert_goes_on(&case, &parts);
    }
}

#[test]
fn a_part_of_another_worker_is_found() {
    let (case, [_, parts]) = stopped_twice("embedded");
    let of = |worker: &str| parts.iter().rfind(|(name, _)| name.starts_with(worker)).unwrap();
    let (name, other) = (of("output/worker-0").0, of("output/worker-1").1);
    fs::write(case.state().join(name), other).unwrap();
    assert_refused(&case, "embedded", name, &["expected", "got"]);
    assert_goes_on(&case, &parts);
}

#[test]
fn a_part_that_was_altered_is_found() {
    let (case, [_, parts]) = stopped_twice("embedded");
    for (name, contents) in &parts {
        let mut altered = contents.clone();
        let digit = altered.iter_mut().find(|byte| byte.is_ascii_digit()).unwrap();
        *digit = if *digit == b'9' { b'8' } else { *digit + 1 };
        let shortened = &contents[..contents.len() / 2];
        for (other, got) in [(&*altered, "checksum"), (shortened, "bytes"), (b"", "got 0 bytes")] {
            fs::write(case.state().join(name), other).unwrap();
            assert_refused(&case, "embedded", name, &["expected", got]);
        }
        fs::write(case.state().join(name), contents).unwrap();
    }
    assert_goes_on(&case, &parts);
}

/// The parts belong to a checkpoint. Beside an older one they would be counted twice.
#[test]
fn output_that_is_ahead_of_the_checkpoint_is_refused() {
    let (case, [_, parts]) = stopped_twice("embedded");
    let checkpoints = case.state().join("checkpoints");
    let (kept, away) = (contents(&checkpoints), case.state().join("away"));
    fs::rename(&checkpoints, &away).unwrap();
    let refused = case.run("");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("the run starts from the beginning"), "{refused:?}");
    assert_eq!(self::parts(&case), parts);
    fs::remove_dir_all(&checkpoints).unwrap();
    fs::rename(&away, &checkpoints).unwrap();
    assert_eq!(contents(&checkpoints), kept);
    assert_goes_on(&case, &parts);
}
