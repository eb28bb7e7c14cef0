//! Interleavings that random plans hardly ever contain.

use super::{Action, BEGIN, Breaks, OPERATOR, Plan};
use crate::network::Network;
use crate::random::Random;
use crate::world::Millis;

/// A session that no plan contains otherwise.
const OTHER: u32 = 50;
/// The journal interval and the staleness bound of the nodes.
const INTERVAL: Millis = 500;
const D: Millis = 4 * INTERVAL;
/// When nodes that had requests in the first second only are paused, and every task rests.
const PAUSED: Millis = 2_550;
/// The idle timeout of a session. A touch is due after a quarter of it.
const IDLE: Millis = 8000;

impl Plan {
    /// Adds one of them. Returns when it is over.
    pub(super) fn rare_interleaving(&mut self, random: &mut Random) -> Millis {
        match random.below(7) {
            0 if self.replica.is_none() => self.old_dump_during_a_late_read(random),
            0 | 1 => {
                // Lease, change, another lease or a flush, and then the reply of the first read.
                let changed = self.change_during_a_late_read(random);
                let then = changed + 15 + random.below(50);
                if random.permille(500) {
                    self.validate(then, 1, 0);
                } else {
                    self.faults.push((then, Breaks::Flush));
                }
                BEGIN + 200
            }
            2 => self.late_commit(random),
            3..=5 if self.pauses => self.change_during_a_pause(random),
            3 => self.late_start(random),
            4 => self.purge_before_it_is_read(random),
            5 => self.touch_of_a_locked_row(random),
            _ => self.stale_node(random),
        }
    }

    /// Adds a lease, a dump, a change, a restart from the dump, and then the reply of the read.
    fn old_dump_during_a_late_read(&mut self, random: &mut Random) -> Millis {
        let changed = self.change_during_a_late_read(random);
        let crash = Breaks::Crash { down_for: 1 + random.below(4), from_dump: true };
        let saved = BEGIN + 8 + random.below(12);
        let crashed = changed + 20 + random.below(60);
        self.faults.extend([(saved, Breaks::Save), (crashed, crash)]);
        BEGIN + 200
    }

    /// Adds a change during a read. Returns when it begins.
    fn change_during_a_late_read(&mut self, random: &mut Random) -> Millis {
        self.network = Network::with_late_reads();
        self.validate(BEGIN, 0, 0);
        let changed = BEGIN + 15 + random.below(30);
        let change = random.pick(&[Action::RevokeAll, Action::Update(0), Action::Revoke(0)]);
        self.perform(changed, 2, change);
        changed
    }

    /// Adds a revocation by direct SQL that commits late: after changes that began later, and after
    /// nodes have read the journal.
    fn late_commit(&mut self, random: &mut Random) -> Millis {
        self.create(random, OTHER, 0);
        self.validate(BEGIN + 400, 0, 0);
        let revoked = BEGIN + 450 + random.below(100);
        let idle = INTERVAL + 100 + random.below(700);
        self.perform(revoked, OPERATOR, Action::DirectRevoke { session: 0, idle });
        for after in [10, 200, 400] {
            self.perform(revoked + after + random.below(100), 2, Action::Update(OTHER));
        }
        revoked + idle + 50
    }

    /// Starts a node while Redis holds an entry that direct SQL has made stale. It is an update,
    /// because every node removes the entry of a session that has ended.
    fn late_start(&mut self, random: &mut Random) -> Millis {
        self.validate(BEGIN, 0, 0);
        let changed = BEGIN + 100 + random.below(300);
        self.perform(changed, OPERATOR, Action::DirectUpdate { session: 0, idle: 0 });
        let started = changed + D + 50 + random.below(1500);
        self.start_and_validate(random, started)
    }

    /// Changes a session by direct SQL while all nodes are paused, and validates it when they wake.
    fn change_during_a_pause(&mut self, random: &mut Random) -> Millis {
        for node in [0, 1] {
            self.validate(BEGIN + random.below(100), node, 0);
        }
        // The entry still has half a second to live when the nodes wake.
        let changed = PAUSED + random.below(150);
        let action = match random.below(3) {
            0 => Action::DirectRevoke { session: 0, idle: 0 },
            _ => Action::DirectUpdate { session: 0, idle: 0 },
        };
        self.perform(changed, OPERATOR, action);
        if random.permille(300) {
            self.faults.push((changed + random.below(D), Breaks::PurgeJournal));
        }
        let woken = changed + D + 20;
        for after in [10, 40, 150] {
            for node in [0, 1] {
                self.validate(woken + after + random.below(30), node, 0);
            }
        }
        woken + INTERVAL
    }

    /// Purges a change by direct SQL before any node has read it, or before a node starts. Some
    /// schedules have an open transaction meanwhile.
    fn purge_before_it_is_read(&mut self, random: &mut Random) -> Millis {
        if random.permille(600) {
            self.faults.push((BEGIN - 20, Breaks::LeftOpen(random.pick(&[600, 4000]))));
        }
        self.validate(BEGIN, 0, 0);
        let changed = BEGIN + 100 + random.below(250);
        let purged = changed + 20 + random.below(INTERVAL / 2);
        self.faults.push((purged, Breaks::PurgeJournal));
        if random.permille(600) {
            self.perform(changed, OPERATOR, Action::DirectRevoke { session: 0, idle: 0 });
            return changed + 50;
        }
        self.perform(changed, OPERATOR, Action::DirectUpdate { session: 0, idle: 0 });
        self.start_and_validate(random, changed + D + 50)
    }

    /// Starts a node, and validates before and after its first journal read.
    fn start_and_validate(&mut self, random: &mut Random, started: Millis) -> Millis {
        self.faults.push((started, Breaks::RestartNode(1)));
        for after in [10, 40, 150] {
            self.validate(started + after + random.below(30), 1, 0);
        }
        started + INTERVAL
    }

    /// Uses a session whose touch is due, while an uncommitted change by direct SQL locks its row.
    fn touch_of_a_locked_row(&mut self, random: &mut Random) -> Millis {
        self.perform(0, 2, Action::Create { session: OTHER, lifetime: None, idle: Some(IDLE) });
        let changed = BEGIN + IDLE / 4 + random.below(200);
        let idle = 200 + random.below(500);
        self.perform(changed, OPERATOR, Action::DirectUpdate { session: OTHER, idle });
        for node in [0, 1] {
            self.validate(changed + 20 + random.below(100), node, OTHER);
        }
        changed + idle + 50
    }

    /// Cuts nodes that fail closed off from Postgres for longer than D, just after a revocation by
    /// direct SQL, and validates when they read the journal again.
    fn stale_node(&mut self, random: &mut Random) -> Millis {
        self.fail_closed = true;
        self.validate(BEGIN, 0, 0);
        let revoked = 2 * INTERVAL - 400 + random.below(250);
        self.perform(revoked, OPERATOR, Action::DirectRevoke { session: 0, idle: 0 });
        let cut = revoked + 20 + random.below(80);
        let down_for = D + 50 + random.below(500);
        self.faults.push((cut, Breaks::PostgresDown(down_for)));
        let read = (cut + down_for).next_multiple_of(INTERVAL);
        for node in [0, 1, 0, 1] {
            self.validate(read - 30 + random.below(40), node, 0);
        }
        read + 100
    }
}
