//! Random numbers by name. The same name gives the same numbers, whatever else is drawn.

/// Mixes all parts with the finalizer of `SplitMix64`.
pub(crate) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |hash, part| scramble(hash ^ part))
}

fn scramble(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of random numbers. It is not from the crate `rand`, because every call of a port has
/// its own stream, and to seed a `ChaCha` would take longer than the call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(name: &[u64]) -> Self {
        Self(mix(name))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = scramble(self.0);
        self.0
    }

    /// Returns a number below `bound`, or 0 if that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Returns `true` this often in 1,000.
    pub(crate) fn permille(&mut self, times: u64) -> bool {
        self.below(1000) < times
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap_or(0)]
    }

    /// Returns the number of a node or a session below `count`.
    pub(crate) fn index(&mut self, count: u32) -> u32 {
        u32::try_from(self.below(count.into())).unwrap_or(0)
    }
}
