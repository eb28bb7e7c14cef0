//! The model: the state of each session, and therefore the expected results.

use std::fmt;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::Union;
use proptest_state_machine::ReferenceStateMachine;

use super::subject::Harness;

/// The number of users.
const USERS: u8 = 2;
/// The maximum number of sessions.
const SESSIONS: usize = 4;

/// A call of a node (0 or 1), or a change of the servers. Sessions and tokens are numbered in the
/// order of their creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Create {
        node: usize,
        user: u8,
    },
    Validate {
        node: usize,
        session: usize,
        token: usize,
    },
    Update {
        node: usize,
        session: usize,
    },
    Rotate {
        node: usize,
        session: usize,
        with_grace: bool,
    },
    Revoke {
        node: usize,
        session: usize,
        token: usize,
    },
    RevokeAll {
        node: usize,
        user: u8,
    },
    /// Direct SQL, and then a validation on a node.
    PlainSql {
        node: usize,
        session: usize,
    },
    Bypass {
        node: usize,
        on: bool,
    },
    Flush,
    RestartRedis,
}

/// One session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) user: u8,
    pub(crate) ended: bool,
    /// The number of the write of its data.
    pub(crate) data: usize,
    pub(crate) tokens: usize,
    /// Whether the token before the newest is still accepted.
    pub(crate) grace: bool,
}

impl Session {
    /// Returns whether this token names the session, active or not.
    pub(crate) fn is_named_by(&self, token: usize) -> bool {
        token + 1 == self.tokens || self.grace && token + 2 == self.tokens
    }

    pub(crate) fn is_valid(&self, token: usize) -> bool {
        !self.ended && self.is_named_by(token)
    }
}

/// All sessions.
#[derive(Clone, Default)]
pub(crate) struct Reference {
    pub(crate) sessions: Vec<Session>,
    writes: usize,
    /// The servers of the subject.
    pub(crate) harness: Option<Arc<Harness>>,
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sessions.fmt(f)
    }
}

impl Reference {
    /// Returns the number of the user's active sessions.
    pub(crate) fn alive(&self, user: u8) -> u64 {
        let alive = self.sessions.iter().filter(|each| each.user == user && !each.ended);
        alive.count() as u64
    }
}

impl ReferenceStateMachine for Reference {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Step> {
        let node = 0..2_usize;
        let user = 0..USERS;
        let create = (node.clone(), user.clone())
            .prop_map(|(node, user)| Step::Create { node, user })
            .boxed();
        if state.sessions.is_empty() {
            return create;
        }
        let tokens: Vec<usize> = state.sessions.iter().map(|each| each.tokens).collect();
        let session = 0..tokens.len();
        let sent =
            session.clone().prop_flat_map(move |session| (Just(session), 0..tokens[session]));
        let on_session = (node.clone(), session);
        let on_token = (node.clone(), sent);
        let mut steps = vec![
            (
                12,
                on_token
                    .clone()
                    .prop_map(|(node, (session, token))| Step::Validate { node, session, token })
                    .boxed(),
            ),
            (
                3,
                on_session
                    .clone()
                    .prop_map(|(node, session)| Step::Update { node, session })
                    .boxed(),
            ),
            (
                3,
                (on_session.clone(), any::<bool>())
                    .prop_map(|((node, session), with_grace)| Step::Rotate {
                        node,
                        session,
                        with_grace,
                    })
                    .boxed(),
            ),
            (
                2,
                on_token
                    .prop_map(|(node, (session, token))| Step::Revoke { node, session, token })
                    .boxed(),
            ),
            (
                1,
                (node.clone(), user)
                    .prop_map(|(node, user)| Step::RevokeAll { node, user })
                    .boxed(),
            ),
            (1, on_session.prop_map(|(node, session)| Step::PlainSql { node, session }).boxed()),
            (1, (node, any::<bool>()).prop_map(|(node, on)| Step::Bypass { node, on }).boxed()),
            (1, Just(Step::Flush).boxed()),
            (1, Just(Step::RestartRedis).boxed()),
        ];
        if state.sessions.len() < SESSIONS {
            steps.push((3, create));
        }
        Union::new_weighted(steps).boxed()
    }

    fn preconditions(state: &Self, step: &Step) -> bool {
        let token_of = |session: usize, token: usize| {
            state.sessions.get(session).is_some_and(|each| token < each.tokens)
        };
        match step {
            Step::Validate { session, token, .. } | Step::Revoke { session, token, .. } => {
                token_of(*session, *token)
            }
            Step::Update { session, .. }
            | Step::Rotate { session, .. }
            | Step::PlainSql { session, .. } => token_of(*session, 0),
            Step::Create { .. } => state.sessions.len() < SESSIONS,
            _ => true,
        }
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        match step {
            Step::Create { user, .. } => {
                state.writes += 1;
                state.sessions.push(Session {
                    user: *user,
                    ended: false,
                    data: state.writes,
                    tokens: 1,
                    grace: false,
                });
            }
            Step::Update { session, .. } if !state.sessions[*session].ended => {
                state.writes += 1;
                state.sessions[*session].data = state.writes;
            }
            Step::Rotate { session, with_grace, .. } if !state.sessions[*session].ended => {
                state.sessions[*session].tokens += 1;
                state.sessions[*session].grace = *with_grace;
            }
            Step::Revoke { session, token, .. } if state.sessions[*session].is_named_by(*token) => {
                state.sessions[*session].ended = true;
            }
            Step::PlainSql { session, .. } => state.sessions[*session].ended = true,
            Step::RevokeAll { user, .. } => {
                for each in state.sessions.iter_mut().filter(|each| each.user == *user) {
                    each.ended = true;
                }
            }
            _ => {}
        }
        state
    }
}
