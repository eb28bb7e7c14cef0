//! Updates, rotations and revocations, on servers and with the embedded pair of SQLite and the
//! in-process cache.

use std::time::Duration;

use redis::AsyncCommands as _;
use session_layer::cache::{MemoryCache, NoCache, RedisCache};
use session_layer::store::{PostgresStore, SessionStore as _, SqliteStore};
use session_layer::{Error, NewSession, RevokeTarget, Sessions, Validation, Visibility};
use session_testkit::wait;
use sqlx::AssertSqlSafe;

use crate::harness::{Failure, Outcome};
use crate::support::{
    SOON, Servers, ask, assert_longest_durations_work, built, login, until, until_connected,
    until_hit,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const GRACE: Duration = Duration::from_secs(60);

async fn embedded() -> Result<Sessions, Failure> {
    Ok(built(MemoryCache::new(1_000), SqliteStore::open(":memory:").await?))
}

// The nodes do not read the journal, therefore the revocation removes the entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_after_a_delete_by_sql_removes_the_entry() -> Outcome {
    let servers = Servers::shared().await?;
    let (reader, one) = (servers.by_leases_alone().await?, servers.by_leases_alone().await?);
    let alice = login(&one, "alice").await?;
    until_hit(&reader, &alice).await?;
    until_connected(&one).await?;
    servers.delete_by_sql(&alice).await?;
    assert_eq!(ask(&reader, &alice).await, "valid", "from the cache");
    let changed = one.revoke(alice.token.reveal()).await?;
    assert_eq!(changed.visibility, Visibility::Nothing);
    assert_eq!(ask(&reader, &alice).await, "invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn update_and_rotation_are_visible_on_every_node() -> Outcome {
    let servers = Servers::shared().await?;
    let (one, other) = (servers.sessions().await?, servers.sessions().await?);
    assert_updates_and_rotates(&one, &other).await?;
    // The entry of the old token does not outlive the grace.
    let old = login(&one, "alice").await?;
    let _ = one.rotate(old.token.reveal(), GRACE).await?;
    until_hit(&one, &old).await?;
    let left: i64 = servers.redis().await?.pttl(servers.key(&old)).await?;
    assert!(left > 0 && left <= 60_000, "{left}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn update_and_rotation_work_embedded() -> Outcome {
    let sessions = embedded().await?;
    assert_updates_and_rotates(&sessions, &sessions).await
}

async fn assert_updates_and_rotates(one: &Sessions, other: &Sessions) -> Outcome {
    let alice = one.create(NewSession::new("alice").data("old")).await?;
    let old = alice.token.reveal();
    until_hit(other, &alice).await?;
    until_connected(one).await?;
    let changed = one.update(&alice.session, "new").await?;
    assert_eq!(changed.visibility, Visibility::Propagated);
    let Validation::Valid(seen) = other.validate(old).await else { panic!("not valid") };
    assert_eq!(seen.data::<String>()?, "new");
    assert_eq!(seen.version(), changed.value.version());
    let lost = other.update(&alice.session, "newer").await;
    assert!(matches!(lost, Err(Error::VersionConflict)), "{lost:?}");

    // Of two rotations of one token, one gets the new token.
    let (here, there) = tokio::join!(one.rotate(old, GRACE), other.rotate(old, GRACE));
    let (rotated, lost) = if here.is_ok() { (here, there) } else { (there, here) };
    assert!(matches!(lost, Err(Error::AlreadyRotated)), "{lost:?}");
    let rotated = rotated?;
    assert_eq!(rotated.visibility, Visibility::Propagated);
    let new = rotated.value.token;
    for token in [old, new.reveal()] {
        let Validation::Valid(seen) = other.validate(token).await else { panic!("not valid") };
        assert_eq!(seen.id(), alice.session.id());
    }
    until_hit(other, &alice).await?;
    // A revocation by the new token ends the old one too.
    let revoked = one.revoke(new.reveal()).await?;
    assert_eq!((revoked.value, revoked.visibility), (1, Visibility::Propagated));
    for token in [old, new.reveal()] {
        assert!(matches!(other.validate(token).await, Validation::Invalid));
    }
    let ended = one.update(&seen, "newest").await;
    assert!(matches!(ended, Err(Error::NoSession)), "{ended:?}");
    // Without grace, the entry of the old token ends with the rotation.
    let bob = login(one, "bob").await?;
    until_hit(other, &bob).await?;
    let rotated = one.rotate(bob.token.reveal(), Duration::ZERO).await?;
    assert_eq!(rotated.visibility, Visibility::Propagated);
    assert_eq!(ask(other, &bob).await, "invalid");
    assert!(matches!(other.validate(&rotated.value.token).await, Validation::Valid(_)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_all_ends_all_sessions_or_all_but_one() -> Outcome {
    let servers = Servers::shared().await?;
    assert_revokes_all(&servers.sessions().await?).await?;
    assert_revokes_all(&embedded().await?).await
}

async fn assert_revokes_all(sessions: &Sessions) -> Outcome {
    let (one, two) = (login(sessions, "alice").await?, login(sessions, "alice").await?);
    let bob = login(sessions, "bob").await?;
    for created in [&one, &two, &bob] {
        until_hit(sessions, created).await?;
    }
    assert_eq!(sessions.list("alice").await?.sessions.len(), 2);
    // One user cannot end the session of another.
    let others = sessions.revoke(RevokeTarget::owned("bob", one.session.id())).await?;
    assert_eq!((others.value, others.visibility), (0, Visibility::Nothing));
    let changed = sessions.revoke(RevokeTarget::others_of(&one.session)).await?;
    assert_eq!((changed.value, changed.visibility), (1, Visibility::Propagated));
    assert_eq!([ask(sessions, &one).await, ask(sessions, &two).await], ["valid", "invalid"]);
    assert_eq!(sessions.revoke(RevokeTarget::user("alice")).await?.value, 1);
    assert_eq!([ask(sessions, &one).await, ask(sessions, &bob).await], ["invalid", "valid"]);
    assert!(sessions.list("alice").await?.sessions.is_empty());
    assert_eq!(sessions.revoke(RevokeTarget::owned("bob", bob.session.id())).await?.value, 1);
    assert_eq!(ask(sessions, &bob).await, "invalid");
    // A later login is not affected.
    let three = login(sessions, "alice").await?;
    assert_eq!(ask(sessions, &three).await, "valid");
    assert_eq!(sessions.revoke(three.session.id()).await?.value, 1);
    assert_eq!(ask(sessions, &three).await, "invalid");
    Ok(())
}

// Each use counts from then on. Time passes by SQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_outlives_its_idle_timeout_while_it_is_used() -> Outcome {
    let servers = Servers::shared().await?;
    let sessions = servers.sessions().await?;
    let idle = Duration::from_secs(3600);
    let alice = sessions.create(NewSession::new("alice").idle_timeout(idle)).await?;
    let id = alice.session.id();
    let mut operator = servers.operator().await?;
    let age = format!("extract(epoch FROM now() - last_seen_at) FROM sessions WHERE id = '{id}'");
    let was_used = format!("SELECT 60 > {age}");
    let unused_for = async |span: &str| {
        let set = format!("last_seen_at = now() - interval '{span}'");
        servers.sql(format!("UPDATE sessions SET {set} WHERE id = '{id}'")).await
    };
    for _ in 0..3 {
        unused_for("50 minutes").await?;
        wait::until("a use to be recorded", SOON, async || {
            assert_eq!(ask(&sessions, &alice).await, "valid");
            let used = sqlx::query_scalar(AssertSqlSafe(was_used.clone()));
            used.fetch_one(&mut operator).await.is_ok_and(|used: bool| used)
        })
        .await?;
    }
    unused_for("61 minutes").await?;
    until(&sessions, &alice, "invalid").await
}

fn is_committed(visibility: Visibility) -> bool {
    matches!(visibility, Visibility::Committed { within, .. } if !within.is_zero())
}

// Other processes have entries of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_without_a_shared_cache_is_committed() -> Outcome {
    let servers = Servers::shared().await?;
    let one = built(MemoryCache::new(100), servers.store().await?);
    let other = built(MemoryCache::new(100), servers.store().await?);
    let alice = login(&one, "alice").await?;
    until_hit(&one, &alice).await?;
    until_hit(&other, &alice).await?;
    let changed = one.update(&alice.session, "new").await?;
    assert!(is_committed(changed.visibility), "{changed:?}");
    let revoked = one.revoke(alice.token.reveal()).await?;
    assert!(is_committed(revoked.visibility), "{revoked:?}");
    assert_eq!(ask(&one, &alice).await, "invalid");
    until(&other, &alice, "invalid").await?;
    let uncached = built(NoCache, servers.store().await?);
    let alice = login(&uncached, "alice").await?;
    let revoked = uncached.revoke(alice.token.reveal()).await?;
    assert!(is_committed(revoked.visibility), "{revoked:?}");
    // No other process can have an entry of a session in SQLite.
    let embedded = built(NoCache, SqliteStore::open(":memory:").await?);
    let alice = login(&embedded, "alice").await?;
    let revoked = embedded.revoke(alice.token.reveal()).await?;
    assert_eq!((revoked.value, revoked.visibility), (1, Visibility::Propagated));
    Ok(())
}

// The journal of such a store is not read, therefore it ends no entry after a failover of Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_of_one_process_with_replicated_redis_has_the_ttl_as_bound() -> Outcome {
    let servers = Servers::shared().await?;
    let cache = RedisCache::builder(servers.redis.url())
        .namespace(servers.namespace())
        .replicated(true)
        .build()?;
    let sessions = built(cache, SqliteStore::open(":memory:").await?);
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let visibility = sessions.revoke(alice.token.reveal()).await?.visibility;
    let Visibility::Committed { within, at_most } = visibility else {
        return Err(format!("{visibility:?}").into());
    };
    assert_eq!(within, at_most);
    assert!(within > Duration::from_secs(300), "TTL and lease: {within:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn longest_durations_are_accepted() -> Outcome {
    let servers = Servers::shared().await?;
    let cache = RedisCache::builder(servers.redis.url())
        .namespace(servers.namespace())
        .deadline(DAY)
        .build()?;
    let store = PostgresStore::builder(servers.database_url())
        .schema(servers.schema())
        .read_deadline(Duration::from_secs(60))
        .change_deadline(Duration::from_secs(60))
        .build()?;
    store.migrate().await?;
    assert_eq!(store.sweep(Duration::MAX, 1).await?, 0);
    store.purge_journal(Duration::MAX).await?;
    let on_servers = Sessions::builder(cache, store).ttl(DAY).validation_timeout(DAY).build()?;

    let store = SqliteStore::open(":memory:").await?;
    assert_eq!(store.sweep(Duration::MAX, 1).await?, 0);
    assert_eq!(store.purge_journal(Duration::MAX).await?, 0);
    let builder = Sessions::builder(MemoryCache::new(100), store);
    let embedded = builder.ttl(DAY).validation_timeout(DAY).build()?;
    for sessions in [on_servers, embedded] {
        assert_longest_durations_work(&sessions).await?;
        sessions.shutdown(Duration::MAX).await?;
    }
    Ok(())
}
