//! What is to happen in a schedule: operations and faults, each at its time. A seed makes a plan, and a
//! plan that breaks a promise is shrunk by leaving parts of it out.

use std::fmt;

use crate::dice::Dice;
use crate::weather::Weather;
use crate::world::Millis;

mod seldom;

/// Two readers, who also change things at times, and one who revokes.
pub(crate) const NODES: u32 = 3;
/// Whoever ends sessions by plain SQL, as a node of the history.
pub(crate) const OPERATOR: u32 = NODES;

/// One schedule.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) weather: Weather,
    /// Redis has a replica that lags by this.
    pub(crate) replica: Option<Millis>,
    /// Nodes cut off from Postgres serve no copies.
    pub(crate) fail_closed: bool,
    pub(crate) operations: Vec<Planned>,
    pub(crate) faults: Vec<(Millis, Breaks)>,
    pub(crate) end: Millis,
}

/// An operation of a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    pub(crate) at: Millis,
    pub(crate) node: u32,
    pub(crate) action: Action,
    /// The caller goes away after so long.
    pub(crate) dropped_after: Option<Millis>,
}

/// What is asked. Sessions are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Create {
        session: u32,
        lifetime: Option<Millis>,
        idle: Option<Millis>,
    },
    /// Of the newest token, or of the one before.
    Validate {
        session: u32,
        older: bool,
    },
    Random,
    Update {
        session: u32,
    },
    Rotate {
        session: u32,
        grace: Millis,
    },
    Revoke {
        session: u32,
    },
    RevokeAll,
    /// `UPDATE sessions SET revoked_at = now()`, by hand; the COMMIT comes so much later.
    PlainSql {
        session: u32,
        idle: Millis,
    },
    /// `UPDATE sessions SET data = …`, by hand.
    PlainUpdate {
        session: u32,
        idle: Millis,
    },
    Bypass(bool),
}

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breaks {
    Flush,
    Save,
    Crash {
        down_for: Millis,
        from_dump: bool,
    },
    FailOver,
    Resync,
    CutLinks,
    StepClock(i64),
    RestartNode(u32),
    PostgresDown {
        down_for: Millis,
    },
    Hidden {
        down_for: Millis,
    },
    /// Of the journal.
    Purge,
    /// A transaction, idle.
    LeftOpen {
        for_so_long: Millis,
    },
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(&[seed, 0x91a2]);
        let weather = Weather::draw(&mut dice);
        let replica = dice.permille(300).then(|| dice.below(60));
        let span = dice.pick(&[60, 150, 150, 400, 2500]);
        let mut plan = Self {
            seed,
            weather,
            replica,
            fail_closed: seed % 4 == 3,
            operations: Vec::new(),
            faults: Vec::new(),
            end: 0,
        };
        let sessions = 1 + u32::from(dice.permille(300));
        for session in 0..sessions {
            plan.create(&mut dice, session, 0);
        }
        let begin = 60;
        if dice.permille(150) {
            let over = plan.seldom_by_chance(&mut dice, begin);
            plan.look_again(&mut dice, over);
            plan.operations.sort_by_key(|each| each.at);
            return plan;
        }
        for node in [0, 0, 0, 1, 1, 1, 0, 1].iter().take(dice.pick(&[4, 6, 8])) {
            let at = begin + dice.below(span);
            let action = match dice.below(20) {
                0 => Action::Random,
                1 => Action::Update {
                    session: session(&mut dice, sessions),
                },
                _ => validate(&mut dice, sessions),
            };
            plan.add(&mut dice, at, *node, action);
        }
        let mut last_change = begin;
        for _ in 0..dice.pick(&[1, 1, 2, 3]) {
            let at = begin + dice.below(span);
            last_change = last_change.max(at);
            let session = session(&mut dice, sessions);
            let action = match dice.below(12) {
                0..=4 => Action::Revoke { session },
                5..=6 => Action::Update { session },
                7..=8 => Action::Rotate {
                    session,
                    grace: dice.pick(&[0, 0, 200, 1000]),
                },
                9 => Action::RevokeAll,
                10 if dice.permille(700) => Action::PlainSql { session, idle: 0 },
                10 => Action::PlainUpdate { session, idle: 0 },
                _ => {
                    // A login in flight while all are revoked.
                    let late = 100 + u32::try_from(plan.operations.len()).unwrap_or(0);
                    let after = dice.below(80);
                    plan.create(&mut dice, late, at + after);
                    Action::RevokeAll
                }
            };
            let node = match action {
                Action::PlainSql { .. } | Action::PlainUpdate { .. } => OPERATOR,
                _ => dice.pick(&[2, 2, 2, 2, 1]),
            };
            plan.add(&mut dice, at, node, action);
        }
        if dice.permille(60) {
            let node = u32::try_from(dice.below(2)).unwrap_or(0);
            plan.add(&mut dice, begin / 2, node, Action::Bypass(true));
            plan.add(&mut dice, begin + span, node, Action::Bypass(false));
        }
        for _ in 0..dice.pick(&[0, 0, 1, 1, 2, 3]) {
            plan.break_something(&mut dice, begin, span, last_change);
        }
        plan.look_again(&mut dice, begin + span);
        plan.operations.sort_by_key(|each| each.at);
        plan
    }

    fn look(&mut self, at: Millis, node: u32, session: u32) {
        let older = false;
        self.ask(at, node, Action::Validate { session, older });
    }

    fn ask(&mut self, at: Millis, node: u32, action: Action) {
        self.operations.push(Planned {
            at,
            node,
            action,
            dropped_after: None,
        });
    }

    fn add(&mut self, dice: &mut Dice, at: Millis, node: u32, action: Action) {
        self.operations.push(Planned {
            at,
            node,
            action,
            dropped_after: dice.permille(40).then(|| dice.below(40)),
        });
    }

    fn create(&mut self, dice: &mut Dice, session: u32, at: Millis) {
        let node = u32::try_from(dice.below(NODES.into())).unwrap_or(0);
        self.operations.push(Planned {
            at,
            node,
            action: Action::Create {
                session,
                lifetime: dice.permille(60).then_some(3000),
                idle: dice.permille(80).then_some(8000),
            },
            dropped_after: None,
        });
    }

    fn break_something(
        &mut self,
        dice: &mut Dice,
        begin: Millis,
        span: Millis,
        last_change: Millis,
    ) {
        let at = begin + dice.below(span);
        let down_for = dice.pick(&[5, 40, 300, 1200]);
        let mut add = |at, breaks| self.faults.push((at, breaks));
        match dice.below(13) {
            0 | 1 => add(at, Breaks::Flush),
            2..=4 if self.replica.is_none() => {
                // Most often the dump is from before a change, and the crash comes soon after it.
                let soon = dice.permille(700);
                let at = if soon {
                    last_change + 20 + dice.below(120)
                } else {
                    at
                };
                let down_for = if soon {
                    dice.pick(&[1, 5, 30])
                } else {
                    down_for.min(300)
                };
                let from_dump = dice.permille(700);
                add(
                    last_change.saturating_sub(dice.below(60)).max(40),
                    Breaks::Save,
                );
                add(
                    at,
                    Breaks::Crash {
                        down_for,
                        from_dump,
                    },
                );
            }
            2..=4 if self.replica.is_some() => {
                add(at, Breaks::FailOver);
                if dice.permille(300) {
                    add(at + dice.below(500), Breaks::Resync);
                }
                if dice.permille(700) {
                    add(at + 1 + dice.below(900), Breaks::FailOver);
                    add(at + 1500, Breaks::Resync);
                }
            }
            5 => add(at, Breaks::CutLinks),
            6 => add(at, Breaks::StepClock(dice.pick(&[600_000, -600_000]))),
            7 => add(
                at,
                Breaks::RestartNode(u32::try_from(dice.below(NODES.into())).unwrap_or(0)),
            ),
            8 => add(at, Breaks::Hidden { down_for }),
            9 => add(at, Breaks::Purge),
            10 => add(
                at,
                Breaks::LeftOpen {
                    for_so_long: down_for,
                },
            ),
            _ => add(at, Breaks::PostgresDown { down_for }),
        }
    }

    /// When all is over, both readers look at every token: at once, after D, and after every bound.
    fn look_again(&mut self, dice: &mut Dice, over: Millis) {
        let created = self.operations.iter().filter_map(|each| match each.action {
            Action::Create { session, .. } => Some(session),
            _ => None,
        });
        let sessions: Vec<u32> = created.collect();
        let rotated = self
            .operations
            .iter()
            .any(|each| matches!(each.action, Action::Rotate { .. }));
        let looks: &[Millis] = if dice.permille(400) {
            &[40, 700, 2700, 8500]
        } else {
            &[40, 700, 2700]
        };
        for after in looks {
            for session in &sessions {
                for node in 0..2 {
                    for older in [false, true] {
                        if older && !rotated {
                            continue;
                        }
                        let at = over + after + dice.below(20);
                        let session = *session;
                        self.ask(at, node, Action::Validate { session, older });
                    }
                }
            }
        }
        let last = looks.last().copied().unwrap_or(0);
        self.end = over + last + 400;
    }
}

fn session(dice: &mut Dice, sessions: u32) -> u32 {
    u32::try_from(dice.below(sessions.into())).unwrap_or(0)
}

fn validate(dice: &mut Dice, sessions: u32) -> Action {
    Action::Validate {
        session: session(dice, sessions),
        older: dice.permille(150),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.replica {
            Some(lag) => writeln!(
                f,
                "Redis has a replica that lags {lag} ms; {:?}",
                self.weather
            )?,
            None => writeln!(f, "Redis is one server; {:?}", self.weather)?,
        }
        if self.fail_closed {
            writeln!(f, "nodes fail closed")?;
        }
        for Planned {
            at,
            node,
            action,
            dropped_after,
        } in &self.operations
        {
            write!(f, "{at:>7} ms  node {node}: {action:?}")?;
            match dropped_after {
                Some(after) => writeln!(f, ", dropped after {after} ms")?,
                None => writeln!(f)?,
            }
        }
        for (at, breaks) in &self.faults {
            writeln!(f, "{at:>7} ms  {breaks:?}")?;
        }
        Ok(())
    }
}
