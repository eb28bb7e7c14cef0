//! Revoking.

use std::time::Duration;

use session_layer::store::{Creation, Revoked, SessionStore, Target};

use super::{Case, Check, HOUR, Outcome, answer, ensure, made};
use crate::conformance::check::{When as _, checks, ensure_eq};

pub(super) fn checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"ends":
        a_session_is_revoked_by_token_id_and_owner: "`revoke` ends the session with this token, or this \
            id, or this id if it is this user's; from then on `load` says `Revoked`. It names its digests.",
        revoking_twice_finds_it_and_ends_nothing: "Ending what has ended is no error: it is found, not \
            ended, and its digests are named again, for a first try may have been lost half-way.",
        revoking_nothing_is_no_error: "Ending what is not there finds nothing; what is past its time is \
            found and not ended.",
        the_previous_token_revokes_within_its_grace: "Within the grace of a rotation the previous token ends \
            the session, with both digests; after it, it finds nothing.",
        all_of_a_user_but_one: "`Target::User` ends all of the user's sessions, nobody else's, and spares the \
            one it names if it is theirs; that one's version is raised, since its copies are out of date.",
        a_login_after_revoke_all_is_new: "A login that begins after a revoke-all is not ended by it, also \
            where the user had never logged in before.",
        a_login_from_before_revoke_all_is_superseded: "`create` of a login that began (`login_moment`) before \
            a revoke-all is `Superseded` and creates nothing, also where the user had never logged in before; \
            one that began after it is created.",
        digests_are_those_of_dead_and_living: "`digests` names every digest that a target's sessions have \
            or had, dead or alive, and no others.",
    }
}

/// What `revoke` must have found and done.
fn told<const N: usize>(
    case: &Case<'_, impl SessionStore>,
    revoked: &Revoked,
    (ended, found): (u64, u64),
    digests: [&str; N],
) -> Outcome {
    ensure_eq!("how many were ended", revoked.ended, ended);
    ensure_eq!("how many were found", revoked.found, found);
    ensure_eq!("the digests", revoked.digests, case.tokens(digests));
    Ok(())
}

async fn a_session_is_revoked_by_token_id_and_owner<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
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
        told(&case, &revoked, (1, 1), [name]).when(format!("revoked by {name}"))?;
        case.revoked(name).await?;
    }
    let not_theirs = case.revoke(&case.owned_by(ids[2], "bob")).await?;
    told(&case, &not_theirs, (0, 0), []).when("revoked by another user")?;
    case.alive("other").await.when("revoked by another user")?;
    Ok(())
}

async fn revoking_twice_finds_it_and_ends_nothing<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    let session = case.login("a", "alice").await?;
    case.revoke(&case.by_token("a")).await?;
    for target in [
        case.by_token("a"),
        Target::Id(session.id()),
        case.all_of("alice", None),
    ] {
        let again = case.revoke(&target).await?;
        told(&case, &again, (0, 1), ["a"]).when("revoked a second time")?;
    }
    Ok(())
}

async fn revoking_nothing_is_no_error<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    for target in [
        case.by_token("a"),
        Target::Id(case.unknown_id()),
        case.all_of("nobody", None),
    ] {
        told(&case, &case.revoke(&target).await?, (0, 0), []).when("where there is none")?;
    }
    let short = case.short("alice", Duration::from_millis(1))?;
    case.login_as("a", &short).await?;
    case.until_over("a").await?;
    let over = case.revoke(&case.by_token("a")).await?;
    told(&case, &over, (0, 1), ["a"]).when("of a session past its time")
}

async fn the_previous_token_revokes_within_its_grace<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    case.login("a", "alice").await?;
    case.rotated("a", "b", HOUR).await?;
    let revoked = case.revoke(&case.by_token("a")).await?;
    told(&case, &revoked, (1, 1), ["a", "b"]).when("by the previous token")?;
    for name in ["a", "b"] {
        case.revoked(name).await?;
    }

    case.login("c", "alice").await?;
    case.rotated("c", "d", Duration::ZERO).await?;
    let too_late = case.revoke(&case.by_token("c")).await?;
    told(&case, &too_late, (0, 0), []).when("by a previous token without grace")?;
    case.alive("d").await?;
    Ok(())
}

async fn all_of_a_user_but_one<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    for (name, user) in [("a", "alice"), ("b", "alice"), ("c", "alice"), ("d", "bob")] {
        case.login(name, user).await?;
    }
    let kept = case.alive("b").await?;
    for ended in [2, 0] {
        let revoked = case.revoke(&case.all_of("alice", Some(kept.id()))).await?;
        told(&case, &revoked, (ended, 2), ["a", "b", "c"])?;
        case.revoked("a").await?;
        case.revoked("c").await?;
        case.alive("d").await?;
        let still = case.alive("b").await.when("spared")?;
        ensure!(
            still.version() > kept.version(),
            "the version of the one that was spared is still {}",
            kept.version()
        );
        made("touch", case.touch(still.id(), HOUR).await?)?;
    }
    let still = case.alive("b").await?;
    made(
        "update",
        case.update(still.id(), still.version(), "[]").await?,
    )?;
    let listed = answer("list", store.list(&case.user("alice"))).await?;
    ensure_eq!("how many sessions are listed", listed.len(), 1);

    // Nobody else's session is spared.
    let bobs = case.alive("d").await?.id();
    let revoked = case.revoke(&case.all_of("alice", Some(bobs))).await?;
    told(&case, &revoked, (1, 3), ["a", "b", "c"]).when("sparing another user's")?;
    case.alive("d").await?;
    Ok(())
}

async fn a_login_after_revoke_all_is_new<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    for name in ["a", "b", "c"] {
        case.login(name, "alice").await?;
        case.alive(name).await.when("after a revoke-all")?;
        let revoked = case.revoke(&case.all_of("alice", None)).await?;
        ensure_eq!("how many were ended", revoked.ended, 1);
        case.revoked(name).await?;
    }
    // Also for a user who never logged in before.
    case.revoke(&case.all_of("bob", None)).await?;
    case.login("d", "bob").await?;
    case.alive("d").await?;
    Ok(())
}

async fn a_login_from_before_revoke_all_is_superseded<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    case.login("known", "alice").await?;
    for user in ["alice", "bob"] {
        let mut from_before = case.new_session(user)?;
        from_before.begun = Some(answer("login_moment", store.login_moment()).await?);
        case.revoke(&case.all_of(user, None)).await?;
        let before = format!("{user} before");
        let creation = case.create(&before, &from_before).await?;
        ensure!(
            matches!(creation, Creation::Superseded),
            "`create` of a login from before a revoke-all was answered {creation:?}"
        );
        case.absent(&before).await?;

        let mut from_after = case.new_session(user)?;
        from_after.begun = Some(answer("login_moment", store.login_moment()).await?);
        let after = format!("{user} after");
        case.login_as(&after, &from_after)
            .await
            .when("of a login that began after a revoke-all")?;
        case.alive(&after).await?;
    }
    Ok(())
}

async fn digests_are_those_of_dead_and_living<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    let session = case.login("a", "alice").await?;
    case.login("b", "alice").await?;
    case.login("c", "bob").await?;
    case.revoke(&case.by_token("b")).await?;
    case.rotated("a", "a2", HOUR).await?;
    for (target, expected) in [
        (case.all_of("alice", None), case.tokens(["a", "a2", "b"])),
        (case.by_token("a"), case.tokens(["a", "a2"])),
        (case.by_token("a2"), case.tokens(["a", "a2"])),
        (Target::Id(session.id()), case.tokens(["a", "a2"])),
        (
            case.owned_by(session.id(), "alice"),
            case.tokens(["a", "a2"]),
        ),
        (case.owned_by(session.id(), "bob"), Vec::new()),
        (case.by_token("x"), Vec::new()),
    ] {
        let mut digests = answer("digests", store.digests(&target)).await?;
        digests.sort();
        ensure_eq!(format!("the digests of {target:?}"), digests, expected);
    }
    Ok(())
}
