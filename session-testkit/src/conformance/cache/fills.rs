//! What was filled: it comes back as it was, for its lifetime.

use std::time::Duration;

use session_layer::{MAX_DATA_BYTES, MAX_USER_ID_CHARS};

use super::{
    Check, Entry, Instant, LONG, Nodes, Outcome, Session, SessionCache, SessionId, SessionParts,
    TICK, TOLERANCE, Timestamp, Tokens, When as _, believe, ensure, entry, filled, invalidate,
    json, lease, look_up, sleep, store_entry,
};
use crate::conformance::check::{checks, ensure_eq};

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"fills":
        an_entry_comes_back_as_it_was: "An entry comes back byte for byte, on every node: all its fields, \
            the extremes of each, and data of 64 KiB.",
        an_entry_leaves_at_the_end_of_its_lifetime: "A copy is served for the `lifetime` of its fill and no \
            longer; then the lease is to be had.",
        a_fill_dropped_half_way_keeps_the_rules: "A caller may go away in the middle of any operation: what \
            was then invalidated stays away, and the next one is served as if nothing had been.",
    }
}

async fn an_entry_comes_back_as_it_was<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let tokens = Tokens::new();
    for (what, before) in samples() {
        let digest = tokens.of(what);
        let held = lease(here, digest).await.when(what)?;
        store_entry(here, held, &before, LONG).await.when(what)?;
        for node in [here, there] {
            let found = look_up(node, digest).await.when(what)?;
            let after = found.hit_of(before.session.user_id()).when(what)?;
            same(&before, &after).when(what)?;
        }
    }
    Ok(())
}

/// Entries with something special about each.
fn samples() -> Vec<(&'static str, Entry)> {
    let plain = || entry("alice").session.parts().clone();
    let at = |micros| Timestamp::from_micros(micros);
    let with = |parts: SessionParts| Entry {
        session: Session::from(parts),
        ..entry("")
    };
    let long_text = "\u{1F600}".repeat((MAX_DATA_BYTES - 2) / 4);
    vec![
        ("an ordinary entry", entry("alice")),
        (
            "the longest user id, of four bytes a character",
            entry(&"\u{1F600}".repeat(MAX_USER_ID_CHARS)),
        ),
        (
            "a user id with every kind of separator",
            entry("a:b\n\r\0{c} \"d\" \\ *'$5\r\n"),
        ),
        (
            "data of 64 KiB",
            with(SessionParts {
                data: json(format!("{long_text:?}")),
                ..plain()
            }),
        ),
        (
            "data whose text is not the shortest for its value",
            with(SessionParts {
                data: json(r#"{ "b" : 1.50e0,  "a":"\u00e9", "a": null }"#.to_owned()),
                ..plain()
            }),
        ),
        (
            "the greatest of every number",
            Entry {
                session: Session::from(SessionParts {
                    id: SessionId::from_bytes([0xff; 16]),
                    version: i64::MAX,
                    created_at: at(i64::MAX),
                    authenticated_at: at(i64::MAX - 1),
                    last_seen_at: at(i64::MAX - 2),
                    expires_at: at(i64::MAX - 3),
                    idle_timeout: Some(Duration::from_secs(u64::from(u32::MAX))),
                    ..plain()
                }),
                store_id: [0xff; 16],
                xmin: u64::MAX,
                read_at: at(i64::MAX - 4),
                not_after: at(i64::MAX - 5),
            },
        ),
        (
            "the least of every number",
            Entry {
                session: Session::from(SessionParts {
                    id: SessionId::from_bytes([0; 16]),
                    version: i64::MIN,
                    created_at: at(i64::MIN),
                    authenticated_at: at(i64::MIN + 1),
                    last_seen_at: at(i64::MIN + 2),
                    expires_at: at(i64::MIN + 3),
                    idle_timeout: Some(Duration::from_secs(1)),
                    persistent: true,
                    ..plain()
                }),
                store_id: [0; 16],
                xmin: 0,
                read_at: at(i64::MIN + 4),
                not_after: at(i64::MIN + 5),
            },
        ),
    ]
}

/// Is every field the same? The error names the one that is not.
fn same(before: &Entry, after: &Entry) -> Outcome {
    let (old, new) = (before.session.parts(), after.session.parts());
    ensure_eq!("the session id", new.id, old.id);
    ensure_eq!("the version", new.version, old.version);
    ensure_eq!("created_at", new.created_at, old.created_at);
    ensure_eq!(
        "authenticated_at",
        new.authenticated_at,
        old.authenticated_at
    );
    ensure_eq!("last_seen_at", new.last_seen_at, old.last_seen_at);
    ensure_eq!("expires_at", new.expires_at, old.expires_at);
    ensure_eq!("the idle timeout", new.idle_timeout, old.idle_timeout);
    ensure_eq!("whether it is persistent", new.persistent, old.persistent);
    ensure!(
        new.data.get() == old.data.get(),
        "the data are not the same text: {} bytes, of {}",
        new.data.get().len(),
        old.data.get().len()
    );
    ensure_eq!("the store id", after.store_id, before.store_id);
    ensure_eq!("xmin", after.xmin, before.xmin);
    ensure_eq!("read_at", after.read_at, before.read_at);
    ensure_eq!("not_after", after.not_after, before.not_after);
    Ok(())
}

async fn an_entry_leaves_at_the_end_of_its_lifetime<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    const SHORT: Duration = Duration::from_secs(1);
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let held = lease(here, a).await?;
    let asked = Instant::now();
    store_entry(here, held, &entry("alice"), SHORT).await?;
    let end = Instant::now() + SHORT;
    loop {
        let found = look_up(there, a).await?;
        if found.is_leased() {
            let early = (asked + SHORT).saturating_duration_since(Instant::now());
            ensure!(
                early < TOLERANCE,
                "a copy with a lifetime of {SHORT:?} was gone {early:?} too early"
            );
            return Ok(());
        }
        let late = found.asked.saturating_duration_since(end);
        ensure!(
            late < TOLERANCE,
            "a copy with a lifetime of {SHORT:?} is still in the way {late:?} after that"
        );
        found.hit_of("alice").when("within its lifetime")?;
        sleep(TICK).await;
    }
}

async fn a_fill_dropped_half_way_keeps_the_rules<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    const TRIES: usize = 40;
    let (here, there) = nodes.connected().await?;
    let tokens = Tokens::new();
    for number in 0..TRIES {
        let a = tokens.of(&number.to_string());
        let held = lease(here, a).await?;
        let copy = entry("alice");
        dropped_after(number % 4, here.fill(held.lease, &copy, LONG)).await;
        invalidate(there, &[a]).await?;
        // What was dropped may still be under way, and must come to nothing.
        tokio::task::yield_now().await;
        for node in [here, there] {
            look_up(node, a)
                .await?
                .no_hit()
                .when("invalidated after a fill that was dropped half-way")?;
        }
        let b = tokens.of(&format!("{number} b"));
        dropped_after(number % 4, here.get(&[b], &believe)).await;
        dropped_after(number % 4, here.fence(&[b])).await;
        dropped_after(number % 4, here.invalidate(&[b])).await;
    }
    // And it is whole.
    let last = tokens.of("last");
    filled(here, last, "alice").await?;
    look_up(there, last).await?.hit_of("alice")?;
    Ok(())
}

/// Polls so many times at the most, and drops.
async fn dropped_after(polls: usize, future: impl Future) {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if futures_util::poll!(future.as_mut()).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}
