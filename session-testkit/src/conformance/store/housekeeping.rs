//! Checks that housekeeping removes only what is obsolete.

use std::time::Duration;

use session_layer::store::{SessionStore, Target};

use super::{Case, Check, Outcome, answer};
use crate::conformance::check::{When as _, checks, ensure_eq};

/// Longer than the age of any change by a check.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pub(super) fn checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"housekeeping" |store| &Case::of(store) =>
        sweep_keeps_recently_ended_sessions: "`sweep` keeps active sessions, and those that ended \
            less than `retention` ago, which are still `Revoked`.",
        purge_keeps_recent_changes: "`purge_journal` keeps the rows of changes that are younger \
            than `keep`.",
    }
}

async fn sweep_keeps_recently_ended_sessions<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    case.login("a", "alice").await?;
    case.login("b", "alice").await?;
    case.revoke(&case.by_token("b")).await?;
    answer("sweep", case.store.sweep(YEAR, 1_000)).await?;
    case.alive("a").await.when("after a sweep")?;
    case.revoked("b").await.when("after a sweep")
}

async fn purge_keeps_recent_changes<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let id = case.login("a", "alice").await?.id();
    case.revoke(&Target::Id(id)).await?;
    let rows = async || {
        let read = answer("journal_since", case.store.journal_since(None)).await?;
        Ok(super::journal::about(read.rows, &[id]).len())
    };
    let before = rows().await?;
    answer("purge_journal", case.store.purge_journal(YEAR)).await?;
    ensure_eq!("the number of remaining rows of one change", rows().await?, before);
    Ok(())
}
