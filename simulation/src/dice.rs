//! Draws by name: the same name gives the same draws, whatever else is drawn.

/// `SplitMix64`'s finalizer over all parts.
pub(crate) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |hash, part| scramble(hash ^ part))
}

fn scramble(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of draws. (Not `rand`: there is one for each call of a port, some hundred in each of 100,000
/// schedules, and seeding a `ChaCha` would take longer than the call.)
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(name: &[u64]) -> Self {
        Self(mix(name))
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = scramble(self.0);
        self.0
    }

    /// Less than `bound`; 0 where that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    /// True so many times in 1,000.
    pub(crate) fn permille(&mut self, times: u64) -> bool {
        self.below(1000) < times
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let at = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from[at]
    }
}
