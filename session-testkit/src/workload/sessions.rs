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
