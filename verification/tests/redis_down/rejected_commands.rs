//! Redis refuses: Postgres answers, and the errors say what to do.

use redis::{AsyncCommands as _, aio::MultiplexedConnection, cmd};
use session_layer::health::HealthStatus;
use session_layer::{Sessions, Visibility};
use session_testkit::backends::Backends;
use session_testkit::faults::{self, Command, Fault, Target};
use session_testkit::wait;

use crate::harness::{Outcome, default_backend, shared};
use crate::operation::health_errors::{assert_says, told};
use crate::support::{
    OwnRedis, SOON, ask, login, sessions_on, until_connected, until_disconnected, until_hit,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_oom_misconf_and_each_denied_command() -> Outcome {
    let backend = default_backend().await?;
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let target = Target::new(&backends);
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
        let before = sessions_on(sandbox.redis_url(), &sandbox).await?;
        let (alice, bob) = (login(&before, "alice").await?, login(&before, "bob").await?);
        until_hit(&before, &alice).await?;
        let broken = faults::inject(&fault, &target).await?;
        // One that was there before, and one that starts now.
        let since = sessions_on(sandbox.redis_url(), &sandbox).await?;
        until_connected(&since).await?;
        for node in [&before, &since] {
            for _ in 0..3 {
                assert_eq!(ask(node, &alice).await, "valid", "{fault}");
                assert_eq!(ask(node, &bob).await, "valid", "{fault}");
            }
            let report = node.health().await;
            assert_says(&report.errors.join("\n"), says, &fault);
            let remarks = report.remarks.join("\n");
            if fault == Fault::RedisAcl(Command::Client) {
                assert_eq!(report.status, HealthStatus::Healthy, "{fault}");
                assert_says(&remarks, &["CLIENT is denied", "CLIENT LIST"], &fault);
            } else {
                assert_eq!(report.status, HealthStatus::Degraded, "{fault}");
                assert_eq!(remarks, "", "{fault}");
            }
        }
        if fault == Fault::RedisAcl(Command::Evalsha) {
            assert_eq!(since.metrics().fills, 0, "nothing is cached");
        }
        let visibility = since.revoke(alice.token.reveal()).await?.visibility;
        // MISCONF refuses UNLINK too; without INFO nobody knows whose acknowledgement it is.
        let propagated = ![Fault::RedisMisconf, Fault::RedisAcl(Command::Info)].contains(&fault);
        assert_eq!(visibility == Visibility::Propagated, propagated, "{fault}: {visibility:?}");
        if propagated {
            assert_eq!(ask(&before, &alice).await, "invalid", "{fault}");
        } else {
            wait::until("the journal to be read", SOON, async || {
                ask(&before, &alice).await == "invalid"
            })
            .await?;
        }
        broken.heal().await?;
        for node in [&before, &since] {
            until_hit(node, &bob).await?;
            assert_eq!(node.health().await.remarks, Vec::<String>::new());
            // Else it would count as serving from the cache that it had recorded last.
            node.shutdown(SOON).await?;
        }
    }
    Ok(())
}

/// A user of Redis with all rights but these.
async fn without(own: &OwnRedis, rules: &[&str]) -> Result<Sessions, crate::harness::Failure> {
    let mut redis = own.redis.connect().await?;
    let user = ["SETUSER", "poor", "on", ">secret", "~*", "+@all"];
    let () = cmd("ACL").arg(&user).arg(rules).query_async(&mut redis).await?;
    let url = own.redis.url().replacen("redis://", "redis://poor:secret@", 1);
    sessions_on(&url, &own.sandbox).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_without_unlink_promises_nothing() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = without(&own, &["-unlink"]).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    let visibility = sessions.revoke(alice.token.reveal()).await?.visibility;
    assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    assert_eq!(ask(&sessions, &alice).await, "invalid");
    let text = told(&sessions).await;
    assert_says(&text, &["NOPERM", "UNLINK", "until its TTL"], &"UNLINK");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_without_scripts_at_all_caches_nothing() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = without(&own, &["-@scripting"]).await?;
    let alice = login(&sessions, "alice").await?;
    until_connected(&sessions).await?;
    for _ in 0..5 {
        assert_eq!(ask(&sessions, &alice).await, "valid");
    }
    let text = told(&sessions).await;
    assert_says(&text, &["NOPERM", "nothing is cached"], &"scripts");
    let visibility = sessions.revoke(alice.token.reveal()).await?.visibility;
    assert_eq!(visibility, Visibility::Propagated, "nothing is cached anywhere");
    assert_eq!(sessions.metrics().fills, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_loading() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start_with(&backends, &["--enable-debug-command", "yes"]).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    // Redis looks at its clients only now and then while it loads, by the bytes it has read.
    own.redis.config_set("loading-process-events-interval-bytes", "1024").await?;
    own.redis.config_set("key-load-delay", "10000").await?;
    let mut redis = own.redis.connect().await?;
    let mut many = redis::pipe();
    for n in 0..600 {
        many.set(format!("many:{n}"), "x".repeat(2_000)).ignore();
    }
    let () = many.query_async(&mut redis).await?;
    let reload = tokio::spawn(async move {
        let _ended: redis::RedisResult<()> =
            cmd("DEBUG").arg("RELOAD").query_async(&mut redis).await;
    });
    wait::until("a request that meets LOADING", SOON, async || {
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
async fn redis_wants_other_credentials() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let wrong = own.redis.url().replacen("redis://", "redis://default:wr0ng@", 1);
    let mut admin = own.redis.connect().await?;
    set_password(&mut admin, ">s3cret").await?;
    // WRONGPASS, and NOAUTH.
    for url in [wrong.as_str(), own.redis.url()] {
        let sessions = sessions_on(url, &own.sandbox).await?;
        let alice = login(&sessions, "alice").await?;
        wait::until("a refusal", SOON, async || {
            assert_eq!(ask(&sessions, &alice).await, "valid");
            !sessions.recent_errors().is_empty()
        })
        .await?;
        let errors = sessions.recent_errors().join("\n");
        assert_says(&errors, &["check user and password in REDIS_URL"], &url);
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
async fn redis_busy_with_a_script() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    own.redis.config_set("busy-reply-threshold", "50").await?;
    let (mut script, mut admin) = (own.redis.connect().await?, own.redis.connect().await?);
    let endless = tokio::spawn(async move {
        let _killed: redis::RedisResult<()> =
            cmd("EVAL").arg("while true do end").arg(0).query_async(&mut script).await;
    });
    let seen = wait::until("a request that meets BUSY", SOON, async || {
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
async fn redis_demoted_says_so() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let master = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    own.redis.replica_of(Some(&master.redis)).await?;
    until_disconnected(&sessions).await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    let errors = sessions.recent_errors().join("\n");
    assert_says(&errors, &["replica", "REDIS_URL"], &"a demotion");
    own.redis.replica_of(None).await?;
    until_hit(&sessions, &alice).await?;
    let gone: bool = own.redis.connect().await?.exists("nothing").await?;
    assert!(!gone);
    Ok(())
}

/// It reads, and refuses every write, UNLINK as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_wants_more_replicas() -> Outcome {
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    let (alice, bob) = (login(&sessions, "alice").await?, login(&sessions, "bob").await?);
    until_hit(&sessions, &alice).await?;
    own.redis.config_set("min-replicas-to-write", "1").await?;
    for _ in 0..3 {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        assert_eq!(ask(&sessions, &bob).await, "valid");
    }
    let text = told(&sessions).await;
    assert_says(&text, &["NOREPLICAS", "min-replicas-to-write", "UNLINK"], &"NOREPLICAS");
    let visibility = sessions.revoke(alice.token.reveal()).await?.visibility;
    assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    wait::until("the journal to be read", SOON, async || ask(&sessions, &alice).await == "invalid")
        .await?;
    own.redis.config_set("min-replicas-to-write", "0").await?;
    until_hit(&sessions, &bob).await?;
    Ok(())
}

/// One that has no keys, then one that has some (as each of several does), then one that has all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_a_node_of_a_cluster() -> Outcome {
    let backends = shared().await?;
    let arguments = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"];
    let own = OwnRedis::start_with(&backends, &arguments).await?;
    let sessions = own.sessions().await?;
    until_connected(&sessions).await?;
    let mut logins = Vec::new();
    for user in 0..20 {
        logins.push(login(&sessions, &format!("user {user}")).await?);
    }
    let mut admin = own.redis.connect().await?;
    for slots in [None, Some(("0", "8191")), Some(("8192", "16383"))] {
        if let Some((first, last)) = slots {
            let words = ["ADDSLOTSRANGE", first, last];
            let () = cmd("CLUSTER").arg(&words).query_async(&mut admin).await?;
        }
        for created in &logins {
            assert_eq!(ask(&sessions, created).await, "valid");
        }
        if slots.is_none_or(|(first, _)| first == "0") {
            let text = told(&sessions).await;
            assert_says(&text, &["cluster", "REDIS_URL", "all keys"], &"a cluster");
            let ended = logins.pop();
            let ended = ended.as_ref().ok_or("no session is left")?;
            let _ = sessions.revoke(ended.token.reveal()).await?;
            wait::until("the session to end", SOON, async || {
                ask(&sessions, ended).await == "invalid"
            })
            .await?;
        }
    }
    for created in &logins {
        until_hit(&sessions, created).await?;
    }
    // Each key by a command of its own: no CROSSSLOT.
    let [first, second, ..] = logins.as_slice() else {
        return Err("no sessions are left".into());
    };
    for created in [first, second] {
        let visibility = sessions.revoke(created.token.reveal()).await?.visibility;
        assert_eq!(visibility, Visibility::Propagated);
    }
    Ok(())
}
