//! Creating, loading, listing.

use std::{net::IpAddr, time::Duration};

use session_layer::store::{Creation, Row, SessionStore};
use session_layer::{CheckedSession, NewSession, Session};
use session_layer::{MAX_DATA_BYTES, MAX_LABEL_CHARS, MAX_USER_AGENT_CHARS, MAX_USER_ID_CHARS};

use super::{Case, Check, Failure, HOUR, Outcome, answer, checked, data, ensure, failed};
use crate::conformance::check::{When as _, checks, ensure_eq};

pub(super) fn checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"reads":
        what_was_created_is_loaded: "`create` answers with the session as it was asked for, at version 1, \
            with times of the store's clock and an idle timeout in whole seconds, rounded up; `load` gives \
            the same, with `now`, and beside it a store id that never changes.",
        the_largest_session_is_kept: "A session at every limit (200 characters of user id and label, 500 of \
            user agent, 64 KiB of data) is kept whole.",
        answers_come_in_the_order_of_the_digests: "`load` has one row per digest, in order, also where one \
            comes twice; of none it is an answer without rows.",
        a_digest_is_taken_once: "`create` under a digest that stands for a session, or did before a \
            rotation, is `Taken`, and changes nothing.",
        of_many_logins_at_once_one_is_created: "Of many `create`s under one digest at the same time, \
            exactly one is `Created`; the others are `Taken`.",
        the_list_shows_the_living_newest_first: "`list` has the user's sessions that are alive, newest \
            first, with label, address and user agent, and nobody else's.",
        a_session_past_its_time_is_absent: "When its lifetime is over by the store's clock, a session is \
            `Absent`, and not before.",
        an_unused_session_is_absent_after_its_idle_timeout: "When it was not touched for its idle timeout, \
            a session is `Absent`, and not before.",
        it_says_that_it_works: "`probe` of a store that answers is no error, and `backend` is a name.",
    }
}

async fn what_was_created_is_loaded<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    let asked = NewSession::new(case.user("Ünal \u{1F600}"))
        .data(serde_json::json!({ "cart": [1, 2.50, "x"], "nested": { "a": null } }))
        .lifetime(HOUR)
        .idle_timeout(Duration::from_millis(90_500))
        .persistent(true);
    let asked = checked(asked)?;
    let created = case.login_as("a", &asked).await?;
    let before = case.load_all(&[case.token("a"), case.token("b")]).await?;
    ensure!(
        matches!(before.rows[1], Row::Absent),
        "a token that nobody has stands for {:?}",
        before.rows[1]
    );
    let Row::Alive {
        session: loaded,
        previous_until: None,
    } = &before.rows[0]
    else {
        return failed(format!("a new session is loaded as {:?}", before.rows[0]));
    };
    is_as_asked(&created, &asked).when("from `create`")?;
    is_as_asked(loaded, &asked).when("from `load`")?;
    ensure_eq!("created_at", loaded.created_at(), created.created_at());
    // The store's clock says when: created before, read now.
    let (now, since) = (before.now, before.now.since(created.created_at()));
    ensure!(
        now >= created.created_at() && since < Duration::from_secs(60),
        "created at {}, and read at once at {now}: these are two clocks",
        created.created_at()
    );
    let again = case.load_all(&[case.token("a")]).await?;
    ensure_eq!("the store id, read again", again.store_id, before.store_id);
    ensure!(again.store_id != [0; 16], "the store id is all zeroes");
    ensure!(
        again.xmin >= before.xmin,
        "xmin went back from {} to {}",
        before.xmin,
        again.xmin
    );
    Ok(())
}

/// A session that was created with a lifetime of an hour and an idle timeout of 90.5 s.
fn is_as_asked(session: &Session, asked: &CheckedSession) -> Outcome {
    ensure_eq!("the id", session.id(), asked.id);
    ensure_eq!("the user", session.user_id(), asked.user_id);
    ensure_eq!("the version", session.version(), 1);
    let lifetime = session.expires_at().since(session.created_at());
    ensure_eq!("from created_at to expires_at", lifetime, HOUR);
    ensure_eq!(
        "the idle timeout, asked for as 90.5 s",
        session.idle_timeout(),
        Some(Duration::from_secs(91))
    );
    ensure_eq!(
        "whether it is persistent",
        session.is_persistent(),
        asked.persistent
    );
    ensure_eq!(
        "last_seen_at, of a new session created_at",
        session.last_seen_at(),
        session.created_at()
    );
    ensure_eq!(
        "authenticated_at, of a new session created_at",
        session.authenticated_at(),
        session.created_at()
    );
    let cart: serde_json::Value =
        serde_json::from_str(asked.data.get()).map_err(|error| Failure::new(error.to_string()))?;
    ensure_eq!("the data", data(session)?, cart);
    Ok(())
}

async fn the_largest_session_is_kept<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    let id = case.id.to_string();
    let user = id.clone() + &"\u{1F600}".repeat(MAX_USER_ID_CHARS - id.len());
    let label = "\u{1F600}".repeat(MAX_LABEL_CHARS);
    let agent = "\u{1F600}".repeat(MAX_USER_AGENT_CHARS);
    let text = "\u{1F600}".repeat((MAX_DATA_BYTES - 2) / 4);
    let new = NewSession::new(user.as_str())
        .data(&text)
        .label(label.as_str())
        .user_agent(agent.as_str());
    case.login_as("a", &checked(new)?).await?;
    let loaded = case.alive("a").await?;
    ensure!(loaded.user_id() == user, "the longest user id was changed");
    ensure!(data(&loaded)? == text, "64 KiB of data were changed");
    let listed = answer("list", store.list(&user)).await?;
    ensure_eq!("how many sessions are listed", listed.len(), 1);
    ensure!(
        listed[0].label.as_ref() == Some(&label) && listed[0].user_agent.as_ref() == Some(&agent),
        "the longest label or user agent was changed"
    );
    Ok(())
}

async fn answers_come_in_the_order_of_the_digests<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    let mut asked = Vec::new();
    let mut expected = Vec::new();
    for n in 0..20 {
        let name = format!("t{n}");
        if n % 3 != 0 {
            case.login(&name, &name).await?;
        }
        asked.push(case.token(&name));
        expected.push((n % 3 != 0).then(|| case.user(&name)));
    }
    asked.push(case.token("t1"));
    expected.push(Some(case.user("t1")));
    let loaded = case.load_all(&asked).await?;
    let users: Vec<_> = loaded
        .rows
        .iter()
        .map(|row| match row {
            Row::Alive { session, .. } => Some(session.user_id().to_owned()),
            _ => None,
        })
        .collect();
    ensure_eq!("whose sessions were loaded", users, expected);
    case.load_all(&[]).await?;
    Ok(())
}

async fn a_digest_is_taken_once<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    case.login("a", "alice").await?;
    let bob = case.new_session("bob")?;
    let taken = async |what| {
        let again = case.create("a", &bob).await?;
        ensure!(
            matches!(again, Creation::Taken),
            "`create` under {what} was answered {again:?}"
        );
        Ok(())
    };
    taken("a digest that stands for a session").await?;
    ensure_eq!(
        "whose session it is",
        case.alive("a").await?.user_id(),
        case.user("alice")
    );
    // The one before a rotation is taken too: it still stands for the rotated session.
    case.rotated("a", "b", HOUR).await?;
    taken("the digest before a rotation").await
}

async fn of_many_logins_at_once_one_is_created<S: SessionStore>(store: &S) -> Outcome {
    const LOGINS: usize = 6;
    let case = Case::of(store);
    let mut sessions = Vec::new();
    for number in 0..LOGINS {
        sessions.push(case.new_session(&format!("user {number}"))?);
    }
    let logins = sessions.iter().map(|new| case.create("a", new));
    let mut created = Vec::new();
    for creation in futures_util::future::join_all(logins).await {
        match creation? {
            Creation::Created(session) => created.push(session),
            Creation::Taken => {}
            other => return failed(format!("one of them was answered {other:?}")),
        }
    }
    ensure_eq!("how many were created under one digest", created.len(), 1);
    ensure_eq!(
        "which session it stands for",
        case.alive("a").await?.id(),
        created[0].id()
    );
    Ok(())
}

async fn the_list_shows_the_living_newest_first<S: SessionStore>(store: &S) -> Outcome {
    let case = Case::of(store);
    let described = NewSession::new(case.user("alice"))
        .label("Firefox")
        .ip(IpAddr::from([192, 0, 2, 7]))
        .user_agent("Mozilla/5.0");
    let first = case.login_as("a", &checked(described)?).await?;
    case.login("b", "alice").await?;
    let last = case.login("c", "alice").await?;
    case.login("d", "bob").await?;
    case.revoke(&case.by_token("b")).await?;
    case.login_as("e", &case.short("alice", Duration::from_millis(1))?)
        .await?;
    case.until_over("e").await?;

    let listed = answer("list", store.list(&case.user("alice"))).await?;
    let ids: Vec<_> = listed.iter().map(|listed| listed.session.id()).collect();
    ensure_eq!("the list", ids, [last.id(), first.id()]);
    ensure_eq!("the label", listed[1].label.as_deref(), Some("Firefox"));
    ensure_eq!(
        "the address",
        listed[1].ip,
        Some(IpAddr::from([192, 0, 2, 7]))
    );
    ensure_eq!(
        "the user agent",
        listed[1].user_agent.as_deref(),
        Some("Mozilla/5.0")
    );
    ensure!(
        listed[0].label.is_none() && listed[0].ip.is_none() && listed[0].user_agent.is_none(),
        "a session without label, address and user agent is listed with one"
    );
    let nobodys = answer("list", store.list(&case.user("nobody"))).await?;
    ensure_eq!("how many sessions nobody has", nobodys.len(), 0);
    Ok(())
}

async fn a_session_past_its_time_is_absent<S: SessionStore>(store: &S) -> Outcome {
    const SHORT: Duration = Duration::from_millis(300);
    let case = Case::of(store);
    let session = case.login_as("a", &case.short("alice", SHORT)?).await?;
    case.until_over("a").await?;
    case.absent("a").await?;
    over_after(&case, &session, SHORT).await
}

async fn an_unused_session_is_absent_after_its_idle_timeout<S: SessionStore>(store: &S) -> Outcome {
    const IDLE: Duration = Duration::from_secs(1);
    let case = Case::of(store);
    let mut idle = case.new_session("alice")?;
    idle.idle_timeout = Some(IDLE);
    let session = case.login_as("a", &idle).await?;
    case.until_over("a").await?;
    case.absent("a").await?;
    over_after(&case, &session, IDLE).await
}

/// By the store's clock, the session's time must be over now.
async fn over_after<S: SessionStore>(
    case: &Case<'_, S>,
    session: &Session,
    time: Duration,
) -> Outcome {
    let lived = case.load_all(&[]).await?.now.since(session.created_at());
    ensure!(
        lived >= time,
        "a session that has {time:?} is over {lived:?} after it was created"
    );
    Ok(())
}

async fn it_says_that_it_works<S: SessionStore>(store: &S) -> Outcome {
    answer("probe", store.probe()).await?;
    ensure!(!store.backend().is_empty(), "`backend` is empty");
    Ok(())
}
