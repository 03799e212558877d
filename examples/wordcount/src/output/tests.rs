use std::collections::BTreeMap;

use super::*;
use crate::durable::crash;

fn counts(text: &str) -> Counts {
    let mut counts = Counts::default();
    counts.add_text(&mut text.as_bytes().to_vec());
    counts
}

fn at(epoch: u64, run: u64) -> Transaction {
    Transaction { epoch: Epoch::new(epoch), run: RunId::new(run) }
}

fn open(folder: &Path, from: Option<u64>, transactions: &[Transaction]) -> Output {
    Output::open(folder.to_owned(), from.map(Epoch::new), transactions).unwrap()
}

fn totals(output: &Output) -> BTreeMap<String, u64> {
    let totals = output.totals().unwrap();
    totals.iter().map(|(word, count)| (String::from_utf8(word.to_vec()).unwrap(), count)).collect()
}

fn words(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn only_what_is_committed_counts() {
    let dir = tempfile::tempdir().unwrap();
    let output = open(dir.path(), None, &[]);
    output.pre_commit(at(1, 1), &counts("a b")).unwrap();
    assert_eq!(totals(&output), words(&[]));
    output.commit(&[at(1, 1)]).unwrap();
    output.commit(&[at(1, 1)]).unwrap();
    output.pre_commit(at(2, 1), &counts("a c")).unwrap();
    assert_eq!(totals(&output), words(&[("a", 1), ("b", 1)]));
}

#[test]
fn a_new_run_commits_what_its_checkpoint_names_and_drops_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let output = open(dir.path(), None, &[]);
    output.pre_commit(at(1, 1), &counts("a")).unwrap();
    output.pre_commit(at(2, 1), &counts("b")).unwrap();
    fs::write(dir.path().join("00000000000000000003.base.tmp"), "half").unwrap();
    let output = open(dir.path(), Some(1), &[at(1, 1)]);
    assert_eq!(totals(&output), words(&[("a", 1)]));
    assert_eq!(names(dir.path()), ["00000000000000000001.base"]);
    // The same start again, and the same epoch of another run.
    let output = open(dir.path(), Some(1), &[at(1, 1)]);
    output.pre_commit(at(2, 3), &counts("b b")).unwrap();
    output.commit(&[at(2, 3)]).unwrap();
    assert_eq!(totals(&output), words(&[("a", 1), ("b", 2)]));
}

#[test]
fn output_ahead_of_the_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = open(dir.path(), None, &[]);
    output.pre_commit(at(5, 1), &counts("a")).unwrap();
    output.commit(&[at(5, 1)]).unwrap();
    for from in [None, Some(Epoch::new(4))] {
        let before = names(dir.path());
        let error = Output::open(dir.path().to_owned(), from, &[]).unwrap_err();
        assert!(matches!(error, OutputError::Ahead { .. }), "{error}");
        assert!(error.to_string().contains("epoch 5") && error.to_string().contains("--fresh"), "{error}");
        assert_eq!(names(dir.path()), before);
    }
    open(dir.path(), Some(5), &[at(5, 1)]);
    let error = Output::open(dir.path().to_owned(), Some(Epoch::new(4)), &[]).unwrap_err();
    assert!(matches!(error, OutputError::Ahead { .. }), "folded output counts as committed: {error}");
}

#[test]
fn lost_and_damaged_output_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let error = Output::open(dir.path().to_owned(), Some(Epoch::new(2)), &[at(2, 1)]).unwrap_err();
    assert!(matches!(error, OutputError::Lost { .. }), "{error}");
    fs::write(dir.path().join("00000000000000000002-1.counts"), "a\t1\n#\t2\t00000000\n").unwrap();
    let error = Output::open(dir.path().to_owned(), Some(Epoch::new(2)), &[at(2, 1)]).unwrap_err();
    assert!(matches!(error, OutputError::Damaged { .. }), "{error}");
    assert!(Transaction::decode(b"?").is_err());
}

#[test]
fn many_files_are_folded_while_the_job_runs() {
    let dir = tempfile::tempdir().unwrap();
    let output = open(dir.path(), None, &[]);
    for epoch in 1..=MANY as u64 + 3 {
        output.pre_commit(at(epoch, 1), &counts("a b")).unwrap();
        output.commit(&[at(epoch, 1)]).unwrap();
        output.fold_if_many().unwrap();
    }
    let all = MANY as u64 + 3;
    assert_eq!(totals(&output), words(&[("a", all), ("b", all)]));
    assert_eq!(names(dir.path()).len(), 1 + 3);
}

#[test]
fn the_table_for_people_adds_all_workers_up() {
    let dir = tempfile::tempdir().unwrap();
    let outputs: Vec<_> = ["a b", "b c"]
        .iter()
        .enumerate()
        .map(|(number, text)| {
            let output = open(&dir.path().join(format!("worker-{number}")), None, &[]);
            output.pre_commit(at(1, 1), &counts(text)).unwrap();
            output.commit(&[at(1, 1)]).unwrap();
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
    transactions: Vec<Transaction>,
    consumed: usize,
}

/// One run over `input`, from the stored checkpoint on, until the world ends or all is committed.
fn run(folder: &Path, run: u64, input: &[&str], stored: &mut Checkpoint) -> Result<Output, OutputError> {
    let output = Output::open(folder.to_owned(), stored.epoch, &stored.transactions)?;
    for (consumed, text) in input.iter().enumerate().skip(stored.consumed) {
        let epoch = stored.epoch.unwrap_or_default().next();
        let transaction = Transaction { epoch, run: RunId::new(run) };
        output.pre_commit(transaction, &counts(text))?;
        // The manifest's publication is one step, tested elsewhere.
        *stored = Checkpoint { epoch: Some(epoch), transactions: vec![transaction], consumed: consumed + 1 };
        output.commit(&stored.transactions)?;
        output.fold(2)?;
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
            let done = crash::after(first, || run(dir.path(), 1, &input, &mut stored)).is_ok();
            let again = crash::after(second, || run(dir.path(), 2, &input, &mut stored)).is_err();
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
