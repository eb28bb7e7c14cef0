//! A pseudorandom generator that returns the same sequence in every run.

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Splitmix64, which is sufficient for jitter. A connection gets the same jitter in every run.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// Creates the state after `draws` draws from this seed.
    pub(super) fn nth(seed: u64, draws: u64) -> Self {
        Self(seed.wrapping_add(draws.wrapping_mul(STEP)))
    }

    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(STEP);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        u32::try_from(z >> 32).unwrap_or(u32::MAX)
    }

    /// Returns a number from 0 to 1.
    pub(super) fn next(&mut self) -> f64 {
        f64::from(self.bits()) / f64::from(u32::MAX)
    }

    /// Returns a number from `least` to `most`, both included.
    pub(super) fn between(&mut self, least: usize, most: usize) -> usize {
        let count = most.saturating_sub(least).saturating_add(1);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        least + usize::try_from(self.bits() % count).unwrap_or_default()
    }
}
