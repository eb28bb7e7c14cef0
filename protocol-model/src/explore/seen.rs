//! The states that were visited, as fingerprints.

use std::hash::{Hash, Hasher};

/// Numbers by fingerprint, in one open-addressed table: 12 bytes for each state at its fullest.
pub(super) struct Seen {
    keys: Vec<u64>,
    numbers: Vec<u32>,
    len: usize,
}

impl Seen {
    pub(super) fn new() -> Self {
        let size = 1 << 12;
        Self {
            keys: vec![0; size],
            numbers: vec![0; size],
            len: 0,
        }
    }

    /// The number that this fingerprint has already, or `None` after giving it `number`.
    pub(super) fn note(&mut self, key: u64, number: u32) -> Option<u32> {
        if self.len * 10 > self.keys.len() * 7 {
            self.grow();
        }
        let at = self.place(key);
        if self.keys[at] == key {
            return Some(self.numbers[at]);
        }
        self.keys[at] = key;
        self.numbers[at] = number;
        self.len += 1;
        None
    }

    /// Where the key is, or where it goes.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low bits are as good as any"
    )]
    fn place(&self, key: u64) -> usize {
        let mask = self.keys.len() - 1;
        let mut at = key as usize & mask;
        while self.keys[at] != 0 && self.keys[at] != key {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        let size = self.keys.len() * 2;
        let keys = std::mem::replace(&mut self.keys, vec![0; size]);
        let numbers = std::mem::replace(&mut self.numbers, vec![0; size]);
        for (key, number) in keys.into_iter().zip(numbers) {
            if key != 0 {
                let at = self.place(key);
                self.keys[at] = key;
                self.numbers[at] = number;
            }
        }
    }
}

/// Never 0, which marks a free place.
pub(super) fn fingerprint(state: &impl Hash, seed: u64) -> u64 {
    let mut fingerprint = Fingerprint {
        hash: seed ^ 0x9E37_79B9_7F4A_7C15,
        word: 0,
        bytes: 0,
    };
    state.hash(&mut fingerprint);
    fingerprint.finish().max(1)
}

/// Takes a state apart into bytes, and mixes eight at a time. All states of one model hash to the same
/// number of bytes or differ before that, so that no length is needed.
struct Fingerprint {
    hash: u64,
    word: u64,
    bytes: u32,
}

impl Fingerprint {
    fn mix(&mut self, by: u64) {
        let product = u128::from(self.hash ^ self.word) * u128::from(by);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "both halves are folded together"
        )]
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

    /// The discriminant of an enum.
    fn write_isize(&mut self, number: isize) {
        self.write_u8(u8::try_from(number).expect("an enum of fewer than 256 variants"));
    }

    /// The length of an array.
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
    fn a_fingerprint_is_noted_once_also_after_growing() {
        let mut seen = Seen::new();
        for number in 0..20_000_u32 {
            assert_eq!(
                seen.note(fingerprint(&number.to_le_bytes(), 7), number),
                None
            );
        }
        for number in 0..20_000_u32 {
            let again = seen.note(fingerprint(&number.to_le_bytes(), 7), u32::MAX);
            assert_eq!(again, Some(number));
        }
    }

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
