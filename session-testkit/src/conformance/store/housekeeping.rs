//! Removing what nobody needs any more, and nothing else.

use std::time::Duration;

use session_layer::store::{SessionStore, Target};

use super::{Case, Check, Outcome, answer};
use crate::conformance::check::{When as _, checks, ensure_eq};

/// Longer ago than anything that a check has done.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pub(super) fn checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"housekeeping":
        a_sweep_spares_what_has_not_ended_long_ago: "`sweep` leaves the living alone, and what ended less \
            than `retention` ago: it still says `Revoked`.",
        a_purge_spares_what_is_not_old: "`purge_journal` leaves the rows of changes that were made less \
            than `keep` ago.",
    }
}

async fn a_sweep_spares_what_has_not_ended_long_ago<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    case.login("a", "alice").await?;
    case.login("b", "alice").await?;
    case.revoke(&case.by_token("b")).await?;
    answer("sweep", store.sweep(YEAR, 1_000)).await?;
    case.alive("a").await.when("after a sweep")?;
    case.revoked("b").await.when("after a sweep")
}

async fn a_purge_spares_what_is_not_old<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    let id = case.login("a", "alice").await?.id();
    case.revoke(&Target::Id(id)).await?;
    let rows = async || {
        let read = answer("journal_since", store.journal_since(None)).await?;
        let about = read.rows.iter().filter(|row| row.session_id == Some(id));
        Ok(about.count())
    };
    let before = rows().await?;
    answer("purge_journal", store.purge_journal(YEAR)).await?;
    ensure_eq!(
        "how many rows are left of one change",
        rows().await?,
        before
    );
    Ok(())
}
