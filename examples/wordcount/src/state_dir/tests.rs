use std::collections::BTreeMap;

use super::*;
use winddown::durable::crash;

/// A folder with an input in it.
fn setting(text: &str) -> (tempfile::TempDir, Input) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("input"), text).unwrap();
    let input = input_of(&dir);
    (dir, input)
}

fn input_of(dir: &tempfile::TempDir) -> Input {
    Input::collect(&[dir.path().join("input")], &|_| false).unwrap()
}

/// Every file under a folder with its contents.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// What a job leaves.
fn fill(state: &StateDir) {
    fs::create_dir_all(state.output(0)).unwrap();
    fs::create_dir_all(state.checkpoints()).unwrap();
    fs::write(state.output(0).join("1.base"), "x").unwrap();
    fs::write(state.checkpoints().join("1"), "x").unwrap();
    fs::create_dir_all(state.journal()).unwrap();
    fs::write(state.journal().join("job-wordcount.record"), "x").unwrap();
    fs::write(state.counts(), "x\t1\n").unwrap();
}

#[test]
fn the_same_job_comes_back() {
    let (dir, input) = setting("a b");
    let path = dir.path().join("deep/state");
    fill(&StateDir::open(&path, &input, 2, false).unwrap());
    let before = contents(&path);
    StateDir::open(&path, &input, 2, false).unwrap();
    assert_eq!(contents(&path), before);
    assert!(StateDir::is_at(&path));
}

#[test]
fn another_job_is_refused_and_nothing_is_touched() {
    let (dir, input) = setting("a b");
    let path = dir.path().join("state");
    fill(&StateDir::open(&path, &input, 2, false).unwrap());
    let before = contents(&path);
    let error = StateDir::open(&path, &input, 3, false).unwrap_err().to_string();
    assert!(
        error.contains("expected 1 files of 3 bytes shared by 2 workers, got") && error.contains("3 workers"),
        "{error}"
    );
    fs::write(dir.path().join("input"), "a c").unwrap();
    let error = StateDir::open(&path, &input_of(&dir), 2, false).unwrap_err().to_string();
    assert!(error.contains("`input` has other contents") && error.contains("--fresh"), "{error}");
    fs::write(path.join(IDENTITY), "{").unwrap();
    assert!(matches!(StateDir::open(&path, &input, 2, false), Err(StateDirError::Unknown { .. })));
    fs::write(path.join(IDENTITY), &before[&path.join(IDENTITY)]).unwrap();
    assert_eq!(contents(&path), before);
}

#[test]
fn added_and_removed_files_are_named() {
    let (dir, _) = setting("a");
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("one"), "1").unwrap();
    let collect = || Input::collect(std::slice::from_ref(&folder), &|_| false).unwrap();
    let one = collect();
    fs::write(folder.join("two"), "2").unwrap();
    let two = collect();
    for (first, second, said) in [(&one, &two, "`folder/two` is new"), (&two, &one, "`folder/two` is missing")] {
        let state = dir.path().join(said);
        StateDir::open(&state, first, 1, false).unwrap();
        let error = StateDir::open(&state, second, 1, false).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_second_run_is_refused_while_the_first_is_there() {
    let (dir, input) = setting("a");
    let path = dir.path().join("state");
    let first = StateDir::open(&path, &input, 1, false).unwrap();
    for fresh in [false, true] {
        assert!(matches!(StateDir::open(&path, &input, 1, fresh), Err(StateDirError::InUse(_))));
    }
    drop(first);
    StateDir::open(&path, &input, 1, false).unwrap();
}

/// As after a kill: the last copy of the lock is closed a moment later.
#[test]
fn a_lock_that_is_freed_in_a_moment_is_waited_for() {
    let (dir, input) = setting("a");
    let path = dir.path().join("state");
    let first = StateDir::open(&path, &input, 1, false).unwrap();
    let freed = std::thread::spawn(move || {
        sleep(Duration::from_millis(50));
        drop(first);
    });
    StateDir::open(&path, &input, 1, false).unwrap();
    freed.join().unwrap();
}

#[test]
fn somebody_elses_folder_is_refused_even_with_fresh() {
    let (dir, input) = setting("a");
    let path = dir.path().join("home");
    fs::create_dir_all(path.join("output")).unwrap();
    fs::write(path.join("counts.tsv"), "mine").unwrap();
    let before = contents(&path);
    for fresh in [false, true] {
        assert!(matches!(StateDir::open(&path, &input, 1, fresh), Err(StateDirError::NotOurs(_))));
    }
    assert_eq!(contents(&path), before);
    assert!(matches!(StateDir::open(&dir.path().join("input"), &input, 1, false), Err(StateDirError::Io { .. })));
}

#[test]
fn fresh_removes_what_we_wrote_and_nothing_else() {
    let (dir, input) = setting("a");
    let path = dir.path().join("state");
    fill(&StateDir::open(&path, &input, 1, false).unwrap());
    fs::write(path.join("notes"), "mine").unwrap();
    let state = StateDir::open(&path, &input, 4, true).unwrap();
    assert!(!state.counts().exists() && !state.checkpoints().exists() && !state.output(0).exists());
    assert!(!state.journal().exists());
    assert_eq!(fs::read_to_string(path.join("notes")).unwrap(), "mine");
    drop(state);
    StateDir::open(&path, &input, 4, false).unwrap();
}

#[test]
fn fresh_repairs_an_identity_that_cannot_be_understood() {
    let (dir, input) = setting("a");
    let path = dir.path().join("state");
    StateDir::open(&path, &input, 1, false).unwrap();
    fs::write(path.join(IDENTITY), r#"{ "format": 9, "workers": 1, "files": [] }"#).unwrap();
    let error = StateDir::open(&path, &input, 1, false).unwrap_err().to_string();
    assert!(error.contains("expected format 2, got 9"), "{error}");
    StateDir::open(&path, &input, 1, true).unwrap();
}

#[test]
fn a_first_start_that_was_interrupted_is_no_obstacle() {
    let (dir, input) = setting("a");
    let mut steps = 0;
    loop {
        let path = dir.path().join(format!("state-{steps}"));
        let crashed = crash::after(steps, || StateDir::open(&path, &input, 1, false).map(drop)).0.is_err();
        StateDir::open(&path, &input, 1, false).unwrap();
        if !crashed {
            break;
        }
        steps += 1;
    }
    assert!(steps > 3);
}

#[test]
fn an_interrupted_fresh_start_leaves_no_mixture() {
    let (dir, input) = setting("a");
    let mut steps = 0;
    loop {
        let path = dir.path().join(format!("state-{steps}"));
        fill(&StateDir::open(&path, &input, 1, false).unwrap());
        fs::write(path.join("notes"), "mine").unwrap();
        let crashed = crash::after(steps, || StateDir::open(&path, &input, 4, true).map(drop)).0.is_err();
        // Whoever comes next finds the old job, whole, or the new one, empty.
        match StateDir::open(&path, &input, 1, false) {
            Ok(state) if state.counts().exists() => {
                assert!(state.checkpoints().join("1").exists() && state.output(0).join("1.base").exists());
            }
            Ok(state) => assert!(!state.checkpoints().exists() && !state.output(0).exists()),
            Err(StateDirError::OtherJob { .. }) => {
                let state = StateDir::open(&path, &input, 4, false).unwrap();
                assert!(!state.counts().exists() && !state.checkpoints().exists() && !state.output(0).exists());
            }
            Err(error) => panic!("after {steps} steps: {error}"),
        }
        if !crashed {
            break;
        }
        steps += 1;
    }
    assert!(steps > 6);
}

#[test]
fn the_order_of_the_input_is_part_of_it() {
    let (dir, _) = setting("a");
    fs::write(dir.path().join("other"), "b").unwrap();
    let paths = [dir.path().join("input"), dir.path().join("other")];
    let collect = |order: &[usize]| {
        let paths: Vec<_> = order.iter().map(|&at| paths[at].clone()).collect();
        Input::collect(&paths, &|_| false).unwrap()
    };
    let state = dir.path().join("state");
    StateDir::open(&state, &collect(&[0, 1]), 1, false).unwrap();
    for (order, said) in [(&[1, 0][..], "`other` comes at another place"), (&[0, 1, 1], "more or less often")] {
        let error = StateDir::open(&state, &collect(order), 1, false).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
