//! The text of a table of counts: one `word<TAB>count` a line, sorted by the bytes of the word.

use std::io::Write;

use crate::words::Counts;

/// The table.
pub(crate) fn lines(counts: &Counts) -> Vec<u8> {
    let mut text = Vec::with_capacity(counts.len() * 12);
    for (word, count) in counts.sorted() {
        text.extend_from_slice(word);
        // Writing to memory can't fail.
        let _ = writeln!(text, "\t{count}");
    }
    text
}

/// Reads what [`lines`] gives. The error says what is wrong with it.
pub(crate) fn decode(text: &[u8]) -> Result<Counts, String> {
    let mut counts = Counts::default();
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let tab = memchr::memchr(b'\t', line).ok_or("expected `word<TAB>count`, got a line without a tab")?;
        let count = str::from_utf8(&line[tab + 1..]).ok().and_then(|digits| digits.parse().ok());
        counts.add(&line[..tab], count.ok_or("expected a count behind the tab, got something else")?);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Counts {
        let mut counts = Counts::default();
        counts.add_text(&mut b"b a b\nzz".to_vec());
        counts
    }

    #[test]
    fn people_read_sorted_lines() {
        assert_eq!(lines(&sample()), b"a\t1\nb\t2\nzz\t1\n");
        assert_eq!(lines(&Counts::default()), b"");
    }

    #[test]
    fn what_was_written_is_read() {
        for counts in [sample(), Counts::default()] {
            assert_eq!(decode(&lines(&counts)).unwrap().sorted(), counts.sorted());
        }
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for text in ["a 1\n", "a\tone\n", "a\t-1\n", "a\t1\nb"] {
            assert!(decode(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
