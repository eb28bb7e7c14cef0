//! Credentials of Redis that change while nodes are connected.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};
use session_layer::Sessions;
use session_layer::cache::RedisCache;
use session_layer::connect::{Credential, Credentials, CredentialsError, PasswordFile};
use session_testkit::wait;

use crate::harness::{Failure, Outcome};
use crate::support::{
    SOON, Servers, ask, assert_contains, built, login, until_connected, until_hit,
};

async fn sessions(servers: &Servers, credentials: impl Credentials) -> Result<Sessions, Failure> {
    let cache = RedisCache::builder(servers.redis.url())
        .namespace(servers.namespace())
        .deadline(Duration::from_millis(500))
        .credentials(credentials);
    Ok(built(cache.build()?, servers.store().await?))
}

async fn acl(admin: &mut MultiplexedConnection, words: &[&str]) -> RedisResult<()> {
    cmd("ACL").arg(words).query_async(admin).await
}

/// Replaces the file as secret managers do: its content is never partial.
fn write(path: &Path, password: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{password}\n"))?;
    std::fs::rename(new, path)
}

/// Returns a number of INFO, behind `name` and one of `:=`.
async fn number(admin: &mut MultiplexedConnection, section: &str, name: &str) -> RedisResult<u64> {
    let info: String = cmd("INFO").arg(section).query_async(admin).await?;
    let rest = info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let digits: String =
        rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    Ok(digits.parse().unwrap_or_default())
}

async fn until_two_links(sessions: &Sessions) -> Outcome {
    let connected = async || sessions.health().await.session_cache.pool.available > 1;
    wait::until("two links", SOON, connected).await?;
    Ok(())
}

// Each rotation also ends all connections, so the next ones need the new password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotated_password_file_fails_no_validation() -> Outcome {
    let servers = Servers::own_redis().await?;
    let mut admin = servers.redis().await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    acl(&mut admin, &["SETUSER", "default", "resetpass", ">s3cret-0"]).await?;
    write(&file, "s3cret-0")?;
    let sessions = sessions(&servers, PasswordFile::new(&file)).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    for n in 1..=10 {
        acl(&mut admin, &["SETUSER", "default", &format!(">s3cret-{n}")]).await?;
        write(&file, &format!("s3cret-{n}"))?;
        acl(&mut admin, &["SETUSER", "default", &format!("<s3cret-{}", n - 1)]).await?;
        let kill = ["KILL", "TYPE", "normal", "SKIPME", "yes"];
        cmd("CLIENT").arg(&kill).exec_async(&mut admin).await?;
        for _ in 0..100 {
            assert_eq!(ask(&sessions, &alice).await, "valid");
        }
        until_hit(&sessions, &alice).await?;
    }
    let errors = sessions.health().await.errors.join("\n");
    assert!(!errors.contains("s3cret"), "{errors}");
    acl(&mut admin, &["SETUSER", "default", "nopass"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_password_file_authenticates_open_connections() -> Outcome {
    let servers = Servers::own_redis().await?;
    let mut admin = servers.redis().await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    acl(&mut admin, &["SETUSER", "default", "resetpass", ">one", ">two"]).await?;
    write(&file, "one")?;
    let sessions = sessions(&servers, PasswordFile::new(&file)).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    until_two_links(&sessions).await?;
    let connections = number(&mut admin, "stats", "total_connections_received").await?;
    let auths = number(&mut admin, "commandstats", "cmdstat_auth:calls").await?;
    write(&file, "two")?;
    wait::until("AUTH on both links", SOON, async || {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        let now = number(&mut admin, "commandstats", "cmdstat_auth:calls").await;
        now.is_ok_and(|now| now >= auths + 2)
    })
    .await?;
    assert_eq!(number(&mut admin, "stats", "total_connections_received").await?, connections);
    acl(&mut admin, &["SETUSER", "default", "nopass"]).await?;
    Ok(())
}

// Redis ends the connections of a user that it deletes, as services do with those of a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_that_ends_is_renewed_on_open_connections() -> Outcome {
    const LIFE: Duration = Duration::from_secs(4);
    let servers = Servers::own_redis().await?;
    let mut admin = servers.redis().await?;
    let issued = Arc::new(AtomicUsize::new(0));
    let (tokens, issuer) = (Arc::clone(&issued), admin.clone());
    let sessions = sessions(&servers, move || {
        let (n, mut issuer) = (tokens.fetch_add(1, Ordering::SeqCst), issuer.clone());
        async move {
            let user = format!("token-{n}");
            let rights = ["SETUSER", &user, "on", ">s3cret", "~*", "+@all"];
            acl(&mut issuer, &rights)
                .await
                .map_err(|error| CredentialsError::new("no token").with_source(error))?;
            let ending = user.clone();
            tokio::spawn(async move {
                tokio::time::sleep(LIFE).await;
                let _gone = acl(&mut issuer, &["DELUSER", &ending]).await;
            });
            Ok(Credential::new("s3cret").user(user).valid_for(LIFE))
        }
    })
    .await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    until_two_links(&sessions).await?;
    until_hit(&sessions, &alice).await?;
    let before = sessions.metrics();
    let connections = number(&mut admin, "stats", "total_connections_received").await?;
    wait::until("three tokens of each link", SOON, async || {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        issued.load(Ordering::SeqCst) >= 8
    })
    .await?;
    let after = sessions.metrics();
    assert_eq!((after.misses, after.errors), (before.misses, before.errors));
    assert_eq!(number(&mut admin, "stats", "total_connections_received").await?, connections);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_credential_is_reported_and_retried() -> Outcome {
    let servers = Servers::own_redis().await?;
    let mut admin = servers.redis().await?;
    acl(&mut admin, &["SETUSER", "default", "resetpass", ">s3cret"]).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    let sessions = sessions(&servers, PasswordFile::new(&file)).await?;
    let alice = login(&sessions, "alice").await?;
    let words = ["password file cannot be read", "REDIS_PASSWORD_FILE"];
    wait::until("the reason in health", SOON, async || {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        let errors = sessions.health().await.errors.join("\n");
        words.iter().all(|word| errors.contains(word))
    })
    .await?;
    write(&file, "wrong")?;
    wait::until("the rejection", SOON, async || {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        sessions.recent_errors().iter().any(|error| error.contains("WRONGPASS"))
    })
    .await?;
    write(&file, "s3cret")?;
    until_connected(&sessions).await?;
    until_hit(&sessions, &alice).await?;
    // The open connections stay authenticated.
    std::fs::remove_file(&file)?;
    until_hit(&sessions, &alice).await?;
    acl(&mut admin, &["SETUSER", "default", "nopass"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_renewal_is_reported_for_open_connections_only() -> Outcome {
    const EXPIRING: usize = 0;
    const FAILING: usize = 1;
    const LASTING: usize = 2;
    let servers = Servers::own_redis().await?;
    let mut admin = servers.redis().await?;
    acl(&mut admin, &["SETUSER", "default", "resetpass", ">s3cret"]).await?;
    let phase = Arc::new(AtomicUsize::new(EXPIRING));
    let source = Arc::clone(&phase);
    let sessions = sessions(&servers, move || {
        let fetched = match source.load(Ordering::SeqCst) {
            EXPIRING => Ok(Credential::new("s3cret").valid_for(Duration::from_secs(2))),
            FAILING => Err(CredentialsError::new("the vault is sealed")),
            _ => Ok(Credential::new("s3cret")),
        };
        async { fetched }
    })
    .await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    until_two_links(&sessions).await?;
    let reported = async || {
        let errors = sessions.health().await.errors.join("\n");
        errors.contains("could not be renewed: the vault is sealed")
    };
    phase.store(FAILING, Ordering::SeqCst);
    wait::until("the failed renewal in health", SOON, &reported).await?;
    until_hit(&sessions, &alice).await?;
    // New connections have a credential that needs no renewal.
    phase.store(LASTING, Ordering::SeqCst);
    let kill = ["KILL", "TYPE", "normal", "SKIPME", "yes"];
    cmd("CLIENT").arg(&kill).exec_async(&mut admin).await?;
    wait::until("no failed renewal in health", SOON, async || !reported().await).await?;
    until_hit(&sessions, &alice).await?;
    acl(&mut admin, &["SETUSER", "default", "nopass"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_database_after_a_good_password_is_named() -> Outcome {
    let servers = Servers::own_redis().await?;
    let mut admin = servers.redis().await?;
    acl(&mut admin, &["SETUSER", "default", "resetpass", ">s3cret"]).await?;
    for parameters in ["", "?protocol=resp3"] {
        let url = format!("redis://:s3cret@{}/99{parameters}", servers.redis.address());
        let error = RedisCache::builder(url).connect(Duration::from_secs(1)).await;
        let error = error.expect_err("there are 16 databases").to_string();
        assert_contains(&error, &["number of the database", "databases"], &"error");
    }
    acl(&mut admin, &["SETUSER", "default", "nopass"]).await?;
    Ok(())
}
