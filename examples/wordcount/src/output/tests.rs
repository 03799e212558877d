use std::collections::BTreeMap;

use winddown::durable::crash;

use super::*;

fn counts(text: &str) -> Counts {
    let mut counts = Counts::default();
    counts.add_text(&mut text.as_bytes().to_vec());
    counts
}

fn try_open(folder: &Path, run: u64, from: Option<u64>, parts: &[Part]) -> Result<Output, OutputError> {
    Output::open(folder, RunId::new(run), from.map(Epoch::new), parts)
}

fn open(folder: &Path, run: u64, from: Option<u64>, parts: &[Part]) -> Output {
    try_open(folder, run, from, parts).unwrap()
}

impl Output {
    /// The barrier of a checkpoint: the parts that it names.
    fn barrier(&mut self, epoch: u64, text: &str) -> Vec<Part> {
        self.pre_commit(Epoch::new(epoch), &counts(text)).unwrap();
        self.parts()
    }

    /// The checkpoint is complete.
    fn complete(&mut self, epoch: u64) {
        let parts = self.pending().to_vec();
        self.commit(Epoch::new(epoch), &parts).unwrap();
    }
}

fn totals(output: &Output) -> BTreeMap<String, u64> {
    let totals = output.totals().unwrap();
    totals.iter().map(|(word, count)| (String::from_utf8(word.to_vec()).unwrap(), count)).collect()
}

fn words(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect()
}

/// Every file with its contents.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = names(folder).unwrap().into_iter();
    names.map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

#[test]
fn only_what_is_committed_counts() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = open(dir.path(), 1, None, &[]);
    let parts = output.barrier(1, "a b");
    assert_eq!(totals(&output), words(&[]));
    output.complete(1);
    output.commit(Epoch::new(1), &parts).unwrap();
    output.barrier(2, "a c");
    assert_eq!(totals(&output), words(&[("a", 1), ("b", 1)]));
}

#[test]
fn a_new_run_commits_what_its_checkpoint_names_and_drops_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = open(dir.path(), 1, None, &[]);
    let named = output.barrier(1, "a");
    output.barrier(2, "b");
    fs::write(dir.path().join("00000000000000000001-1.base"), "half").unwrap();
    fs::write(dir.path().join("notes"), "mine").unwrap();
    let output = open(dir.path(), 2, Some(1), &named);
    assert_eq!(totals(&output), words(&[("a", 1)]));
    assert_eq!(files(dir.path()).into_keys().collect::<Vec<_>>(), ["00000000000000000001-1.counts", "notes"]);
    // The same start again, and the same epoch of another run.
    let mut output = open(dir.path(), 3, Some(1), &named);
    output.barrier(2, "b b");
    output.complete(2);
    assert_eq!(totals(&output), words(&[("a", 1), ("b", 2)]));
}

#[test]
fn output_ahead_of_the_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = open(dir.path(), 1, None, &[]);
    output.barrier(5, "a");
    output.complete(5);
    let before = files(dir.path());
    for from in [None, Some(4)] {
        let error = try_open(dir.path(), 2, from, &[]).unwrap_err();
        assert!(matches!(error, OutputError::Ahead { .. }), "{error}");
        assert!(error.to_string().contains("epoch 5") && error.to_string().contains("--fresh"), "{error}");
        assert_eq!(files(dir.path()), before);
    }
}

/// One committed part, one that is pending, and a base; each is taken away, cut, altered and
/// exchanged.
#[test]
fn anything_but_the_named_parts_is_refused_and_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = open(dir.path(), 1, None, &[]);
    for (epoch, text) in [(1, "a b"), (2, "b c")] {
        output.barrier(epoch, text);
        output.complete(epoch);
    }
    output.merge_if(2).unwrap();
    output.barrier(3, "d e");
    output.complete(3);
    let named = output.barrier(4, "f g");
    assert_eq!(named.len(), 3);

    let refused = |name: &str, got: &str| {
        let before = files(dir.path());
        for result in
            [Output::check(dir.path(), Some(Epoch::new(4)), &named), try_open(dir.path(), 2, Some(4), &named).map(drop)]
        {
            let error = result.unwrap_err();
            assert!(matches!(error, OutputError::WrongPart { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(got) && text.contains("--fresh"), "{name}, {got}: {text}");
        }
        assert_eq!(files(dir.path()), before);
    };
    let whole = files(dir.path());
    let parts = ["00000000000000000002-1.base", "00000000000000000003-1.counts", "00000000000000000004-1.pending"];
    for name in parts {
        let path = dir.path().join(name);
        fs::remove_file(&path).unwrap();
        refused(name.split_once('.').unwrap().0, "got no file");
        for at in 0..whole[name].len() {
            fs::write(&path, &whole[name][..at]).unwrap();
            refused(name, &format!("got {at} bytes"));
            let mut altered = whole[name].clone();
            altered[at] ^= 1;
            fs::write(&path, &altered).unwrap();
            refused(name, "with checksum");
        }
        for other in parts.iter().filter(|&&other| other != name) {
            fs::write(&path, &whole[*other]).unwrap();
            refused(name, "with checksum");
        }
        fs::write(&path, &whole[name]).unwrap();
    }
    let output = open(dir.path(), 2, Some(4), &named);
    let expected = [("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 1), ("f", 1), ("g", 1)];
    assert_eq!(totals(&output), words(&expected));
}

#[test]
fn a_part_that_vanishes_while_the_job_runs_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = open(dir.path(), 1, None, &[]);
    let parts = output.barrier(1, "a");
    fs::remove_file(dir.path().join("00000000000000000001-1.pending")).unwrap();
    assert!(matches!(output.commit(Epoch::new(1), &parts), Err(OutputError::WrongPart { .. })));
    let foreign = Part::new(Epoch::new(9), RunId::new(1), Span::Counts, b"");
    assert!(matches!(output.commit(Epoch::new(9), &[foreign]), Err(OutputError::WrongPart { .. })));
}

#[test]
fn a_checkpoint_without_a_list_of_parts_is_refused() {
    assert_eq!(Part::restored(None, None).unwrap(), []);
    for snapshot in [None, Some(&b""[..]), Some(b"?")] {
        let error = Part::restored(Some(Epoch::new(1)), snapshot).unwrap_err();
        assert!(matches!(error, OutputError::Snapshot(_)), "{error}");
    }
    let part = Part::new(Epoch::new(1), RunId::new(2), Span::Counts, b"x\t1\n");
    assert_eq!(Part::restored(Some(part.epoch), Some(&Part::encode(&[part]).unwrap())).unwrap(), [part]);
}

#[test]
fn many_files_are_merged_while_the_job_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = open(dir.path(), 1, None, &[]);
    let mut most = 0;
    let all = 3 * MANY as u64;
    for epoch in 1..=all {
        output.barrier(epoch, "a b");
        output.complete(epoch);
        most = most.max(names(dir.path()).unwrap().len());
    }
    assert_eq!(totals(&output), words(&[("a", all), ("b", all)]));
    assert_eq!(most, MANY + 1, "the base, and what the last checkpoint names");
}

/// A crash comes after the merge: the next run starts from a checkpoint that does not know the
/// base.
#[test]
fn merged_parts_stay_until_a_checkpoint_names_the_base() {
    let dir = tempfile::tempdir().unwrap();
    let mut output = open(dir.path(), 1, None, &[]);
    output.barrier(1, "a");
    output.complete(1);
    output.barrier(2, "b");
    output.complete(2);
    let old = output.parts();
    // The barrier of 3 comes before the merge, the completion of 3 after it.
    let named = output.barrier(3, "c");
    output.merge_if(2).unwrap();
    Output::check(dir.path(), Some(Epoch::new(2)), &old).unwrap();
    output.complete(3);
    Output::check(dir.path(), Some(Epoch::new(3)), &named).unwrap();
    let named = output.barrier(4, "d");
    assert_eq!(named.len(), 3);
    output.complete(4);
    assert_eq!(names(dir.path()).unwrap().len(), 3);
    let output = open(dir.path(), 2, Some(4), &named);
    assert_eq!(totals(&output), words(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]));
}

#[test]
fn the_table_for_people_adds_all_workers_up() {
    let dir = tempfile::tempdir().unwrap();
    let outputs: Vec<_> = ["a b", "b c"]
        .iter()
        .enumerate()
        .map(|(number, text)| {
            let mut output = open(&dir.path().join(format!("worker-{number}")), 1, None, &[]);
            output.barrier(1, text);
            output.complete(1);
            output
        })
        .collect();
    let table = dir.path().join("counts.tsv");
    merge(&outputs, &table).unwrap();
    assert_eq!(fs::read_to_string(table).unwrap(), "a\t1\nb\t2\nc\t1\n");
}

/// What a checkpoint store would hold, and the words that are still to come.
#[derive(Clone, Default)]
struct Checkpoint {
    epoch: Option<Epoch>,
    parts: Vec<Part>,
    consumed: usize,
}

/// One run over `input`, from the stored checkpoint on, until the world ends or all is committed.
fn run(folder: &Path, run: u64, input: &[&str], stored: &mut Checkpoint) -> Result<Output, OutputError> {
    let mut output = Output::open(folder, RunId::new(run), stored.epoch, &stored.parts)?;
    for (consumed, text) in input.iter().enumerate().skip(stored.consumed) {
        let epoch = stored.epoch.unwrap_or_default().next();
        output.pre_commit(epoch, &counts(text))?;
        let pending = output.pending().to_vec();
        // The manifest's publication is one step, tested elsewhere.
        *stored = Checkpoint { epoch: Some(epoch), parts: output.parts(), consumed: consumed + 1 };
        output.commit(epoch, &pending)?;
        output.merge_if(2)?;
    }
    Ok(output)
}

#[test]
fn a_crash_between_any_two_steps_loses_and_doubles_nothing() {
    let input = ["a b", "b", "c a", "b b"];
    let expected = words(&[("a", 2), ("b", 4), ("c", 1)]);
    let mut crashes = 0;
    // The second crash hits the recovery from the first.
    for second in [2, 5, 9, 14, 1000] {
        for first in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let mut stored = Checkpoint::default();
            let done = crash::after(first, || run(dir.path(), 1, &input, &mut stored)).0.is_ok();
            let again = crash::after(second, || run(dir.path(), 2, &input, &mut stored)).0.is_err();
            crashes += u32::from(!done) + u32::from(again);
            let output = run(dir.path(), 3, &input, &mut stored).unwrap();
            assert_eq!(totals(&output), expected, "crashes after {first} and {second} steps");
            if done {
                break;
            }
        }
    }
    assert!(crashes > 200, "only {crashes} crashes were tried");
}
