//! The sessions of a run as its clients know them: their numbers and issued tokens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::plan::TokenChoice;
use crate::subject::Token;

/// A session whose login returned.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) number: u32,
    /// Never empty. The index of a token is its number in the history.
    tokens: Mutex<Vec<Token>>,
}

impl Known {
    pub(super) fn new(number: u32, token: Token) -> Self {
        Self { number, tokens: Mutex::new(vec![token]) }
    }

    /// Adds a token that a rotation issued, and returns its number.
    pub(super) fn add(&self, token: Token) -> u32 {
        let mut tokens = lock(&self.tokens);
        tokens.push(token);
        number(tokens.len() - 1)
    }

    /// Returns the token `back` places before the newest, or the first one, with its number.
    fn token(&self, back: usize) -> Option<(u32, Token)> {
        let tokens = lock(&self.tokens);
        let at = tokens.len().checked_sub(1)?.saturating_sub(back);
        Some((number(at), tokens[at].clone()))
    }
}

/// Converts the number. An overflow would need 4 billion rotations of one session.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// A token that was issued.
#[derive(Debug, Clone)]
pub struct IssuedToken {
    /// The session's number in the history.
    pub session: u32,
    /// The token's number in that session.
    pub number: u32,
    /// The secret.
    pub token: Token,
}

/// The tokens that a run issued, in order. All clones share one list. It serves searches for raw
/// tokens, and direct changes of sessions.
#[derive(Debug, Clone, Default)]
pub struct Tokens(Arc<Mutex<Vec<IssuedToken>>>);

impl Tokens {
    pub(super) fn add(&self, session: u32, number: u32, token: Token) {
        lock(&self.0).push(IssuedToken { session, number, token });
    }

    /// Returns all tokens so far.
    pub fn all(&self) -> Vec<IssuedToken> {
        lock(&self.0).clone()
    }

    /// Returns one of the newest `most` tokens, selected by `draw`. `None` if there is none.
    pub fn recent(&self, most: usize, draw: usize) -> Option<IssuedToken> {
        let all = lock(&self.0);
        let from = all.len().saturating_sub(most.max(1));
        let newest = &all[from..];
        newest.get(draw.checked_rem(newest.len())?).cloned()
    }
}

/// The slots, each with the session that was last created there, and the one before.
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

    /// Returns the session, the token's number and the token to send. `None` if no login of the
    /// slot has returned yet.
    pub(super) fn choose(
        &self,
        slot: u32,
        choice: TokenChoice,
    ) -> Option<(Arc<Known>, u32, Token)> {
        let slot = self.slot(slot)?;
        let session = match choice {
            TokenChoice::Former => slot.former.as_ref().or(slot.now.as_ref()),
            TokenChoice::Newest | TokenChoice::Older => slot.now.as_ref(),
        };
        let session = Arc::clone(session?);
        let back = usize::from(choice == TokenChoice::Older);
        let (number, token) = session.token(back)?;
        Some((session, number, token))
    }
}

/// Locks the data, which are consistent even after a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
