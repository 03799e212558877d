use proptest::prelude::*;

use super::*;
use crate::share::{Position, ReadError, Reader};

fn no_skip(_: &Path) -> bool {
    false
}

fn files(contents: &[&[u8]]) -> (tempfile::TempDir, Input) {
    let dir = tempfile::tempdir().unwrap();
    for (number, text) in contents.iter().enumerate() {
        fs::write(dir.path().join(format!("f{number:03}")), text).unwrap();
    }
    let input = Input::collect(&[dir.path().to_owned()], &no_skip).unwrap();
    (dir, input)
}

/// The lines of a file, without their newlines.
fn lines_of(text: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<_> = text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    if lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    lines
}

/// Reads a share from `position` on, `at_most` lines at a time.
fn read_from(share: &Share, position: Position, at_most: u64) -> Vec<(Vec<u8>, Position)> {
    let mut reader = Reader::new(share.clone(), position).unwrap();
    let mut batches = Vec::new();
    loop {
        let mut batch = Vec::new();
        let before = reader.position().lines;
        let lines = reader.read(at_most, &mut batch).unwrap();
        assert!(lines <= at_most, "{lines} lines of {at_most}");
        assert_eq!(reader.position().lines, before + lines);
        assert_eq!(batch.is_empty(), lines == 0 && reader.is_done());
        if batch.is_empty() {
            assert!(share.is_read(reader.position()));
            return batches;
        }
        batches.push((batch, reader.position()));
    }
}

fn text_of(batches: &[(Vec<u8>, Position)]) -> Vec<u8> {
    batches.iter().flat_map(|(batch, _)| batch.clone()).collect()
}

#[test]
fn folders_are_read_in_the_order_of_names_without_hidden_files_and_target() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["b/deep", ".git", "target", "state"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    for file in ["z", "a", "b/deep/x", "b/c", ".hidden", ".git/config", "target/out", "state/counts.tsv"] {
        fs::write(dir.path().join(file), file).unwrap();
    }
    let folder = dir.path().to_owned();
    let input = Input::collect(&[folder.clone(), folder.join("z")], &|path| path.ends_with("state")).unwrap();
    let top = fs::canonicalize(&folder).unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let names: Vec<_> = input.fingerprints().iter().map(|file| file.name.clone()).collect();
    assert_eq!(
        names,
        [format!("{top}/a"), format!("{top}/b/c"), format!("{top}/b/deep/x"), format!("{top}/z"), "z".into()]
    );
    assert_eq!((input.lines(), input.bytes()), (5, 1 + 3 + 8 + 1 + 1));
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none");
    let error = Input::collect(&[none], &no_skip).unwrap_err();
    assert!(error.to_string().contains("none` can't be read"), "{error}");
    let error = Input::collect(&[dir.path().to_owned()], &no_skip).unwrap_err();
    assert!(error.to_string().contains("no file to count"), "{error}");
    let error = Input::collect(&[PathBuf::from("/dev/null")], &no_skip).unwrap_err();
    assert!(matches!(error, InputError::NotAFile(_)), "{error}");
}

#[test]
fn a_changed_byte_is_other_input() {
    let (dir, input) = files(&[b"one\ntwo"]);
    fs::write(dir.path().join("f000"), "one\ntwp").unwrap();
    let other = Input::collect(&[dir.path().to_owned()], &no_skip).unwrap();
    assert_ne!(input.fingerprints(), other.fingerprints());
    assert_eq!(input.fingerprints()[0].bytes, other.fingerprints()[0].bytes);
}

#[test]
fn a_word_larger_than_a_block_is_read_whole() {
    let word = vec![b'w'; 3 * BLOCK + 17];
    let mut text = b"a ".to_vec();
    text.extend(&word);
    text.extend(b" z\nlast");
    let (_dir, input) = files(&[&text]);
    let share = &input.shares(1).unwrap()[0];
    let batches = read_from(share, share.start(), u64::MAX);
    text.push(b'\n');
    assert!(text_of(&batches) == text);
    assert!(batches.iter().any(|(batch, _)| batch.windows(word.len()).any(|part| part == word)));
    assert_eq!(batches.last().unwrap().1.lines, 2);
}

#[test]
fn a_file_that_shrinks_is_noticed() {
    let (dir, input) = files(&[b"one\ntwo\n"]);
    let share = &input.shares(1).unwrap()[0];
    fs::write(dir.path().join("f000"), "one").unwrap();
    let error = Reader::new(share.clone(), share.start()).unwrap().read(9, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, ReadError::Changed { expected: 8, got: 3, .. }), "{error}");
}

#[test]
fn a_position_of_another_share_is_refused() {
    let (_dir, input) = files(&[b"one\ntwo\nthree\nfour\n"]);
    let shares = input.shares(2).unwrap();
    let error = Reader::new(shares[0].clone(), Position { file: 0, offset: 16, lines: 0 }).err().unwrap();
    assert!(matches!(error, ReadError::Foreign { file: 0, offset: 16 }), "{error}");
    assert!(Reader::new(shares[0].clone(), Position { file: 7, offset: 0, lines: 0 }).is_err());
}

proptest! {
    #[test]
    fn every_line_goes_to_the_worker_of_its_first_byte(
        texts in proptest::collection::vec("[ab \n]{0,40}", 1..6),
        workers in 1..9_u32,
        at_most in 1..5_u64,
    ) {
        let bytes: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
        let (_dir, input) = files(&bytes);
        let total: u64 = bytes.iter().map(|text| text.len() as u64).sum();
        let mut expected = vec![Vec::new(); workers as usize];
        let mut file_start = 0_u64;
        for text in &bytes {
            let mut first = file_start;
            for line in lines_of(text) {
                let owner = (0..workers)
                    .rfind(|&worker| total * u64::from(worker) / u64::from(workers) <= first)
                    .unwrap();
                first += line.len() as u64 + 1;
                expected[owner as usize].push(line);
            }
            file_start += text.len() as u64;
        }
        prop_assert_eq!(input.lines(), expected.iter().map(|lines| lines.len() as u64).sum::<u64>());
        for (share, lines) in input.shares(workers).unwrap().iter().zip(expected) {
            let all = read_from(share, share.start(), u64::MAX);
            prop_assert_eq!(&lines_of(&text_of(&all)), &lines);
            let slow = read_from(share, share.start(), at_most);
            prop_assert_eq!(lines_of(&text_of(&slow)), lines);
            // From each position in between, the rest is what is left.
            for (done, (_, position)) in slow.iter().enumerate() {
                prop_assert_eq!(text_of(&read_from(share, *position, 2)), text_of(&slow[done + 1..]));
            }
        }
    }
}
