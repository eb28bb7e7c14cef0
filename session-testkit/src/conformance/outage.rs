//! Ports whose server is down, or hangs: they say so, in time, and never anything else.

use std::{fmt, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use serde_json::value::RawValue;
use session_layer::cache::{Belief, Lookup, SessionCache};
use session_layer::store::{SessionStore, Target};
use session_layer::{NewSession, SessionId, StoreError, TokenDigest};

use super::check::{Check, Failure, Outcome, PATIENCE, checks, ensure, in_time};
use crate::wait::Patience;

/// All checks of a cache whose server cannot be reached, or never answers.
#[must_use]
pub fn cache_outage_checks<C: SessionCache>() -> Vec<Check<C>> {
    checks! {"outage":
        a_look_up_fails_for_each_digest: "`get` answers `Failed` for each digest, in time: a cache that \
            could not be asked has not said \"miss\", and gives no lease.",
        no_invalidation_is_acknowledged: "`fence` and `invalidate` are errors, in time: what nobody removed \
            is not reported as removed.",
        the_cache_says_that_it_is_down: "`status` comes to say that it is not connected and that no \
            connection is available; `probe` is not connected and says why.",
    }
}

/// All checks of a store whose server cannot be reached, or never answers.
#[must_use]
pub fn store_outage_checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"outage":
        a_read_is_an_error: "`load`, `digests`, `list`, `login_moment` and `journal_since` are errors, in \
            time: an outage is never a \"no\".",
        a_change_is_an_error: "`create`, `update`, `rotate`, `touch` and `revoke` are errors, in time: what \
            nobody changed is not reported as changed, nor as not there.",
        the_store_says_that_it_is_down: "`probe` is an error, in time.",
    }
}

const TOKENS: [TokenDigest; 2] = [
    TokenDigest::from_bytes([0xa5; 32]),
    TokenDigest::from_bytes([0x5a; 32]),
];

async fn a_look_up_fails_for_each_digest<C: SessionCache>(cache: &C) -> Outcome {
    let answers = in_time("get", cache.get(&TOKENS, &|_| Belief::Believed)).await?;
    let failed = answers
        .iter()
        .filter(|answer| matches!(answer, Lookup::Failed(_)));
    let failed = failed.count();
    ensure!(
        answers.len() == TOKENS.len() && failed == answers.len(),
        "`get` of {} digests gave {} answers, {failed} of them `Failed`",
        TOKENS.len(),
        answers.len()
    );
    Ok(())
}

async fn no_invalidation_is_acknowledged<C: SessionCache>(cache: &C) -> Outcome {
    is_error("fence", cache.fence(&TOKENS)).await?;
    is_error("invalidate", cache.invalidate(&TOKENS)).await
}

async fn the_cache_says_that_it_is_down<C: SessionCache>(cache: &C) -> Outcome {
    let probe = in_time("probe", cache.probe()).await?;
    ensure!(!probe.connected, "`probe` says `connected`");
    ensure!(!probe.errors.is_empty(), "`probe` does not say why");
    let mut patience = Patience::new("`status` to say that it is not connected", PATIENCE);
    let noticed = async || {
        // What does not answer is noticed by asking.
        let _ = in_time("get", cache.get(&TOKENS, &|_| Belief::Believed)).await;
        let status = cache.status();
        !status.connected && status.available == 0
    };
    loop {
        match patience.look(noticed()).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => return Err(Failure::new(error.to_string())),
        }
    }
}

async fn a_read_is_an_error<S: SessionStore>(store: &S) -> Outcome {
    is_error("load", store.load(&TOKENS)).await?;
    is_error("load", store.load(&[])).await?;
    is_error("digests", store.digests(&Target::Token(TOKENS[0]))).await?;
    is_error("list", store.list("alice")).await?;
    is_error("login_moment", store.login_moment()).await?;
    is_error("journal_since", store.journal_since(None)).await
}

async fn a_change_is_an_error<S: SessionStore>(store: &S) -> Outcome {
    let new = NewSession::new("alice").check();
    let new = new.map_err(|error| Failure::new(error.to_string()))?;
    let (id, [a, b]) = (SessionId::from_bytes([7; 16]), TOKENS);
    let hour = Duration::from_secs(3600);
    is_error("create", store.create(a, &new)).await?;
    is_error("update", store.update(id, 1, RawValue::NULL)).await?;
    is_error("rotate", store.rotate(a, b, hour)).await?;
    is_error("touch", store.touch(id, hour)).await?;
    is_error("revoke", store.revoke(&Target::Id(id), "test")).await
}

async fn the_store_says_that_it_is_down<S: SessionStore>(store: &S) -> Outcome {
    let probed: Result<(), StoreError> = in_time("probe", store.probe()).await?;
    ensure!(probed.is_err(), "`probe` says that it can answer");
    Ok(())
}

/// The operation must be answered with an error.
fn is_error<'a, T: fmt::Debug + 'a, E: 'a>(
    operation: &'static str,
    asked: impl Future<Output = Result<T, E>> + Send + 'a,
) -> BoxFuture<'a, Outcome> {
    let answered = in_time(operation, asked);
    Box::pin(answered.map(move |answered| match answered? {
        Err(_outage) => Ok(()),
        Ok(answered) => Err(Failure::new(format!(
            "`{operation}` was answered {answered:?}"
        ))),
    }))
}
