//! Checks of revocations.

use std::time::Duration;

use session_layer::limits::LIST_PAGE;
use session_layer::store::{Creation, Revoked, SessionStore, Target};

use super::{Case, Check, HOUR, Outcome, answer, ensure, made};
use crate::conformance::check::{When as _, checks, ensure_eq};

pub(super) fn checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"revocations" |store| &Case::of(store) =>
        session_is_revoked_by_token_id_or_owner: "`revoke` ends the session of this token, or of \
            this id, or of this id if it is this user's. `load` then returns `Revoked`. The result \
            names the digests.",
        several_sessions_are_revoked_by_their_ids: "`revoke` of `Target::Ids` ends each of these \
            sessions, of any user, and no other. Unknown and ended ones are no error.",
        second_revoke_finds_and_ends_nothing: "Revoking an ended session is no error. It is found \
            but not ended, and its digests are named again, because a first try may have been lost \
            half-way.",
        revoking_unknown_session_is_no_error: "Revoking an unknown session finds nothing. An \
            expired one is found and not ended.",
        previous_token_revokes_within_its_grace: "Within the grace of a rotation the previous \
            token ends the session, with both digests. After it, it finds nothing.",
        revoke_all_can_keep_one_session: "`Target::User` ends all sessions of this user only, \
            except the named one if it is the user's. That one's version is raised, because its \
            entries are stale.",
        login_after_revoke_all_is_active: "A revoke-all does not end a login that begins later, \
            even if the user never logged in before.",
        login_from_before_revoke_all_is_superseded: "`create` of a login that began \
            (`login_snapshot`) before a revoke-all is `Superseded` and creates nothing. A login \
            that began after it is created. Both hold even if the user never logged in before.",
        digests_include_ended_sessions: "`digests` returns every digest that a target's sessions \
            have or had, whether active or ended, and no others.",
    }
}

/// Checks what `revoke` found and ended.
fn check_revoked<const N: usize>(
    case: &Case<'_, impl SessionStore>,
    revoked: &Revoked,
    (ended, found): (u64, u64),
    digests: [&str; N],
) -> Outcome {
    ensure_eq!("the number of ended sessions", revoked.ended, ended);
    ensure_eq!("the number of found sessions", revoked.found, found);
    ensure_eq!("the digests", revoked.digests, case.tokens(digests));
    Ok(())
}

async fn session_is_revoked_by_token_id_or_owner<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let mut ids = Vec::new();
    for name in ["id", "owner", "other", "token"] {
        ids.push(case.login(name, "alice").await?.id());
    }
    for (name, target) in [
        ("token", case.by_token("token")),
        ("id", Target::Id(ids[0])),
        ("owner", case.owned_by(ids[1], "alice")),
    ] {
        let revoked = case.revoke(&target).await?;
        check_revoked(case, &revoked, (1, 1), [name]).when(format!("revoked by {name}"))?;
        case.revoked(name).await?;
    }
    let not_theirs = case.revoke(&case.owned_by(ids[2], "bob")).await?;
    check_revoked(case, &not_theirs, (0, 0), []).when("revoked by another user")?;
    case.alive("other").await.when("revoked by another user")?;
    Ok(())
}

async fn several_sessions_are_revoked_by_their_ids<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let mut ids = vec![case.unknown_id()];
    for (name, user) in [("a", "alice"), ("b", "bob"), ("c", "alice")] {
        ids.push(case.login(name, user).await?.id());
    }
    let target = Target::Ids(ids[..3].to_vec());
    for ended in [2, 0] {
        let revoked = case.revoke(&target).await?;
        check_revoked(case, &revoked, (ended, 2), ["a", "b"]).when("revoked by their ids")?;
        case.revoked("a").await?;
        case.revoked("b").await?;
    }
    case.alive("c").await.when("not named")?;
    Ok(())
}

async fn second_revoke_finds_and_ends_nothing<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let session = case.login("a", "alice").await?;
    case.revoke(&case.by_token("a")).await?;
    for target in [case.by_token("a"), Target::Id(session.id()), case.all_of("alice", None)] {
        let again = case.revoke(&target).await?;
        check_revoked(case, &again, (0, 1), ["a"]).when("revoked a second time")?;
    }
    Ok(())
}

async fn revoking_unknown_session_is_no_error<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    for target in [case.by_token("a"), Target::Id(case.unknown_id()), case.all_of("bob", None)] {
        check_revoked(case, &case.revoke(&target).await?, (0, 0), []).when("without a session")?;
    }
    let short = case.short("alice", Duration::from_millis(1))?;
    case.login_as("a", &short).await?;
    case.until_ended("a").await?;
    let over = case.revoke(&case.by_token("a")).await?;
    check_revoked(case, &over, (0, 1), ["a"]).when("of an expired session")
}

async fn previous_token_revokes_within_its_grace<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    case.login("a", "alice").await?;
    case.rotated("a", "b", HOUR).await?;
    let revoked = case.revoke(&case.by_token("a")).await?;
    check_revoked(case, &revoked, (1, 1), ["a", "b"]).when("by the previous token")?;
    for name in ["a", "b"] {
        case.revoked(name).await?;
    }

    case.login("c", "alice").await?;
    case.rotated("c", "d", Duration::ZERO).await?;
    let too_late = case.revoke(&case.by_token("c")).await?;
    check_revoked(case, &too_late, (0, 0), []).when("by a previous token without grace")?;
    case.alive("d").await?;
    Ok(())
}

async fn revoke_all_can_keep_one_session<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    for (name, user) in [("a", "alice"), ("b", "alice"), ("c", "alice"), ("d", "bob")] {
        case.login(name, user).await?;
    }
    let kept = case.alive("b").await?;
    for ended in [2, 0] {
        let revoked = case.revoke(&case.all_of("alice", Some(kept.id()))).await?;
        check_revoked(case, &revoked, (ended, 2), ["a", "b", "c"])?;
        case.revoked("a").await?;
        case.revoked("c").await?;
        case.alive("d").await?;
        let still = case.alive("b").await.when("kept")?;
        ensure!(
            still.version() > kept.version(),
            "the version of the kept session is still {}",
            kept.version()
        );
        made("touch", case.touch(still.id(), HOUR).await?)?;
    }
    let still = case.alive("b").await?;
    made("update", case.update(still.id(), still.version(), "[]").await?)?;
    let page = answer("list", case.store.list(&case.user("alice"), None, LIST_PAGE)).await?;
    ensure_eq!("the number of listed sessions", page.sessions.len(), 1);

    // Another user's session is not kept.
    let bobs = case.alive("d").await?.id();
    let revoked = case.revoke(&case.all_of("alice", Some(bobs))).await?;
    check_revoked(case, &revoked, (1, 3), ["a", "b", "c"]).when("keeping another user's")?;
    case.alive("d").await?;
    Ok(())
}

async fn login_after_revoke_all_is_active<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    for name in ["a", "b", "c"] {
        case.login(name, "alice").await?;
        case.alive(name).await.when("after a revoke-all")?;
        let revoked = case.revoke(&case.all_of("alice", None)).await?;
        ensure_eq!("the number of ended sessions", revoked.ended, 1);
        case.revoked(name).await?;
    }
    // The same for a user who never logged in before.
    case.revoke(&case.all_of("bob", None)).await?;
    case.login("d", "bob").await?;
    case.alive("d").await?;
    Ok(())
}

async fn login_from_before_revoke_all_is_superseded<S: SessionStore>(
    case: &Case<'_, S>,
) -> Outcome {
    case.login("known", "alice").await?;
    for user in ["alice", "bob"] {
        let mut from_before = case.new_session(user)?;
        from_before.begun = Some(answer("login_snapshot", case.store.login_snapshot()).await?);
        case.revoke(&case.all_of(user, None)).await?;
        let before = format!("{user} before");
        let creation = case.create(&before, &from_before).await?;
        ensure!(
            matches!(creation, Creation::Superseded),
            "`create` of a login from before a revoke-all returned {creation:?}"
        );
        case.absent(&before).await?;

        let mut from_after = case.new_session(user)?;
        from_after.begun = Some(answer("login_snapshot", case.store.login_snapshot()).await?);
        let after = format!("{user} after");
        let created = case.login_as(&after, &from_after).await;
        created.when("of a login that began after a revoke-all")?;
        case.alive(&after).await?;
    }
    Ok(())
}

async fn digests_include_ended_sessions<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let session = case.login("a", "alice").await?;
    case.login("b", "alice").await?;
    case.login("c", "bob").await?;
    case.revoke(&case.by_token("b")).await?;
    case.rotated("a", "a2", HOUR).await?;
    for (target, expected) in [
        (case.by_token("b"), case.tokens(["b"])),
        (case.by_token("a"), case.tokens(["a", "a2"])),
        (case.by_token("a2"), case.tokens(["a", "a2"])),
        (Target::Id(session.id()), case.tokens(["a", "a2"])),
        (case.owned_by(session.id(), "alice"), case.tokens(["a", "a2"])),
        (case.owned_by(session.id(), "bob"), Vec::new()),
        (case.by_token("x"), Vec::new()),
    ] {
        let mut digests = answer("digests", case.store.digests(&target)).await?;
        digests.sort();
        ensure_eq!(format!("the digests of {target:?}"), digests, expected);
    }
    Ok(())
}
