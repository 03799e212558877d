//! Words and their counts.

use std::collections::{HashMap, hash_map};

use foldhash::fast::RandomState;

/// For each byte: the lower-case letter it stands for in a word, or 0 if it separates words.
const LETTER: [u8; 256] = {
    let mut table = [0; 256];
    let mut letter = b'a';
    while letter <= b'z' {
        table[letter as usize] = letter;
        table[letter.to_ascii_uppercase() as usize] = letter;
        letter += 1;
    }
    table
};

/// How often each word occurs. A word is a maximal run of ASCII letters, lower-cased.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    words: HashMap<Box<[u8]>, u64, RandomState>,
}

impl Counts {
    /// Adds every word of `text`, and lower-cases it in place. Both ends of the text are word
    /// boundaries.
    pub(crate) fn add_text(&mut self, text: &mut [u8]) {
        let mut rest = text;
        loop {
            let Some(start) = rest.iter().position(|&byte| LETTER[byte as usize] != 0) else { return };
            rest = &mut rest[start..];
            let mut length = 0;
            for byte in &mut *rest {
                let letter = LETTER[*byte as usize];
                if letter == 0 {
                    break;
                }
                *byte = letter;
                length += 1;
            }
            let (word, after) = rest.split_at_mut(length);
            self.add(word, 1);
            rest = after;
        }
    }

    /// Adds `count` occurrences of a word. A word that is known already costs no allocation.
    pub(crate) fn add(&mut self, word: &[u8], count: u64) {
        match self.words.get_mut(word) {
            Some(total) => *total += count,
            None => {
                self.words.insert(word.into(), count);
            }
        }
    }

    /// Adds all of `other`.
    pub(crate) fn merge(&mut self, other: Self) {
        for (word, count) in other.words {
            match self.words.entry(word) {
                hash_map::Entry::Occupied(mut total) => *total.get_mut() += count,
                hash_map::Entry::Vacant(place) => {
                    place.insert(count);
                }
            }
        }
    }

    /// Whether there is no word.
    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How many different words there are.
    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }

    /// Words and counts, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.words.iter().map(|(word, &count)| (&**word, count))
    }

    /// Words and counts, sorted by the bytes of the word.
    pub(crate) fn sorted(&self) -> Vec<(&[u8], u64)> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn count(text: &[u8]) -> BTreeMap<String, u64> {
        let mut counts = Counts::default();
        counts.add_text(&mut text.to_vec());
        counts.sorted().iter().map(|(word, n)| (String::from_utf8(word.to_vec()).unwrap(), *n)).collect()
    }

    /// The definition, said another way.
    fn naive(text: &[u8]) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for word in text.split(|byte| !byte.is_ascii_alphabetic()).filter(|word| !word.is_empty()) {
            *counts.entry(String::from_utf8(word.to_ascii_lowercase()).unwrap()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn a_word_is_a_maximal_run_of_ascii_letters() {
        let counted = count("The cat's HAT: the_hat2hat na\u{ef}ve\nthe".as_bytes());
        let expected = [("cat", 1), ("hat", 3), ("na", 1), ("s", 1), ("the", 3), ("ve", 1)];
        assert_eq!(counted, expected.into_iter().map(|(word, n)| (word.to_owned(), n)).collect());
    }

    #[test]
    fn merged_counts_add_up() {
        let mut counts = Counts::default();
        counts.add_text(&mut b"a b a".to_vec());
        let mut more = Counts::default();
        more.add_text(&mut b"c a".to_vec());
        counts.merge(more);
        assert_eq!(counts.sorted(), [(&b"a"[..], 3), (b"b", 1), (b"c", 1)]);
    }

    proptest! {
        #[test]
        fn any_bytes_count_as_the_definition_says(text in "([a-cA-C \u{e9}\n0@\\[`\\{]|\\PC){0,200}", raw: Vec<u8>) {
            prop_assert_eq!(count(text.as_bytes()), naive(text.as_bytes()));
            prop_assert_eq!(count(&raw), naive(&raw));
        }
    }
}
