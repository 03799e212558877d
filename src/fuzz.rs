//! Whatever bytes come from outside: no parser panics, and what one takes is the same when it is
//! written and read again.
//!
//! Each target starts from the corpus in `tests/corpus/` and changes it. `WINDDOWN_FUZZ_CASES` says
//! how often; `docs/testing.md` has more.

use std::{fs, path::Path};

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};

use crate::{contracts::StopRequest, limits::Limits, text::Printable};

/// What is known of a kind of text: files of `tests/corpus`, each in its sound or once-harmful
/// form.
fn corpus(kind: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One change of a text.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Drop(Index, Index),
    Repeat(Index, Index),
    Insert(Index, Vec<u8>),
    Join(Index, Index),
}

/// What formats stumble over: ends of numbers, depth, quotes, signs, ends of lines, what is no
/// UTF-8.
const WORDS: [&[u8]; 18] = [
    b"\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80",
    b"18446744073709551616",
    b"-1",
    b"1e309",
    b"null",
    b"[[[[[[[[",
    b"{\"",
    b"\\u0000",
    b"\\ud800",
    b"\n",
    b"\x1b[2J",
    b"\"",
    b"NaN",
    b"0x10",
    b"\xf0\x9f",
    b"99999999999999999999years",
];

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    let word = (0..WORDS.len()).prop_map(|word| WORDS[word].to_vec());
    let piece = prop_oneof![word, proptest::collection::vec(any::<u8>(), 1..8)];
    let change = prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 0_u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        at().prop_map(Change::Cut),
        (at(), at()).prop_map(|(a, b)| Change::Drop(a, b)),
        (at(), at()).prop_map(|(a, b)| Change::Repeat(a, b)),
        (at(), piece).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (at(), at()).prop_map(|(a, b)| Change::Join(a, b)),
    ];
    proptest::collection::vec(change, 0..6)
}

fn apply(text: &mut Vec<u8>, change: Change, seeds: &[Vec<u8>]) {
    let place = |at: Index| at.index(text.len() + 1);
    let range = |a: Index, b: Index| place(a).min(place(b))..place(a).max(place(b));
    match change {
        Change::Insert(at, piece) => drop(text.splice(place(at)..place(at), piece)),
        Change::Cut(at) => text.truncate(place(at)),
        Change::Drop(a, b) => drop(text.drain(range(a, b))),
        Change::Repeat(a, b) => {
            let range = range(a, b);
            let piece = text[range.clone()].to_vec();
            drop(text.splice(range.start..range.start, piece));
        }
        Change::Join(a, b) => {
            let from = a.get(seeds);
            text.extend_from_slice(&from[b.index(from.len() + 1)..]);
        }
        Change::Set(at, byte) => {
            if !text.is_empty() {
                let at = at.index(text.len());
                text[at] = byte;
            }
        }
        Change::Flip(at, bit) => {
            if !text.is_empty() {
                let at = at.index(text.len());
                text[at] ^= 1 << bit;
            }
        }
    }
}

/// Gives `take` the corpus as it is, and then changed; it says whether it has taken a text.
fn fuzz(kind: &str, take: impl Fn(&[u8]) -> bool) {
    let seeds = corpus(kind);
    let sound = seeds.iter().filter(|seed| take(seed)).count();
    assert!(sound > 0, "nothing of the corpus of `{kind}` is sound any more");
    let cases = std::env::var("WINDDOWN_FUZZ_CASES").map_or(2000, |cases| cases.parse().unwrap());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let texts = (any::<Index>(), changes()).prop_map(|(seed, changes)| {
        let mut text = seed.get(&seeds).clone();
        for change in changes {
            apply(&mut text, change, &seeds);
        }
        text
    });
    let outcome = TestRunner::new(config).run(&texts, |text| {
        take(&text);
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn a_stop_request_is_read_or_refused() {
    fuzz("request", |text| {
        let text = String::from_utf8_lossy(text);
        let read = text.parse::<StopRequest>();
        match &read {
            Ok(request) => assert_eq!(request.to_string(), text),
            Err(error) => assert!(!error.to_string().contains(char::is_control)),
        }
        read.is_ok()
    });
}

#[test]
fn limits_are_read_or_refused() {
    fuzz("limits", |text| {
        let Ok(limits) = serde_json::from_slice::<Limits>(text) else { return false };
        let again = serde_json::to_vec(&limits).unwrap();
        assert_eq!(serde_json::from_slice::<Limits>(&again).unwrap(), limits);
        for phase in crate::machine::PhaseKind::ALL.iter().copied() {
            let _ = limits.worst_case(phase, crate::drive::OnSpentCheckpoint::Escalate);
        }
        let _ = limits.worst_record();
        true
    });
}

#[test]
fn anything_can_be_shown() {
    fuzz("request", |text| {
        let shown = Printable(&String::from_utf8_lossy(text)).to_string();
        assert!(!shown.contains(char::is_control));
        true
    });
}

#[cfg(any(feature = "journal", feature = "sqlx"))]
#[test]
fn a_journals_record_is_read_or_refused() {
    fuzz("journal", crate::journal::takes);
}

#[cfg(feature = "object-store")]
#[test]
fn a_manifest_is_read_or_refused() {
    fuzz("manifest", crate::checkpoint::takes);
}

#[cfg(all(feature = "process", target_os = "linux"))]
#[test]
fn a_process_record_is_read_or_refused() {
    fuzz("process", crate::process::takes);
}

#[cfg(feature = "grpc")]
#[test]
fn a_message_is_read_or_refused() {
    fuzz("wire", crate::grpc::takes);
}

#[cfg(feature = "grpc")]
#[test]
fn a_workers_address_is_read_or_refused() {
    fuzz("address", |text| crate::grpc::takes_address(&String::from_utf8_lossy(text)));
}
