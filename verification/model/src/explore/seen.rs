//! The visited states, as fingerprints.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// The numbers of the visited states by their fingerprints, which need no further hashing.
pub(super) type Seen = HashMap<u64, u32, BuildHasherDefault<Identity>>;

/// A hasher that returns the one number that it hashes.
#[derive(Default)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are hashed");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Returns the fingerprint of a state.
pub(super) fn fingerprint(state: &impl Hash, seed: u64) -> u64 {
    let mut fingerprint = Fingerprint { hash: seed ^ 0x9E37_79B9_7F4A_7C15, word: 0, bytes: 0 };
    state.hash(&mut fingerprint);
    fingerprint.finish()
}

/// A hasher that mixes eight bytes at a time. It needs no lengths, because two states of one model
/// have the same number of bytes or differ before the end of the shorter one.
struct Fingerprint {
    hash: u64,
    word: u64,
    bytes: u32,
}

impl Fingerprint {
    fn mix(&mut self, by: u64) {
        let product = u128::from(self.hash ^ self.word) * u128::from(by);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are folded together")]
        let folded = (product as u64) ^ ((product >> 64) as u64);
        self.hash = folded.wrapping_add(self.hash.rotate_left(23));
        (self.word, self.bytes) = (0, 0);
    }
}

impl Hasher for Fingerprint {
    fn write_u8(&mut self, byte: u8) {
        self.word = self.word << 8 | u64::from(byte);
        self.bytes += 1;
        if self.bytes == 8 {
            self.mix(0xA076_1D64_78BD_642F);
        }
    }

    /// Hashes the discriminant of an enum.
    fn write_isize(&mut self, number: isize) {
        self.write_u8(u8::try_from(number).expect("an enum of fewer than 256 variants"));
    }

    /// Ignores the length of an array.
    fn write_usize(&mut self, _: usize) {}

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn finish(&self) -> u64 {
        let mut last = Self { ..*self };
        last.word = last.word << 8 | u64::from(last.bytes);
        last.mix(0xE703_7ED1_A0B4_28DB);
        last.mix(0x5899_65CC_7537_4CC3);
        last.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_the_seed_matter() {
        let state = [3_u8; 20];
        let print = fingerprint(&state, 0);
        assert_ne!(print, fingerprint(&state, 1));
        for at in 0..state.len() {
            let mut other = state;
            other[at] ^= 1;
            assert_ne!(print, fingerprint(&other, 0), "byte {at}");
        }
    }
}
