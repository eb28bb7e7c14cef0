//! Checks of updates, rotations and touches.

use std::time::Duration;

use session_layer::store::{Change, Row, SessionStore};

use super::{Case, Check, HOUR, Outcome, conflict, data, ensure, failed, made};
use crate::conformance::check::{When as _, checks, ensure_eq};

pub(super) fn checks<S: SessionStore>() -> Vec<Check<S>> {
    checks! {"changes" |store| &Case::of(store) =>
        update_compares_the_version: "`update` replaces the data and raises the version, if its \
            version is current. Otherwise it is a `Conflict` and changes nothing.",
        update_with_same_data_raises_version: "`update` with unchanged data raises the version \
            like any other.",
        concurrent_updates_apply_one: "Exactly one of many concurrent `update`s of one version is \
            made. The others are a `Conflict`.",
        rotated_token_is_valid_for_its_grace: "After `rotate` the new digest finds the session. \
            The old one does until `previous_until`, at most `grace` later, and then is `Absent`. \
            The change names both digests.",
        rotation_without_grace_ends_old_token: "`rotate` without a grace ends the old digest at \
            once.",
        second_rotation_of_a_token_conflicts: "A second `rotate` of a digest is a `Conflict` and \
            changes nothing, within its grace and after.",
        concurrent_rotations_apply_one: "Exactly one of many concurrent `rotate`s of one digest is \
            made. The others are a `Conflict`, and their digests find nothing.",
        second_rotation_ends_first_token: "After two rotations the first digest is `Absent`, \
            whatever its grace was. The change names it, because an entry may be cached under it.",
        touch_respects_its_granularity: "`touch` moves `last_seen_at` to now, unless it moved less \
            than `granularity` ago. It keeps the version, and returns the session.",
        inactive_session_is_not_changed: "`update`, `touch` and `rotate` of an unknown, revoked or \
            expired session are `NoSession`, and change nothing.",
    }
}

async fn update_compares_the_version<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let session = case.login("a", "alice").await?;
    let change = case.update(session.id(), 1, r#"{"n":1}"#).await?;
    let (updated, digests) = made("update", change)?;
    ensure_eq!("the version after an update", updated.version(), 2);
    ensure_eq!("the update's digests", digests, case.tokens(["a"]));
    for _ in 0..2 {
        let loaded = case.alive("a").await?;
        ensure_eq!("the loaded version", loaded.version(), 2);
        let expected = serde_json::json!({ "n": 1 });
        ensure_eq!("the loaded data", data(&loaded)?, expected);
        let late = case.update(session.id(), 1, r#"{"n":2}"#).await?;
        conflict("update of an old version", &late)?;
        let early = case.update(session.id(), 3, r#"{"n":3}"#).await?;
        conflict("update of a future version", &early)?;
    }
    Ok(())
}

async fn update_with_same_data_raises_version<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let session = case.login("a", "alice").await?;
    let same = session.data_json();
    let (updated, _) = made("update", case.update(session.id(), 1, same).await?)?;
    ensure_eq!("the version after an update", updated.version(), 2);
    let late = case.update(session.id(), 1, same).await?;
    conflict("update of an old version", &late)
}

async fn concurrent_updates_apply_one<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let session = case.login("a", "alice").await?;
    let texts: Vec<_> = (0..6).map(|number| number.to_string()).collect();
    let updates = texts.iter().map(|text| case.update(session.id(), 1, text));
    let mut winner = None;
    for change in futures_util::future::join_all(updates).await {
        match change? {
            Change::Made { session, .. } => {
                ensure!(winner.is_none(), "two updates of one version were made");
                winner = Some(session);
            }
            other => conflict("update", &other)?,
        }
    }
    let loaded = case.alive("a").await?;
    let won = winner.as_ref().map(data).transpose()?;
    ensure_eq!("the loaded data", Some(data(&loaded)?), won);
    ensure_eq!("the loaded version", loaded.version(), 2);
    Ok(())
}

async fn rotated_token_is_valid_for_its_grace<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let session = case.login("a", "alice").await?;
    // Long enough to be observed on a busy machine. The check waits for its end.
    let grace = Duration::from_secs(1);
    let (rotated, digests) = case.rotated("a", "b", grace).await?;
    ensure_eq!("the id after a rotation", rotated.id(), session.id());
    ensure_eq!("the version after a rotation", rotated.version(), 2);
    ensure_eq!("the rotation's digests", digests, case.tokens(["a", "b"]));

    let loaded = case.load_all(&[case.token("b"), case.token("a")]).await?;
    match &loaded.rows[0] {
        Row::Alive { session: new, previous_until: None, .. } => {
            ensure_eq!("under the new digest", new.id(), session.id());
        }
        other => return failed(format!("the new digest finds {other:?}")),
    }
    match &loaded.rows[1] {
        Row::Alive { session: old, previous_until: Some(until), .. } => {
            ensure_eq!("under the old digest", old.id(), session.id());
            let left = until.since(loaded.now);
            ensure!(left <= grace, "`previous_until` leaves {left:?} of a grace of {grace:?}");
        }
        // The machine was too slow to observe the grace.
        Row::Absent if loaded.now.since(session.created_at()) >= grace => {}
        other => return failed(format!("the old digest finds {other:?} within its grace")),
    }
    case.until_ended("a").await?;
    case.absent("a").await.when("after its grace")?;
    ensure_eq!("under the new digest", case.alive("b").await?.id(), session.id());
    Ok(())
}

async fn rotation_without_grace_ends_old_token<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    case.login("a", "alice").await?;
    case.rotated("a", "b", Duration::ZERO).await?;
    case.absent("a").await?;
    case.alive("b").await?;
    Ok(())
}

async fn second_rotation_of_a_token_conflicts<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    for (name, grace) in [("a", Duration::ZERO), ("b", HOUR)] {
        case.login(name, "alice").await?;
        let (first, second) = (format!("{name} first"), format!("{name} second"));
        case.rotated(name, &first, grace).await?;
        let again = case.rotate(name, &second, grace).await?;
        conflict("rotate of a rotated token", &again)?;
        case.alive(&first).await?;
        case.absent(&second).await?;
    }
    Ok(())
}

async fn concurrent_rotations_apply_one<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    case.login("a", "alice").await?;
    let names: Vec<_> = (0..6).map(|number| format!("new {number}")).collect();
    let rotations = names.iter().map(|name| case.rotate("a", name, HOUR));
    let changes = futures_util::future::join_all(rotations).await;
    let mut rotated = 0;
    for (name, change) in names.iter().zip(changes) {
        match change? {
            Change::Made { .. } => {
                rotated += 1;
                case.alive(name).await?;
            }
            other => {
                conflict("rotate", &other)?;
                case.absent(name).await?;
            }
        }
    }
    ensure_eq!("the number of rotations of one token", rotated, 1);
    Ok(())
}

async fn second_rotation_ends_first_token<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    case.login("a", "alice").await?;
    case.rotated("a", "b", HOUR).await?;
    let (_, digests) = case.rotated("b", "c", HOUR).await?;
    ensure_eq!("the second rotation's digests", digests, case.tokens(["a", "b", "c"]));
    case.absent("a").await?;
    case.alive("b").await?;
    case.alive("c").await?;
    Ok(())
}

async fn touch_respects_its_granularity<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let mut idle = case.new_session("alice")?;
    idle.idle_timeout = Some(HOUR);
    let session = case.login_as("a", &idle).await?;
    let (kept, _) = made("touch", case.touch(session.id(), HOUR).await?)?;
    ensure_eq!(
        "last_seen_at, touched within the granularity",
        kept.last_seen_at(),
        session.last_seen_at()
    );

    // The store's clock, in ms, must have moved.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let (moved, digests) = made("touch", case.touch(session.id(), Duration::ZERO).await?)?;
    ensure!(
        moved.last_seen_at() > session.last_seen_at(),
        "a touch beyond its granularity left last_seen_at at {}",
        session.last_seen_at()
    );
    ensure_eq!("the version after a touch", moved.version(), 1);
    ensure_eq!("the touch's digests", digests, case.tokens(["a"]));
    let loaded = case.alive("a").await?;
    ensure_eq!("last_seen_at, loaded after a touch", loaded.last_seen_at(), moved.last_seen_at());
    made("touch", case.touch(session.id(), Duration::MAX).await?)?;
    Ok(())
}

async fn inactive_session_is_not_changed<S: SessionStore>(case: &Case<'_, S>) -> Outcome {
    let revoked = case.login("revoked", "alice").await?;
    case.revoke(&case.by_token("revoked")).await?;
    let short = case.short("alice", Duration::from_millis(1))?;
    let expired = case.login_as("expired", &short).await?;
    case.until_ended("expired").await?;

    let no_session = |operation: &str, name: &str, change: Change| -> Outcome {
        ensure!(
            matches!(change, Change::NoSession),
            "`{operation}` of a session that is {name} returned {change:?}"
        );
        Ok(())
    };
    for (name, id) in
        [("unknown", case.unknown_id()), ("revoked", revoked.id()), ("expired", expired.id())]
    {
        for version in 1..3 {
            no_session("update", name, case.update(id, version, "{}").await?)?;
        }
        no_session("touch", name, case.touch(id, Duration::ZERO).await?)?;
        no_session("rotate", name, case.rotate(name, "x", HOUR).await?)?;
        let row = case.load(name).await?;
        ensure!(!matches!(row, Row::Alive { .. }), "a session that was {name} is now {row:?}");
    }
    // After a rotation and a revocation, neither token can be rotated.
    case.login("a", "bob").await?;
    case.rotated("a", "b", HOUR).await?;
    case.revoke(&case.by_token("b")).await?;
    for name in ["a", "b"] {
        no_session("rotate", "revoked", case.rotate(name, "x", HOUR).await?)?;
    }
    Ok(())
}
