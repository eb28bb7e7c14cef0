//! [`PresentedSessions`]: all that a request could be let in by.

use std::sync::Arc;

use crate::session::Session;
use crate::validate::Validation;

/// Every valid session that a request presented, in its order: for a logout, which has to end them all.
///
/// A browser sends several cookies of one name where the cookie's domain or path was changed once. One
/// of them is the request's [`Session`]; were a logout to end only that one, the next request would be
/// let in by another. Under [`.optional()`](crate::SessionCacheLayer::optional) it also holds those of
/// different users, of which none is the request's `Session`.
///
/// It is in the request's extensions wherever a token was looked up; with the feature `axum` it is an
/// extractor, empty where there was none.
#[derive(Debug, Clone, Default)]
pub struct PresentedSessions(Arc<[Session]>);

impl PresentedSessions {
    /// Those among the answers.
    pub(crate) fn among(answers: &[Validation]) -> Self {
        let valid = answers.iter().filter_map(|answer| match answer {
            Validation::Valid(session) => Some(session.clone()),
            _ => None,
        });
        Self(valid.collect())
    }

    /// The sessions, in the order of the request.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.0.iter()
    }
}
