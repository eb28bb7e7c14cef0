//! How the network and the servers behave during one schedule.

use crate::random::Random;
use crate::world::Millis;

/// Delays and losses. Frequencies are per 1,000.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Network {
    /// A message takes less than this.
    usual: Millis,
    /// How many messages take longer, by less than `slow_by`.
    slow: u64,
    slow_by: Millis,
    /// How many replies to a read of Postgres take longer, by less than its deadline.
    slow_reads: u64,
    /// How many calls lose their request, and how many their reply.
    lost: u64,
    /// How many UNLINKs and fences are lost in addition.
    lost_unlinks: u64,
    /// How many statements Postgres refuses.
    refused: u64,
}

/// The fate of a call in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Delivered,
    RequestLost,
    ReplyLost,
}

impl Network {
    pub(crate) fn draw(random: &mut Random) -> Self {
        Self {
            usual: random.pick(&[3, 8, 8, 16]),
            slow: random.pick(&[0, 100, 250]),
            slow_by: random.pick(&[40, 120, 400, 1500]),
            slow_reads: random.pick(&[0, 0, 400]),
            lost: random.pick(&[0, 0, 0, 20, 60]),
            lost_unlinks: random.pick(&[0, 0, 0, 300]),
            refused: random.pick(&[0, 0, 0, 0, 80]),
        }
    }

    /// Loses nothing, and delays only reads of Postgres.
    pub(crate) fn with_late_reads() -> Self {
        Self { usual: 4, slow_reads: 900, ..Self::default() }
    }

    pub(crate) fn latency(&self, random: &mut Random) -> Millis {
        let usual = random.below(self.usual);
        if random.permille(self.slow) { usual + random.below(self.slow_by) } else { usual }
    }

    /// Returns the delay of a reply in addition to [`latency`](Self::latency).
    pub(crate) fn delay(&self, what: &str, random: &mut Random) -> Millis {
        if what == "SELECT" && random.permille(self.slow_reads) { random.below(190) } else { 0 }
    }

    pub(crate) fn fate(&self, what: &str, random: &mut Random) -> Fate {
        let unlinks = if matches!(what, "UNLINK" | "fence") { self.lost_unlinks } else { 0 };
        if random.permille(self.lost + unlinks) {
            Fate::RequestLost
        } else if random.permille(self.lost + unlinks / 2) {
            Fate::ReplyLost
        } else {
            Fate::Delivered
        }
    }

    /// Returns whether Postgres refuses a statement.
    pub(crate) fn refuses(&self, random: &mut Random) -> bool {
        random.permille(self.refused)
    }
}
