//! The expected result: a plain count of the input, which shares no code with the word count.

use std::collections::BTreeMap;

/// How often each word occurs.
pub(crate) type Words = BTreeMap<String, u64>;

/// Counts the words of a text: maximal sequences of ASCII letters, in lower case.
pub(crate) fn count(text: &[u8], words: &mut Words) {
    for word in text.split(|byte| !byte.is_ascii_alphabetic()).filter(|word| !word.is_empty()) {
        *words.entry(String::from_utf8_lossy(word).to_ascii_lowercase()).or_default() += 1;
    }
}

/// What is wrong with a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Occurrences of words that were not counted.
    pub(crate) lost: u64,
    /// Occurrences of words that were counted but do not exist.
    pub(crate) duplicated: u64,
}

/// Compares the contents of a `counts.tsv` byte by byte: order and format are part of the result.
///
/// # Errors
/// When it is no table of words and counts.
pub(crate) fn compare(expected: &Words, table: &str) -> Result<Difference, String> {
    let mut found = Words::new();
    for line in table.lines() {
        let entry = line.split_once('\t').and_then(|(word, count)| Some((word, count.parse().ok()?)));
        let (word, count) = entry.ok_or_else(|| format!("expected `word<TAB>count`, got {line:?}"))?;
        if found.insert(word.to_owned(), count).is_some() {
            return Err(format!("expected each word once, got `{word}` again"));
        }
    }
    let mut difference = Difference::default();
    for word in expected.keys().chain(found.keys().filter(|&word| !expected.contains_key(word))) {
        let of = |words: &Words| words.get(word).copied().unwrap_or_default();
        difference.lost += of(expected).saturating_sub(of(&found));
        difference.duplicated += of(&found).saturating_sub(of(expected));
    }
    if difference == Difference::default() && table != text(expected) {
        return Err("expected words in their order, each on a line, got the same words in another form".to_owned());
    }
    Ok(difference)
}

/// The table that is expected.
pub(crate) fn text(words: &Words) -> String {
    let line = |(word, count)| format!("{word}\t{count}\n");
    words.iter().map(line).collect()
}

/// A text of this many lines: words in both cases, separated by blanks, digits, other alphabets and
/// broken UTF-8. One line in `sparse` has words; with few words, many checkpoints have nothing to
/// commit.
pub(crate) fn write(lines: u32, sparse: u32, random: &mut fastrand::Rng) -> Vec<u8> {
    const SEPARATORS: [&[u8]; 7] = [b" ", b" ", b", ", b"-", b"7", b"\xff\xfe", "\u{df}".as_bytes()];
    let mut text = Vec::new();
    for _ in 0..lines {
        let words = if random.u32(..sparse) == 0 { random.u32(..8) } else { 0 };
        for _ in 0..words {
            for _ in 0..=random.u32(..3) {
                text.push(b"abcdefXYZA"[random.usize(..10)]);
            }
            text.extend_from_slice(SEPARATORS[random.usize(..SEPARATORS.len())]);
        }
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lost_and_every_duplicated_word_is_counted() {
        let mut words = Words::new();
        count(b"b A a\xffb-a", &mut words);
        assert_eq!(text(&words), "a\t3\nb\t2\n");
        let difference = |lost, duplicated| Ok(Difference { lost, duplicated });
        assert_eq!(compare(&words, "a\t3\nb\t2\n"), difference(0, 0));
        assert_eq!(compare(&words, "a\t2\nb\t2\n"), difference(1, 0));
        assert_eq!(compare(&words, "b\t4\n"), difference(3, 2));
        assert_eq!(compare(&words, "a\t3\nb\t2\nc\t1\n"), difference(0, 1));
        assert_eq!(compare(&words, ""), difference(5, 0));
        for unsound in ["a 3\n", "a\t3\na\t3\nb\t2\n", "b\t2\na\t3\n", "a\t3\nb\t2"] {
            assert!(compare(&words, unsound).is_err(), "{unsound:?}");
        }
    }
}
