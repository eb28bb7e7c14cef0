//! Checks of creating, loading and listing.

use std::{net::IpAddr, time::Duration};

use session_layer::limits::{
    LIST_PAGE, MAX_DATA_BYTES, MAX_LABEL_CHARS, MAX_USER_AGENT_CHARS, MAX_USER_ID_CHARS,
};
use session_layer::store::ValidatedSession;
use session_layer::store::{Creation, Row, SessionStore};
use session_layer::{NewSession, Session, SessionSummary};

use super::{Case, Check, Failure, HOUR, Outcome, answer, checked, data, ensure, failed};
use crate::conformance::check::{When as _, checks, ensure_eq};

pub(super) fn checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"reads" |store| &Case::of(store) =>
        created_session_is_loaded: "`create` returns the requested session at version 1. Its times \
            are of the store's clock, and its idle timeout is rounded up to whole seconds. `load` \
            returns the same session with `now`, and a store id that never changes.",
        largest_session_is_kept: "A session at every limit (200 characters of user id and label, \
            500 of user agent, 64 KiB of data) is kept completely.",
        results_match_the_order_of_digests: "`load` returns one row per digest, in order, also if \
            one occurs twice. Without digests it returns no rows.",
        used_digest_is_refused: "`create` under a digest that finds a session, or did before a \
            rotation, is `AlreadyExists`, and changes nothing.",
        concurrent_logins_create_one_session: "Exactly one of many concurrent `create`s under one \
            digest is `Created`. The others are `AlreadyExists`.",
        list_has_active_sessions_newest_first: "`list` has the active sessions of this user only, \
            newest first, with label, address and user agent.",
        list_is_paginated: "`list` has at most `limit` sessions, and a cursor exactly if more \
            follow. The next page begins after it, even if the session at the cursor has ended.",
        expired_session_is_absent: "A session is `Absent` after its lifetime by the store's clock, \
            and not before.",
        idle_session_is_absent_after_its_timeout: "A session is `Absent` after its idle timeout \
            without a touch, and not before.",
        working_store_probes_without_error: "`probe` of a working store returns no error, and \
            `backend` is a name.",
    }
}

async fn created_session_is_loaded<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let new = NewSession::new(case.user("Ünal \u{1F600}"))
        .data(serde_json::json!({ "cart": [1, 2.50, "x"], "nested": { "a": null } }))
        .lifetime(HOUR)
        .idle_timeout(Duration::from_millis(90_500))
        .persistent(true);
    let new = checked(new)?;
    let created = case.login_as("a", &new).await?;
    let before = case.load_all(&[case.token("a"), case.token("b")]).await?;
    ensure!(matches!(before.rows[1], Row::Absent), "an unknown token finds {:?}", before.rows[1]);
    let Row::Alive { session: loaded, previous_until: None, .. } = &before.rows[0] else {
        return failed(format!("a new session is loaded as {:?}", before.rows[0]));
    };
    is_as_requested(&created, &new).when("from `create`")?;
    is_as_requested(loaded, &new).when("from `load`")?;
    ensure_eq!("created_at", loaded.created_at(), created.created_at());
    // Both times are of the store's clock: created before, read now.
    let (now, since) = (before.now, before.now.since(created.created_at()));
    ensure!(
        now >= created.created_at() && since < Duration::from_secs(60),
        "created at {}, and read at once at {now}: these are different clocks",
        created.created_at()
    );
    let again = case.load_all(&[case.token("a")]).await?;
    ensure_eq!("the store id, read again", again.store_id, before.store_id);
    ensure!(again.store_id != [0; 16], "the store id is all zeroes");
    ensure!(again.xmin >= before.xmin, "xmin went back from {} to {}", before.xmin, again.xmin);
    Ok(())
}

/// Checks a session that was created with a lifetime of an hour and an idle timeout of 90.5 s.
fn is_as_requested(session: &Session, new: &ValidatedSession) -> Outcome {
    let created = session.created_at();
    ensure_eq!("the id", session.id(), new.id);
    ensure_eq!("the user", session.user_id(), new.user_id);
    ensure_eq!("the version", session.version(), 1);
    ensure_eq!("the lifetime", session.expires_at().since(created), HOUR);
    let idle = Some(Duration::from_secs(91));
    ensure_eq!("the idle timeout, requested as 90.5 s", session.idle_timeout(), idle);
    ensure_eq!("whether it is persistent", session.is_persistent(), new.persistent);
    ensure_eq!("last_seen_at of a new session", session.last_seen_at(), created);
    ensure_eq!("authenticated_at of a new session", session.authenticated_at(), created);
    let cart: serde_json::Value =
        serde_json::from_str(new.data.get()).map_err(|error| Failure::new(error.to_string()))?;
    ensure_eq!("the data", data(session)?, cart);
    Ok(())
}

async fn largest_session_is_kept<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let id = case.id.to_string();
    let user = id.clone() + &"\u{1F600}".repeat(MAX_USER_ID_CHARS - id.len());
    let label = "\u{1F600}".repeat(MAX_LABEL_CHARS);
    let agent = "\u{1F600}".repeat(MAX_USER_AGENT_CHARS);
    let text = "\u{1F600}".repeat((MAX_DATA_BYTES - 2) / 4);
    let new =
        NewSession::new(user.as_str()).data(&text).label(label.as_str()).user_agent(agent.as_str());
    case.login_as("a", &checked(new)?).await?;
    let loaded = case.alive("a").await?;
    ensure!(loaded.user_id() == user, "the longest user id was changed");
    ensure!(data(&loaded)? == text, "64 KiB of data were changed");
    let page = answer("list", case.store.list(&user, None, LIST_PAGE)).await?;
    let listed = page.sessions;
    ensure_eq!("the number of listed sessions", listed.len(), 1);
    ensure!(
        listed[0].label.as_ref() == Some(&label) && listed[0].user_agent.as_ref() == Some(&agent),
        "the longest label or user agent was changed"
    );
    Ok(())
}

async fn results_match_the_order_of_digests<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let mut digests = Vec::new();
    let mut expected = Vec::new();
    for n in 0..20 {
        let name = format!("t{n}");
        if n % 3 != 0 {
            case.login(&name, &name).await?;
        }
        digests.push(case.token(&name));
        expected.push((n % 3 != 0).then(|| case.user(&name)));
    }
    digests.push(case.token("t1"));
    expected.push(Some(case.user("t1")));
    let loaded = case.load_all(&digests).await?;
    let users: Vec<_> = loaded
        .rows
        .iter()
        .map(|row| match row {
            Row::Alive { session, .. } => Some(session.user_id().to_owned()),
            _ => None,
        })
        .collect();
    ensure_eq!("the users of the loaded sessions", users, expected);
    case.load_all(&[]).await?;
    Ok(())
}

async fn used_digest_is_refused<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    case.login("a", "alice").await?;
    let bob = case.new_session("bob")?;
    let taken = async |what| {
        let again = case.create("a", &bob).await?;
        ensure!(
            matches!(again, Creation::AlreadyExists),
            "`create` under {what} returned {again:?}"
        );
        Ok(())
    };
    taken("the digest of a session").await?;
    ensure_eq!("the session's user", case.alive("a").await?.user_id(), case.user("alice"));
    // The digest before a rotation is taken too, because it still finds the session.
    case.rotated("a", "b", HOUR).await?;
    taken("the digest before a rotation").await
}

async fn concurrent_logins_create_one_session<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    const LOGINS: usize = 6;
    let mut sessions = Vec::new();
    for number in 0..LOGINS {
        sessions.push(case.new_session(&format!("user {number}"))?);
    }
    let logins = sessions.iter().map(|new| case.create("a", new));
    let mut created = Vec::new();
    for creation in futures_util::future::join_all(logins).await {
        match creation? {
            Creation::Created(session) => created.push(session),
            Creation::AlreadyExists => {}
            other => return failed(format!("one of them returned {other:?}")),
        }
    }
    ensure_eq!("the number of sessions under one digest", created.len(), 1);
    ensure_eq!("the session of the digest", case.alive("a").await?.id(), created[0].id());
    Ok(())
}

async fn list_has_active_sessions_newest_first<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let described = NewSession::new(case.user("alice"))
        .label("Firefox")
        .ip(IpAddr::from([192, 0, 2, 7]))
        .user_agent("Mozilla/5.0");
    let first = case.login_as("a", &checked(described)?).await?;
    case.login("b", "alice").await?;
    let last = case.login("c", "alice").await?;
    case.login("d", "bob").await?;
    case.revoke(&case.by_token("b")).await?;
    case.login_as("e", &case.short("alice", Duration::from_millis(1))?).await?;
    case.until_ended("e").await?;

    let list = async |user| {
        let user = case.user(user);
        let page = answer("list", case.store.list(&user, None, LIST_PAGE)).await?;
        ensure!(page.next.is_none(), "the last page has a cursor");
        Ok(page.sessions)
    };
    let listed = list("alice").await?;
    let ids: Vec<_> = listed.iter().map(|listed| listed.id).collect();
    ensure_eq!("the list", ids, [last.id(), first.id()]);
    ensure_eq!("the label", listed[1].label.as_deref(), Some("Firefox"));
    ensure_eq!("the address", listed[1].ip, Some(IpAddr::from([192, 0, 2, 7])));
    ensure_eq!("the user agent", listed[1].user_agent.as_deref(), Some("Mozilla/5.0"));
    ensure!(
        listed[0].label.is_none() && listed[0].ip.is_none() && listed[0].user_agent.is_none(),
        "a session without label, address and user agent is listed with some"
    );
    ensure_eq!("the newest session", listed[0], SessionSummary::from(&last));
    ensure_eq!("the number of an unknown user's sessions", list("unknown").await?.len(), 0);
    Ok(())
}

async fn list_is_paginated<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let mut expected = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        expected.push(case.login(name, "alice").await?.id());
        case.login(&format!("{name} of bob"), "bob").await?;
    }
    expected.reverse();
    let user = case.user("alice");
    for limit in 1..=5 {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = answer("list", case.store.list(&user, after, limit)).await?;
            let ids = page.sessions.iter().map(|listed| listed.id);
            let left = expected.len() - listed.len();
            listed.extend(ids);
            ensure_eq!("a page's length", page.sessions.len(), left.min(limit));
            ensure_eq!("whether a page follows", page.next.is_some(), left > limit);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        ensure_eq!("all pages together", listed, expected);
    }
    // The session at the cursor may have ended meanwhile.
    let first = answer("list", case.store.list(&user, None, 2)).await?;
    case.revoke(&case.by_token("d")).await?;
    let second = answer("list", case.store.list(&user, first.next, 2)).await?;
    let ids: Vec<_> = second.sessions.iter().map(|listed| listed.id).collect();
    ensure_eq!("the page after a session that ended", ids, expected[2..4]);
    Ok(())
}

async fn expired_session_is_absent<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    const SHORT: Duration = Duration::from_millis(300);
    let session = case.login_as("a", &case.short("alice", SHORT)?).await?;
    case.until_ended("a").await?;
    case.absent("a").await?;
    over_after(case, &session, SHORT).await
}

async fn idle_session_is_absent_after_its_timeout<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    const IDLE: Duration = Duration::from_secs(1);
    let mut idle = case.new_session("alice")?;
    idle.idle_timeout = Some(IDLE);
    let session = case.login_as("a", &idle).await?;
    case.until_ended("a").await?;
    case.absent("a").await?;
    over_after(case, &session, IDLE).await
}

/// Checks that the session's time is over by the store's clock.
async fn over_after<S: SessionStore>(
    case: &Case<'_, S>,
    session: &Session,
    time: Duration,
) -> Outcome {
    let lived = case.load_all(&[]).await?.now.since(session.created_at());
    ensure!(lived >= time, "a session of {time:?} has ended {lived:?} after it was created");
    Ok(())
}

async fn working_store_probes_without_error<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    answer("probe", case.store.probe()).await?;
    ensure!(!case.store.backend().is_empty(), "`backend` is empty");
    Ok(())
}
