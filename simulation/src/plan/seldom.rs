//! Interleavings that are hardly ever drawn by chance.

use super::{Action, Breaks, OPERATOR, Plan};
use crate::dice::Dice;
use crate::weather::Weather;
use crate::world::Millis;

/// A session beside those that the readers ask for: no plan has it already.
const OTHER: u32 = 50;
/// As the nodes have them.
const INTERVAL: Millis = 500;
const D: Millis = 4 * INTERVAL;
/// The idle timeout of a session. Its use is noted each quarter of it.
const IDLE: Millis = 8000;

impl Plan {
    /// One of them. When it is over.
    pub(super) fn seldom_by_chance(&mut self, dice: &mut Dice, begin: Millis) -> Millis {
        match dice.below(7) {
            0 if self.replica.is_none() => self.old_dump_during_a_late_read(dice, begin),
            0 | 1 => {
                // Lease, change, another's lease or a flush, and then the answer of the first one's read.
                let changed = self.change_during_a_late_read(dice, begin);
                let then = changed + 15 + dice.below(50);
                if dice.permille(500) {
                    self.look(then, 1, 0);
                } else {
                    self.faults.push((then, Breaks::Flush));
                }
                begin + 200
            }
            2 => self.late_commit(dice, begin),
            3 => self.late_start(dice, begin),
            4 => self.purge_before_it_is_read(dice, begin),
            5 => self.touch_of_a_locked_row(dice, begin),
            _ => self.stale_node(dice, begin),
        }
    }

    /// Lease, dump, change, restart from the dump, and then the answer of the read.
    fn old_dump_during_a_late_read(&mut self, dice: &mut Dice, begin: Millis) -> Millis {
        let changed = self.change_during_a_late_read(dice, begin);
        let crash = Breaks::Crash {
            down_for: 1 + dice.below(4),
            from_dump: true,
        };
        let saved = begin + 8 + dice.below(12);
        let crashed = changed + 20 + dice.below(60);
        self.faults
            .extend([(saved, Breaks::Save), (crashed, crash)]);
        begin + 200
    }

    /// When it begins.
    fn change_during_a_late_read(&mut self, dice: &mut Dice, begin: Millis) -> Millis {
        self.weather = Weather::of_late_reads();
        self.look(begin, 0, 0);
        let changed = begin + 15 + dice.below(30);
        let change = match dice.below(3) {
            0 => Action::RevokeAll,
            1 => Action::Update { session: 0 },
            _ => Action::Revoke { session: 0 },
        };
        self.ask(changed, 2, change);
        changed
    }

    /// An end by plain SQL that commits late: after changes that began after it, and after nodes have read the
    /// journal.
    fn late_commit(&mut self, dice: &mut Dice, begin: Millis) -> Millis {
        self.create(dice, OTHER, 0);
        self.look(begin + 400, 0, 0);
        let ended = begin + 450 + dice.below(100);
        let idle = INTERVAL + 100 + dice.below(700);
        self.ask(ended, OPERATOR, Action::PlainSql { session: 0, idle });
        for after in [10, 200, 400] {
            let other = Action::Update { session: OTHER };
            self.ask(ended + after + dice.below(100), 2, other);
        }
        ended + idle + 50
    }

    /// A node starts, with a copy in Redis that a change by plain SQL has made old: an update, for of what has
    /// ended every node that is up removes the copy.
    fn late_start(&mut self, dice: &mut Dice, begin: Millis) -> Millis {
        self.look(begin, 0, 0);
        let changed = begin + 100 + dice.below(300);
        self.ask(
            changed,
            OPERATOR,
            Action::PlainUpdate {
                session: 0,
                idle: 0,
            },
        );
        let started = changed + D + 50 + dice.below(1500);
        self.start_and_look(dice, started);
        started + INTERVAL
    }

    /// The journal is purged of a change by plain SQL that nobody has read of, or not the node that starts
    /// afterwards (after an end that node would find no copy: who has read of it removed it). In some schedules while a transaction stays open.
    fn purge_before_it_is_read(&mut self, dice: &mut Dice, begin: Millis) -> Millis {
        if dice.permille(600) {
            let open = Breaks::LeftOpen {
                for_so_long: dice.pick(&[600, 4000]),
            };
            self.faults.push((begin - 20, open));
        }
        self.look(begin, 0, 0);
        let changed = begin + 100 + dice.below(250);
        let purged = changed + 20 + dice.below(INTERVAL / 2);
        self.faults.push((purged, Breaks::Purge));
        if dice.permille(600) {
            let end = Action::PlainSql {
                session: 0,
                idle: 0,
            };
            self.ask(changed, OPERATOR, end);
            return changed + 50;
        }
        self.ask(
            changed,
            OPERATOR,
            Action::PlainUpdate {
                session: 0,
                idle: 0,
            },
        );
        let started = changed + D + 50;
        self.start_and_look(dice, started);
        started + INTERVAL
    }

    /// A node starts, and is asked before and after it has loaded the journal.
    fn start_and_look(&mut self, dice: &mut Dice, started: Millis) {
        self.faults.push((started, Breaks::RestartNode(1)));
        for after in [10, 40, 150] {
            self.look(started + after + dice.below(30), 1, 0);
        }
    }

    /// A session is used, and its use to be noted, while somebody has changed it by plain SQL and does not commit.
    fn touch_of_a_locked_row(&mut self, dice: &mut Dice, begin: Millis) -> Millis {
        let create = Action::Create {
            session: OTHER,
            lifetime: None,
            idle: Some(IDLE),
        };
        self.ask(0, 2, create);
        let changed = begin + IDLE / 4 + dice.below(200);
        let idle = 200 + dice.below(500);
        let change = Action::PlainUpdate {
            session: OTHER,
            idle,
        };
        self.ask(changed, OPERATOR, change);
        for node in [0, 1] {
            self.look(changed + 20 + dice.below(100), node, OTHER);
        }
        changed + idle + 50
    }

    /// Nodes that fail closed are cut off from Postgres for longer than D, just after an end by plain SQL of
    /// which they have not read; and are asked just when they read of it.
    fn stale_node(&mut self, dice: &mut Dice, begin: Millis) -> Millis {
        self.fail_closed = true;
        self.look(begin, 0, 0);
        let ended = 2 * INTERVAL - 400 + dice.below(250);
        self.ask(
            ended,
            OPERATOR,
            Action::PlainSql {
                session: 0,
                idle: 0,
            },
        );
        let cut = ended + 20 + dice.below(80);
        let down_for = D + 50 + dice.below(500);
        self.faults.push((cut, Breaks::PostgresDown { down_for }));
        let read = (cut + down_for).next_multiple_of(INTERVAL);
        for node in [0, 1, 0, 1] {
            self.look(read - 30 + dice.below(40), node, 0);
        }
        read + 100
    }
}
