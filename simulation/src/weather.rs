//! How the network and the servers behave during one schedule.

use crate::dice::Dice;
use crate::world::Millis;

/// One schedule's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// A message takes less than this.
    usual: Millis,
    /// So many in 1,000 take longer ...
    slow: u64,
    /// ... by less than this.
    slow_by: Millis,
    /// So many answers to a read of Postgres in 1,000 take longer, by less than its deadline.
    slow_reads: u64,
    /// So many calls in 1,000 lose their request, and so many their reply.
    lost: u64,
    /// So many UNLINKs and fences in 1,000 are lost on top.
    lost_unlinks: u64,
    /// So many statements in 1,000 Postgres refuses.
    refused: u64,
}

/// What becomes of a call on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Delivered,
    RequestLost,
    ReplyLost,
}

impl Weather {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Self {
            usual: dice.pick(&[3, 8, 8, 16]),
            slow: dice.pick(&[0, 100, 250]),
            slow_by: dice.pick(&[40, 120, 400, 1500]),
            slow_reads: dice.pick(&[0, 0, 400]),
            lost: dice.pick(&[0, 0, 0, 20, 60]),
            lost_unlinks: dice.pick(&[0, 0, 0, 300]),
            refused: dice.pick(&[0, 0, 0, 0, 80]),
        }
    }

    /// Fair, but for reads of Postgres, which are answered late.
    pub(crate) fn of_late_reads() -> Self {
        Self {
            usual: 4,
            slow: 0,
            slow_by: 0,
            slow_reads: 900,
            lost: 0,
            lost_unlinks: 0,
            refused: 0,
        }
    }

    pub(crate) fn latency(&self, dice: &mut Dice) -> Millis {
        let usual = dice.below(self.usual);
        if dice.permille(self.slow) {
            usual + dice.below(self.slow_by)
        } else {
            usual
        }
    }

    /// The way back, on top of [`latency`](Self::latency).
    pub(crate) fn delay(&self, what: &str, dice: &mut Dice) -> Millis {
        if what == "SELECT" && dice.permille(self.slow_reads) {
            dice.below(190)
        } else {
            0
        }
    }

    pub(crate) fn fate(&self, what: &str, dice: &mut Dice) -> Fate {
        let unlinks = if matches!(what, "UNLINK" | "fence") {
            self.lost_unlinks
        } else {
            0
        };
        if dice.permille(self.lost + unlinks) {
            Fate::RequestLost
        } else if dice.permille(self.lost + unlinks / 2) {
            Fate::ReplyLost
        } else {
            Fate::Delivered
        }
    }

    /// Does Postgres refuse this statement?
    pub(crate) fn refuses(&self, dice: &mut Dice) -> bool {
        dice.permille(self.refused)
    }
}
