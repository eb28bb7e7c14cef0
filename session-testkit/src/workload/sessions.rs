//! The sessions of a run, as its clients know them: numbers, and tokens that were given out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::plan::Presented;
use crate::subject::Token;

/// A session whose login was answered.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) number: u32,
    /// Never empty; the place of a token is its number in the history.
    tokens: Mutex<Vec<Token>>,
}

impl Known {
    pub(super) fn new(number: u32, token: Token) -> Self {
        Self {
            number,
            tokens: Mutex::new(vec![token]),
        }
    }

    /// A rotation gave this token out. Its number.
    pub(super) fn add(&self, token: Token) -> u32 {
        let mut tokens = lock(&self.tokens);
        tokens.push(token);
        number(tokens.len() - 1)
    }

    /// The newest token but this many, with its number; the first one if there are fewer.
    fn token(&self, back: usize) -> Option<(u32, Token)> {
        let tokens = lock(&self.tokens);
        let at = tokens.len().checked_sub(1)?.saturating_sub(back);
        Some((number(at), tokens[at].clone()))
    }
}

/// A run would need 4 billion rotations of one session.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// A token that was given out.
#[derive(Debug, Clone)]
pub struct GivenOut {
    /// The session's number in the history.
    pub session: u32,
    /// The token's number in that session.
    pub number: u32,
    /// The secret.
    pub token: Token,
}

/// The tokens that were given out in a run, in order. Cheap to clone; all clones are one. For those who
/// search for them, or end sessions behind the subject's back.
#[derive(Debug, Clone, Default)]
pub struct Tokens(Arc<Mutex<Vec<GivenOut>>>);

impl Tokens {
    pub(super) fn add(&self, session: u32, number: u32, token: Token) {
        lock(&self.0).push(GivenOut {
            session,
            number,
            token,
        });
    }

    /// All of them, so far.
    #[must_use]
    pub fn all(&self) -> Vec<GivenOut> {
        lock(&self.0).clone()
    }

    /// The one that `draw` falls on among the newest `most`; `None` while there is none.
    #[must_use]
    pub fn recent(&self, most: usize, draw: usize) -> Option<GivenOut> {
        let all = lock(&self.0);
        let from = all.len().saturating_sub(most.max(1));
        let newest = &all[from..];
        newest.get(draw.checked_rem(newest.len())?).cloned()
    }
}

/// Each slot with the session that was created there last, and the one before.
#[derive(Debug)]
pub(super) struct Slots(Vec<Mutex<Slot>>);

#[derive(Debug, Default)]
struct Slot {
    now: Option<Arc<Known>>,
    former: Option<Arc<Known>>,
}

impl Slots {
    pub(super) fn new(slots: u32) -> Self {
        Self((0..slots).map(|_| Mutex::default()).collect())
    }

    fn slot(&self, slot: u32) -> Option<MutexGuard<'_, Slot>> {
        self.0.get(usize::try_from(slot).ok()?).map(lock)
    }

    pub(super) fn take(&self, slot: u32, session: Known) {
        if let Some(mut slot) = self.slot(slot) {
            slot.former = slot.now.replace(Arc::new(session));
        }
    }

    /// What is presented: the session, the token's number, the token. `None` if no login of the slot was
    /// answered yet.
    pub(super) fn presented(
        &self,
        slot: u32,
        presented: Presented,
    ) -> Option<(Arc<Known>, u32, Token)> {
        let slot = self.slot(slot)?;
        let session = match presented {
            Presented::Former => slot.former.as_ref().or(slot.now.as_ref()),
            Presented::Newest | Presented::Older => slot.now.as_ref(),
        };
        let session = Arc::clone(session?);
        let back = usize::from(presented == Presented::Older);
        let (number, token) = session.token(back)?;
        Some((session, number, token))
    }
}

/// What is under these locks is whole at every time, so a panic elsewhere does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
