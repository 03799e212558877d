//! The text of a table of counts: one `word<TAB>count` a line, sorted by the bytes of the word.
//!
//! The sink's own files end with a line that has the number of words and a checksum of all before it, so that a damaged file is
//! never taken for a sound one.

use std::io::Write;

use crate::words::Counts;

/// The table for people.
pub(crate) fn lines(counts: &Counts) -> Vec<u8> {
    let mut text = Vec::with_capacity(counts.len() * 12);
    for (word, count) in counts.sorted() {
        text.extend_from_slice(word);
        // Writing to memory can't fail.
        let _ = writeln!(text, "\t{count}");
    }
    text
}

/// The table with its last line.
pub(crate) fn encode(counts: &Counts) -> Vec<u8> {
    let mut text = lines(counts);
    let crc = crc32fast::hash(&text);
    let _ = writeln!(text, "#\t{}\t{crc:08x}", counts.len());
    text
}

/// Reads what [`encode`] gives. The error says what is wrong with it.
pub(crate) fn decode(text: &[u8]) -> Result<Counts, String> {
    let split = memchr::memrchr(b'#', text).ok_or("expected a last line with a checksum, got none")?;
    let (table, trailer) = text.split_at(split);
    let mut counts = Counts::default();
    for line in table.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let tab = memchr::memchr(b'\t', line).ok_or("expected `word<TAB>count`, got a line without a tab")?;
        let count = str::from_utf8(&line[tab + 1..]).ok().and_then(|digits| digits.parse().ok());
        counts.add(&line[..tab], count.ok_or("expected a count behind the tab, got something else")?);
    }
    let expected = format!("#\t{}\t{:08x}\n", counts.len(), crc32fast::hash(table));
    if trailer == expected.as_bytes() {
        Ok(counts)
    } else {
        Err(format!("expected the last line {expected:?}, got {:?}", String::from_utf8_lossy(trailer)))
    }
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
            assert_eq!(decode(&encode(&counts)).unwrap().sorted(), counts.sorted());
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let whole = encode(&sample());
        for at in 0..whole.len() {
            assert!(decode(&whole[..at]).is_err(), "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(decode(&changed).is_err(), "changed at {at}");
        }
    }
}
