//! Checks of ports whose server is down or hangs: every operation must return an error in time.

use std::{fmt, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use serde_json::value::RawValue;
use session_layer::cache::{EntryVerdict, Lookup, SessionCache};
use session_layer::error::StoreError;
use session_layer::limits::LIST_PAGE;
use session_layer::store::{SessionStore, Target};
use session_layer::{NewSession, SessionId, TokenDigest};

use super::check::{Check, Failure, Outcome, PATIENCE, checks, ensure, in_time};
use crate::wait::Patience;

/// Returns all checks of a cache whose server is unreachable or never replies.
pub fn cache_outage_checks<C: SessionCache>() -> Vec<Check<C>> {
    checks! {"outage":
        lookup_fails_for_each_digest: "`get` returns `Failed` for each digest, in time. An outage \
            is neither a miss nor a lease.",
        invalidation_is_never_acknowledged: "`fence` and `invalidate` return errors, in time. A \
            removal that did not happen is not reported.",
        cache_reports_that_it_is_down: "`status` comes to report no connection, and none as \
            available. `probe` is not connected and states why.",
    }
}

/// Returns all checks of a store whose server is unreachable or never replies.
pub fn store_outage_checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"outage":
        reads_return_errors: "`load`, `digests`, `list`, `login_snapshot` and `journal_since` \
            return errors, in time. An outage is never an empty result.",
        changes_return_errors: "`create`, `update`, `rotate`, `touch` and `revoke` return errors, \
            in time. A change that did not happen is neither reported as made nor as `NoSession`.",
        store_reports_that_it_is_down: "`probe` returns an error, in time.",
    }
}

const TOKENS: [TokenDigest; 2] =
    [TokenDigest::from_bytes([0xa5; 32]), TokenDigest::from_bytes([0x5a; 32])];

async fn lookup_fails_for_each_digest<C: SessionCache>(cache: &C) -> Outcome {
    let results = in_time("get", cache.get(&TOKENS, &|_| EntryVerdict::Fresh)).await?;
    let failed = results.iter().filter(|result| matches!(result, Lookup::Failed(_))).count();
    ensure!(
        results.len() == TOKENS.len() && failed == results.len(),
        "`get` of {} digests returned {} results, {failed} of them `Failed`",
        TOKENS.len(),
        results.len()
    );
    Ok(())
}

async fn invalidation_is_never_acknowledged<C: SessionCache>(cache: &C) -> Outcome {
    is_error("fence", cache.fence(&TOKENS)).await?;
    is_error("invalidate", cache.invalidate(&TOKENS)).await
}

async fn cache_reports_that_it_is_down<C: SessionCache>(cache: &C) -> Outcome {
    let probe = in_time("probe", cache.probe()).await?;
    ensure!(!probe.connected, "`probe` reports `connected`");
    ensure!(!probe.errors.is_empty(), "`probe` does not state the reason");
    let mut patience = Patience::new("`status` to report no connection", PATIENCE);
    let noticed = async || {
        // Only a query detects a server that does not reply.
        let _ = in_time("get", cache.get(&TOKENS, &|_| EntryVerdict::Fresh)).await;
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

async fn reads_return_errors<S: SessionStore>(store: &S) -> Outcome {
    is_error("load", store.load(&TOKENS)).await?;
    is_error("load", store.load(&[])).await?;
    is_error("digests", store.digests(&Target::Token(TOKENS[0]))).await?;
    is_error("list", store.list("alice", None, LIST_PAGE)).await?;
    is_error("login_snapshot", store.login_snapshot()).await?;
    is_error("journal_since", store.journal_since(None)).await
}

async fn changes_return_errors<S: SessionStore>(store: &S) -> Outcome {
    let new = NewSession::new("alice").check();
    let new = new.map_err(|error| Failure::new(error.to_string()))?;
    let (id, [a, b]) = (SessionId::from_bytes([7; 16]), TOKENS);
    let hour = Duration::from_secs(3600);
    is_error("create", store.create(a, &new)).await?;
    is_error("update", store.update(id, 1, RawValue::NULL)).await?;
    is_error("rotate", store.rotate(a, b, hour)).await?;
    is_error("touch", store.touch(id, hour)).await?;
    is_error("revoke", store.revoke(&Target::Id(id), &"test".into())).await
}

async fn store_reports_that_it_is_down<S: SessionStore>(store: &S) -> Outcome {
    let probed: Result<(), StoreError> = in_time("probe", store.probe()).await?;
    ensure!(probed.is_err(), "`probe` reports that the store works");
    Ok(())
}

/// Checks that the operation returns an error.
fn is_error<'a, T: fmt::Debug + 'a, E: 'a>(
    operation: &'static str,
    future: impl Future<Output = Result<T, E>> + Send + 'a,
) -> BoxFuture<'a, Outcome> {
    let reply = in_time(operation, future);
    Box::pin(reply.map(move |reply| match reply? {
        Err(_outage) => Ok(()),
        Ok(result) => Err(Failure::new(format!("`{operation}` returned {result:?}"))),
    }))
}
