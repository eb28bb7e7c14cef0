//! Redis rejects commands. Postgres replaces it, and the errors name the remedy.

use redis::{aio::MultiplexedConnection, cmd};
use session_layer::health::HealthStatus;
use session_layer::{Sessions, Visibility};
use session_testkit::faults::{self, Command, Fault, Target};
use session_testkit::wait;

use crate::harness::{Failure, Outcome};
use crate::support::{
    SOON, Servers, ask, assert_contains, health_errors, login, until, until_connected,
    until_disconnected, until_hit,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_oom_misconf_and_each_denied_command() -> Outcome {
    let servers = Servers::own().await?;
    let target = Target::new(&servers.backends);
    let cases: [(Fault, &[&str]); 7] = [
        (Fault::RedisOom, &["OOM", "maxmemory"]),
        (Fault::RedisMisconf, &["MISCONF", "disk"]),
        (Fault::RedisAcl(Command::Get), &["NOPERM", "get"]),
        (Fault::RedisAcl(Command::Set), &["NOPERM", "set"]),
        (Fault::RedisAcl(Command::Evalsha), &["NOPERM", "EVALSHA", "nothing is cached"]),
        (Fault::RedisAcl(Command::Info), &["NOPERM", "INFO", "old dump", "propagated"]),
        (Fault::RedisAcl(Command::Client), &[]),
    ];
    for (fault, says) in cases {
        let before = servers.sessions().await?;
        let (alice, bob) = (login(&before, "alice").await?, login(&before, "bob").await?);
        until_hit(&before, &alice).await?;
        let broken = faults::inject(&fault, &target).await?;
        // A node from before the fault, and one that starts now.
        let since = servers.sessions().await?;
        until_connected(&since).await?;
        for node in [&before, &since] {
            for _ in 0..3 {
                assert_eq!(ask(node, &alice).await, "valid", "{fault}");
                assert_eq!(ask(node, &bob).await, "valid", "{fault}");
            }
            let report = node.health().await;
            assert_contains(&report.errors.join("\n"), says, &fault);
            let remarks = report.remarks.join("\n");
            if fault == Fault::RedisAcl(Command::Client) {
                assert_eq!(report.status, HealthStatus::Healthy, "{fault}");
                assert_contains(&remarks, &["CLIENT is denied", "CLIENT LIST"], &fault);
            } else {
                assert_eq!(report.status, HealthStatus::Degraded, "{fault}");
                assert_eq!(remarks, "", "{fault}");
            }
        }
        if fault == Fault::RedisAcl(Command::Evalsha) {
            assert_eq!(since.metrics().fills, 0, "nothing is cached");
        }
        let visibility = since.revoke(alice.token.reveal()).await?.visibility;
        // MISCONF rejects UNLINK too. Without INFO, the acknowledging server is unknown.
        let propagated = ![Fault::RedisMisconf, Fault::RedisAcl(Command::Info)].contains(&fault);
        assert_eq!(visibility == Visibility::Propagated, propagated, "{fault}: {visibility:?}");
        if propagated {
            assert_eq!(ask(&before, &alice).await, "invalid", "{fault}");
        } else {
            until(&before, &alice, "invalid").await?;
        }
        broken.heal().await?;
        for node in [&before, &since] {
            until_hit(node, &bob).await?;
            assert_eq!(node.health().await.remarks, Vec::<String>::new());
            // Otherwise the node would count as serving from the cache that it recorded last.
            node.shutdown(SOON).await?;
        }
    }
    Ok(())
}

/// Creates a node whose user of Redis has all rights but these.
async fn without(servers: &Servers, rules: &[&str]) -> Result<Sessions, Failure> {
    let mut redis = servers.redis().await?;
    let user = ["SETUSER", "poor", "on", ">secret", "~*", "+@all"];
    let () = cmd("ACL").arg(&user).arg(rules).query_async(&mut redis).await?;
    let url = servers.redis.url().replacen("redis://", "redis://poor:secret@", 1);
    servers.sessions_at(&url).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_without_unlink_makes_revocations_committed() -> Outcome {
    let servers = Servers::own_redis().await?;
    let sessions = without(&servers, &["-unlink"]).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let visibility = sessions.revoke(alice.token.reveal()).await?.visibility;
    assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    let text = health_errors(&sessions).await;
    assert_contains(&text, &["NOPERM", "UNLINK", "until its TTL"], &"UNLINK");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_without_scripts_caches_nothing() -> Outcome {
    let servers = Servers::own_redis().await?;
    let sessions = without(&servers, &["-@scripting"]).await?;
    let alice = login(&sessions, "alice").await?;
    until_connected(&sessions).await?;
    for _ in 0..5 {
        assert_eq!(ask(&sessions, &alice).await, "valid");
    }
    let text = health_errors(&sessions).await;
    assert_contains(&text, &["NOPERM", "nothing is cached"], &"scripts");
    let visibility = sessions.revoke(alice.token.reveal()).await?.visibility;
    assert_eq!(visibility, Visibility::Propagated, "nothing is cached anywhere");
    assert_eq!(sessions.metrics().fills, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_loading_is_replaced_by_postgres() -> Outcome {
    // While it loads, Redis serves its clients after each of these numbers of bytes.
    let often = ["--loading-process-events-interval-bytes", "1024"];
    let servers = Servers::own_redis_with(&often).await?;
    let (sessions, alice) = servers.cached().await?;
    servers.redis.config_set("key-load-delay", "10000").await?;
    let mut redis = servers.redis().await?;
    let mut many = redis::pipe();
    for n in 0..600 {
        many.set(format!("many:{n}"), "x".repeat(2_000)).ignore();
    }
    let () = many.query_async(&mut redis).await?;
    let reload = tokio::spawn(async move {
        let _ended: redis::RedisResult<()> =
            cmd("DEBUG").arg("RELOAD").query_async(&mut redis).await;
    });
    wait::until("a request that receives LOADING", SOON, async || {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        let errors = sessions.recent_errors().join("\n");
        errors.contains("LOADING") && errors.contains("when it is done")
    })
    .await?;
    reload.abort();
    until_hit(&sessions, &alice).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_rejects_the_credentials() -> Outcome {
    let servers = Servers::own_redis().await?;
    let wrong = servers.redis.url().replacen("redis://", "redis://default:wr0ng@", 1);
    let mut admin = servers.redis().await?;
    set_password(&mut admin, ">s3cret").await?;
    // WRONGPASS, and NOAUTH.
    for url in [wrong.as_str(), servers.redis.url()] {
        let sessions = servers.sessions_at(url).await?;
        let alice = login(&sessions, "alice").await?;
        wait::until("a rejection", SOON, async || {
            assert_eq!(ask(&sessions, &alice).await, "valid");
            !sessions.recent_errors().is_empty()
        })
        .await?;
        let errors = sessions.recent_errors().join("\n");
        assert_contains(&errors, &["check user and password in REDIS_URL"], &url);
        assert!(!errors.contains("wr0ng"), "{errors}");
        assert!(!sessions.cache_status().connected);
    }
    set_password(&mut admin, "nopass").await?;
    Ok(())
}

async fn set_password(admin: &mut MultiplexedConnection, rule: &str) -> redis::RedisResult<()> {
    let words = ["SETUSER", "default", "resetpass", rule];
    cmd("ACL").arg(&words).query_async(admin).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_busy_with_a_script_is_replaced() -> Outcome {
    let servers = Servers::own_redis().await?;
    let (sessions, alice) = servers.cached().await?;
    servers.redis.config_set("lua-time-limit", "50").await?;
    let (mut script, mut admin) = (servers.redis().await?, servers.redis().await?);
    let endless = tokio::spawn(async move {
        let _killed: redis::RedisResult<()> =
            cmd("EVAL").arg("while true do end").arg(0).query_async(&mut script).await;
    });
    let seen = wait::until("a request that receives BUSY", SOON, async || {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        let errors = sessions.recent_errors().join("\n");
        errors.contains("SCRIPT KILL")
    })
    .await;
    let () = cmd("SCRIPT").arg("KILL").query_async(&mut admin).await?;
    endless.abort();
    seen?;
    until_hit(&sessions, &alice).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_demoted_is_not_used_until_promoted_again() -> Outcome {
    let servers = Servers::own_redis().await?;
    let master = Servers::own_redis().await?;
    let (sessions, alice) = servers.cached().await?;
    servers.redis.replica_of(Some(&master.redis)).await?;
    until_disconnected(&sessions).await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    let errors = sessions.recent_errors().join("\n");
    assert_contains(&errors, &["replica", "REDIS_URL"], &"a demotion");
    // A node that starts now does not use it either.
    let new = servers.sessions().await?;
    assert_eq!(ask(&new, &alice).await, "valid");
    assert!(!new.cache_status().connected);
    assert!(new.recent_errors().iter().any(|error| error.contains("replica")));
    servers.redis.replica_of(None).await?;
    until_hit(&sessions, &alice).await
}

// Redis serves reads and rejects every write, also UNLINK.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_demands_more_replicas() -> Outcome {
    let servers = Servers::own_redis().await?;
    let sessions = servers.sessions().await?;
    let (alice, bob) = (login(&sessions, "alice").await?, login(&sessions, "bob").await?);
    until_hit(&sessions, &alice).await?;
    servers.redis.config_set("min-replicas-to-write", "1").await?;
    for _ in 0..3 {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        assert_eq!(ask(&sessions, &bob).await, "valid");
    }
    let text = health_errors(&sessions).await;
    assert_contains(&text, &["NOREPLICAS", "min-replicas-to-write", "UNLINK"], &"NOREPLICAS");
    let visibility = sessions.revoke(alice.token.reveal()).await?.visibility;
    assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    until(&sessions, &alice, "invalid").await?;
    servers.redis.config_set("min-replicas-to-write", "0").await?;
    until_hit(&sessions, &bob).await?;
    Ok(())
}
