//! Checks of fills: an entry is returned unchanged, for its lifetime.

use std::time::Duration;

use session_layer::limits::{MAX_DATA_BYTES, MAX_USER_ID_CHARS};

use super::{
    Check, Entry, Instant, LONG, Nodes, Outcome, Session, SessionCache, SessionId, SessionParts,
    TICK, TOLERANCE, Timestamp, Tokens, When as _, believe, ensure, entry, json, sleep,
};
use crate::conformance::check::{checks, ensure_eq};

pub(super) fn checks<C: SessionCache>() -> Vec<Check<Nodes<C>>> {
    checks! {"fills":
        entry_read_back_is_identical: "Every node returns an entry byte for byte: all fields, \
            their extremes, and data of 64 KiB.",
        entry_expires_after_its_lifetime: "An entry is served for the `lifetime` of its fill and \
            no longer. Afterwards a miss gets the lease.",
        cancelled_operations_leave_cache_consistent: "A caller may drop any operation half-way. An \
            invalidated entry then stays away, and the next operation works normally.",
    }
}

async fn entry_read_back_is_identical<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    let (here, there) = nodes.connected().await?;
    let tokens = Tokens::new();
    for (what, before) in samples() {
        let digest = tokens.of(what);
        let held = here.lease(digest).await.when(what)?;
        here.store_entry(held, &before, LONG).await.when(what)?;
        for node in [here, there] {
            let found = node.look_up(digest).await.when(what)?;
            let after = found.hit_of(before.session.user_id()).when(what)?;
            same(&before, &after).when(what)?;
        }
    }
    Ok(())
}

fn samples() -> Vec<(&'static str, Entry)> {
    let plain = || entry("alice").session.parts();
    let at = |micros| Timestamp::from_micros(micros);
    let with = |parts: SessionParts| Entry { session: Session::from(parts), ..entry("") };
    let long_text = "\u{1F600}".repeat((MAX_DATA_BYTES - 2) / 4);
    vec![
        ("an ordinary entry", entry("alice")),
        (
            "the longest user id, with four bytes per character",
            entry(&"\u{1F600}".repeat(MAX_USER_ID_CHARS)),
        ),
        ("a user id with every kind of separator", entry("a:b\n\r\0{c} \"d\" \\ *'$5\r\n")),
        ("data of 64 KiB", with(SessionParts { data: json(format!("{long_text:?}")), ..plain() })),
        (
            "data that are not in their shortest form",
            with(SessionParts {
                data: json(r#"{ "b" : 1.50e0,  "a":"\u00e9", "a": null }"#.to_owned()),
                ..plain()
            }),
        ),
        (
            "the maximum of every number",
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
                user_epoch: i64::MAX,
                store_id: [0xff; 16],
                xmin: u64::MAX,
                read_at: at(i64::MAX - 4),
                not_after: at(i64::MAX - 5),
            },
        ),
        (
            "the minimum of every number",
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
                user_epoch: i64::MIN,
                store_id: [0; 16],
                xmin: 0,
                read_at: at(i64::MIN + 4),
                not_after: at(i64::MIN + 5),
            },
        ),
    ]
}

/// Checks that every field is the same. The error names the one that differs.
fn same(before: &Entry, after: &Entry) -> Outcome {
    let (old, new) = (before.session.parts(), after.session.parts());
    ensure_eq!("the session id", new.id, old.id);
    ensure_eq!("the version", new.version, old.version);
    ensure_eq!("created_at", new.created_at, old.created_at);
    ensure_eq!("authenticated_at", new.authenticated_at, old.authenticated_at);
    ensure_eq!("last_seen_at", new.last_seen_at, old.last_seen_at);
    ensure_eq!("expires_at", new.expires_at, old.expires_at);
    ensure_eq!("the idle timeout", new.idle_timeout, old.idle_timeout);
    ensure_eq!("whether it is persistent", new.persistent, old.persistent);
    ensure!(
        new.data.get() == old.data.get(),
        "the data are another text: {} bytes instead of {}",
        new.data.get().len(),
        old.data.get().len()
    );
    ensure_eq!("the store id", after.store_id, before.store_id);
    ensure_eq!("xmin", after.xmin, before.xmin);
    ensure_eq!("read_at", after.read_at, before.read_at);
    ensure_eq!("not_after", after.not_after, before.not_after);
    Ok(())
}

async fn entry_expires_after_its_lifetime<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    const SHORT: Duration = Duration::from_secs(1);
    let (here, there) = nodes.connected().await?;
    let a = Tokens::new().of("a");
    let held = here.lease(a).await?;
    let began = Instant::now();
    here.store_entry(held, &entry("alice"), SHORT).await?;
    let end = Instant::now() + SHORT;
    loop {
        let found = there.look_up(a).await?;
        if found.is_leased() {
            let early = (began + SHORT).saturating_duration_since(Instant::now());
            ensure!(
                early < TOLERANCE,
                "an entry with a lifetime of {SHORT:?} vanished {early:?} too early"
            );
            return Ok(());
        }
        let late = found.began.saturating_duration_since(end);
        ensure!(
            late < TOLERANCE,
            "an entry with a lifetime of {SHORT:?} is still there {late:?} after its end"
        );
        found.hit_of("alice").when("within its lifetime")?;
        sleep(TICK).await;
    }
}

async fn cancelled_operations_leave_cache_consistent<C: SessionCache>(nodes: &Nodes<C>) -> Outcome {
    const TRIES: usize = 40;
    let (here, there) = nodes.connected().await?;
    let tokens = Tokens::new();
    for number in 0..TRIES {
        let a = tokens.of(&number.to_string());
        let held = here.lease(a).await?;
        dropped_after(number % 4, here.0.fill(held.lease, &entry("alice"), LONG)).await;
        there.invalidate(&[a]).await?;
        // The dropped operation may still be in flight, but must have no effect.
        tokio::task::yield_now().await;
        for node in [here, there] {
            let found = node.look_up(a).await?;
            found.no_hit().when("invalidated after a fill that was dropped half-way")?;
        }
        let b = tokens.of(&format!("{number} b"));
        dropped_after(number % 4, here.0.get(&[b], &believe)).await;
        dropped_after(number % 4, here.0.fence(&[b])).await;
        dropped_after(number % 4, here.0.invalidate(&[b])).await;
    }
    // The cache still works.
    let last = tokens.of("last");
    here.filled(last, "alice").await?;
    there.look_up(last).await?.hit_of("alice")?;
    Ok(())
}

/// Polls the future at most this number of times, and drops it.
async fn dropped_after(polls: usize, future: impl Future) {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if futures_util::poll!(future.as_mut()).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}
