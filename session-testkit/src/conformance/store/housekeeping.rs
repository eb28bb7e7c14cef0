//! Checks that housekeeping removes only what is obsolete.

use std::time::Duration;

use session_layer::error::StoreErrorKind;
use session_layer::store::{Creation, SessionStore, Target, ValidatedSession};

use super::{Case, Check, Outcome, answer};
use crate::conformance::check::{When as _, checks, ensure, ensure_eq};

/// Longer than the age of any change by a check.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pub(super) fn checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"housekeeping" |store| &Case::of(store) =>
        sweep_keeps_recently_ended_sessions: "`sweep` keeps active sessions, and those that ended \
            less than `retention` ago, which are still `Revoked`.",
        purge_keeps_recent_changes: "`purge_journal` keeps the rows of changes that are younger \
            than `keep`.",
        swept_users_keep_their_revoke_all: "`sweep_users` keeps what a login in progress needs: a \
            login from before a revoke-all is still `Superseded`.",
        erasure_deletes_ended_sessions_of_one_user: "`erase_sessions` deletes at most `most` ended \
            sessions of the user and returns their number. It keeps active sessions and those of \
            other users. A store may be unable to erase, and returns an error then.",
        erased_user_keeps_their_revoke_all: "After `erase_sessions`, a login from before a \
            revoke-all is still `Superseded`.",
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

/// Returns a login of alice's that began before all her sessions were revoked. One had ended.
async fn login_before_revoke_all<S: SessionStore>(case: &Case<'_, S>) -> Outcome<ValidatedSession> {
    case.login("a", "alice").await?;
    let mut from_before = case.new_session("alice")?;
    from_before.begun = Some(answer("login_snapshot", case.store.login_snapshot()).await?);
    case.revoke(&case.all_of("alice", None)).await?;
    Ok(from_before)
}

async fn is_superseded<S: SessionStore>(case: &Case<'_, S>, login: &ValidatedSession) -> Outcome {
    let creation = case.create("before", login).await?;
    ensure!(
        matches!(creation, Creation::Superseded),
        "`create` of a login from before a revoke-all returned {creation:?}"
    );
    case.absent("before").await
}

async fn swept_users_keep_their_revoke_all<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let login = login_before_revoke_all(case).await?;
    // A name just below the user's, so that the sweep begins there.
    let mut below = case.user("alice");
    below.pop();
    answer("sweep_users", case.store.sweep_users(YEAR, Some(&below), 1_000)).await?;
    is_superseded(case, &login).await.when("after a sweep of users")
}

/// Erases the user's ended sessions. Returns `None` if the store cannot.
async fn erase<S: SessionStore>(case: &Case<'_, S>, user: &str, most: u32) -> Outcome<Option<u64>> {
    let user = case.user(user);
    let erased = async {
        match case.store.erase_sessions(&user, most).await {
            Err(error) if error.kind() == StoreErrorKind::Other => Ok(None),
            erased => erased.map(Some),
        }
    };
    answer("erase_sessions", erased).await
}

async fn erasure_deletes_ended_sessions_of_one_user<S: SessionStore>(
    case: &Case<'_, S>,
) -> Outcome {
    for (name, user) in [("a", "alice"), ("b", "alice"), ("c", "alice"), ("d", "bob")] {
        case.login(name, user).await?;
    }
    for ended in ["b", "c", "d"] {
        case.revoke(&case.by_token(ended)).await?;
    }
    for number in [1, 1, 0] {
        let Some(erased) = erase(case, "alice", 1).await? else { return Ok(()) };
        ensure_eq!("the number of sessions that `erase_sessions` deletes", erased, number);
    }
    case.alive("a").await.when("after an erasure")?;
    case.absent("b").await.when("after an erasure")?;
    case.absent("c").await.when("after an erasure")?;
    case.revoked("d").await.when("after an erasure of another user")
}

async fn erased_user_keeps_their_revoke_all<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let login = login_before_revoke_all(case).await?;
    erase(case, "alice", 1_000).await?;
    is_superseded(case, &login).await.when("after an erasure")
}
