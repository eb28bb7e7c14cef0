//! What is broken on purpose, each at its time, and noted for the checker.

use std::sync::Arc;
use std::time::Duration;

use session_layer::Policy;
use session_testkit::history::{Fault, Nanos};

use super::{D, Schedule};
use crate::coverage::Event;
use crate::plan::Breaks;
use crate::world::State;

impl Schedule {
    pub(super) fn plan_fault(self: &Arc<Self>, at: u64, breaks: Breaks) {
        let world = &self.world;
        match breaks {
            Breaks::RestartNode(node) => {
                let schedule = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(at)).await;
                    schedule.restart_node(node);
                });
            }
            Breaks::Flush => world.at(at, |state| {
                state.flush();
                instant(state, "redis.flushall");
            }),
            Breaks::Save => world.at(at, State::save),
            Breaks::Crash {
                down_for,
                from_dump,
            } => {
                world.at(at, |state| {
                    state.crash();
                    instant(state, "redis.kill");
                });
                world.at(at + down_for, move |state| {
                    state.restart(from_dump);
                    instant(state, "redis.restart");
                });
            }
            Breaks::FailOver => world.at(at, |state| {
                state.fail_over();
                instant(state, "redis.failover");
            }),
            Breaks::Resync => world.at(at, State::resync),
            Breaks::CutLinks => world.at(at, State::cut_all_links),
            Breaks::StepClock(by) => world.at(at, move |state| {
                state.step_redis_clock(by);
                instant(state, "redis.clock");
            }),
            Breaks::PostgresDown { down_for } => {
                let stale = Duration::from_millis(down_for) > D;
                let stale = stale && self.policy == Policy::FailClosed;
                world.at(at, move |state| {
                    if stale {
                        state.coverage.saw(Event::StaleNode);
                    }
                    state.postgres.crash();
                    state.coverage.saw(Event::PostgresDown);
                    begin_outage(state, "postgres.kill");
                });
                world.at(at + down_for, |state| {
                    end_outage(state, "postgres.kill");
                    state.postgres.outages -= 1;
                });
            }
            Breaks::Purge => {
                let mistake = self.mistake;
                world.at(at, move |state| {
                    state.postgres.purge(mistake);
                    state.coverage.saw(Event::Purge);
                    state.say("the journal is purged");
                });
            }
            Breaks::LeftOpen { for_so_long } => world.at(at, move |state| {
                if state.postgres.outages > 0 {
                    return;
                }
                let xid = state.postgres.leave_open();
                state.say("a transaction is left open");
                state.later(at + for_so_long, move |state| state.postgres.end(xid));
            }),
            Breaks::Hidden { down_for } => {
                world.at(at, |state| {
                    state.postgres.hidings += 1;
                    state.coverage.saw(Event::HiddenRows);
                    begin_outage(state, "postgres.rls");
                });
                world.at(at + down_for, |state| {
                    end_outage(state, "postgres.rls");
                    state.postgres.hidings -= 1;
                });
            }
        }
    }
}

/// Something that happened to Redis, for whoever reads the proof.
fn instant(state: &mut State, name: &str) {
    let at = state.moment();
    let mut fault = Fault::new(name, at);
    fault.until = Some(at);
    state.faults.push(fault);
    state.say(name);
}

fn begin_outage(state: &mut State, name: &str) {
    let mut fault = Fault::new(name, state.moment());
    fault.no_postgres = true;
    state.faults.push(fault);
    state.say(name);
}

fn end_outage(state: &mut State, name: &str) {
    let until = state.moment();
    let ended = state
        .faults
        .iter_mut()
        .find(|fault| fault.name == name && fault.until.is_none());
    if let Some(ended) = ended {
        ended.until = Some(until);
    }
    state.say(&format!("{name} is over"));
}

impl State {
    /// Redis may not have been told what this UNLINK was to tell it.
    pub(crate) fn note_unlink_in_doubt(&mut self, node: u32, since: Nanos) {
        let mut fault = Fault::new("redis.unlink-in-doubt", since);
        fault.until = Some(self.moment());
        fault.nodes = Some(vec![node]);
        fault.no_redis = true;
        self.faults.push(fault);
    }
}

impl State {
    /// This node may not have read of a change.
    pub(crate) fn note_journal_in_doubt(&mut self, node: u32, since: Nanos) {
        let now = self.moment();
        let mut fault = Fault::new("postgres.journal-in-doubt", since);
        (fault.since, fault.until) = (Some(now), Some(now));
        fault.nodes = Some(vec![node]);
        fault.no_postgres = true;
        self.faults.push(fault);
    }
}
