//! Faults, each at its time, and recorded for the checker.

use std::sync::Arc;
use std::time::Duration;

use session_layer::PartitionPolicy;
use session_testkit::history::{Fault, Nanos};

use super::{D, Schedule};
use crate::coverage::Event;
use crate::plan::Breaks;
use crate::world::State;

impl Schedule {
    pub(super) fn plan_fault(self: &Arc<Self>, at: u64, breaks: Breaks) {
        let world = &self.world;
        let instant = |name: &'static str, happens: fn(&mut State)| {
            world.at(at, move |state| {
                happens(state);
                state.record_instant(name);
            });
        };
        match breaks {
            Breaks::RestartNode(node) => {
                let schedule = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(at)).await;
                    schedule.restart_node(node);
                });
            }
            Breaks::Flush => instant("redis.flushall", State::flush),
            Breaks::Save => world.at(at, State::save),
            Breaks::Crash { down_for, from_dump } => {
                instant("redis.kill", State::crash);
                world.at(at + down_for, move |state| {
                    state.restart(from_dump);
                    state.record_instant("redis.restart");
                });
            }
            Breaks::FailOver => instant("redis.failover", State::fail_over),
            Breaks::Resync => world.at(at, State::resync),
            Breaks::CutLinks => world.at(at, State::cut_all_links),
            Breaks::StepClock(by) => world.at(at, move |state| {
                state.step_redis_clock(by);
                state.record_instant("redis.clock");
            }),
            Breaks::PostgresDown(down_for) => {
                let is_stale = Duration::from_millis(down_for) > D
                    && self.settings.policy == PartitionPolicy::FailClosed;
                world.at(at, move |state| {
                    state.coverage.saw_if(Event::StaleNode, is_stale);
                    state.coverage.saw(Event::PostgresDown);
                    state.postgres.crash();
                    state.begin_outage("postgres.kill");
                });
                world.at(at + down_for, |state| {
                    state.end_outage("postgres.kill");
                    state.postgres.outages -= 1;
                });
            }
            Breaks::Hidden(down_for) => {
                world.at(at, |state| {
                    state.postgres.hidings += 1;
                    state.coverage.saw(Event::HiddenRows);
                    state.begin_outage("postgres.rls");
                });
                world.at(at + down_for, |state| {
                    state.end_outage("postgres.rls");
                    state.postgres.hidings -= 1;
                });
            }
            Breaks::PurgeJournal => {
                let mistake = self.mistake;
                world.at(at, move |state| {
                    state.postgres.purge(mistake);
                    state.coverage.saw(Event::Purge);
                    state.say("the journal is purged");
                });
            }
            Breaks::LeftOpen(open_for) => world.at(at, move |state| {
                if state.postgres.outages == 0 {
                    let xid = state.postgres.leave_open();
                    state.say("a transaction is left open");
                    state.later(at + open_for, move |state| state.postgres.end(xid));
                }
            }),
        }
    }
}

impl State {
    /// Records something that happened to Redis, for the reader of a violation.
    fn record_instant(&mut self, name: &str) {
        let at = self.stamp();
        let mut fault = Fault::new(name, at);
        fault.until = Some(at);
        self.faults.push(fault);
        self.say(name);
    }

    fn begin_outage(&mut self, name: &str) {
        let mut fault = Fault::new(name, self.stamp());
        fault.no_postgres = true;
        self.faults.push(fault);
        self.say(name);
    }

    fn end_outage(&mut self, name: &str) {
        let until = self.stamp();
        let is_open = |fault: &&mut Fault| fault.name == name && fault.until.is_none();
        if let Some(fault) = self.faults.iter_mut().find(is_open) {
            fault.until = Some(until);
        }
        self.say(&format!("{name} is over"));
    }

    /// Records that Redis may not have executed an UNLINK of this node.
    pub(crate) fn record_lost_unlink(&mut self, node: u32, since: Nanos) {
        let mut fault = Fault::new("redis.unlink-in-doubt", since);
        fault.until = Some(self.stamp());
        fault.nodes = Some(vec![node]);
        fault.no_redis = true;
        self.faults.push(fault);
    }

    /// Records that this node may not have read a change.
    pub(crate) fn record_failed_journal_read(&mut self, node: u32, since: Nanos) {
        let now = self.stamp();
        let mut fault = Fault::new("postgres.journal-in-doubt", since);
        (fault.since, fault.until) = (Some(now), Some(now));
        fault.nodes = Some(vec![node]);
        fault.no_postgres = true;
        self.faults.push(fault);
    }
}
