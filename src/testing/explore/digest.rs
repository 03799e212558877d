//! A cheap hash of a state. Two states with the same digest count as equal.

use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Multiplies and folds, a word at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Folding(u64);

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93;
        #[allow(clippy::cast_possible_truncation, reason = "folding both halves is the point")]
        let folded = (product as u64) ^ ((product >> 64) as u64).rotate_left(23);
        self.0 = folded.wrapping_add(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}

/// The digest of one value.
pub(super) fn digest(value: &impl Hash) -> u64 {
    let mut hasher = Folding::default();
    value.hash(&mut hasher);
    hasher.finish()
}

/// For maps whose keys are digests.
pub(super) type Folded = BuildHasherDefault<Folding>;
