//! Redis behind sentinels: a failover costs no request more than a miss.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use session_layer::cache::{ConnectCause, RedisCache};
use session_layer::connect::{Credential, CredentialsError, PasswordFile};
use session_layer::{Created, Sessions, Visibility};
use session_testkit::backends::{Backend, Backends, Sentinels};

use crate::harness::{Failure, Outcome, on};
use crate::judged::judged;
use crate::support::{SOON, Servers, ask, login, roomy, until, until_connected, until_hit};

/// Validates a session until it is stopped. Returns the number of validations.
fn validate(
    sessions: &Sessions,
    session: &Arc<Created>,
    stop: &Arc<AtomicBool>,
) -> tokio::task::JoinHandle<u64> {
    let (sessions, session, stop) = (sessions.clone(), Arc::clone(session), Arc::clone(stop));
    tokio::spawn(async move {
        let mut count = 0;
        while !stop.load(Ordering::SeqCst) {
            assert_eq!(ask(&sessions, &session).await, "valid");
            count += 1;
            tokio::task::yield_now().await;
        }
        count
    })
}

/// Fails over while requests are validated. None may fail, and a session revoked before stays so.
async fn fails_no_request(
    servers: &Servers,
    sentinels: &Sentinels,
    fail_over: impl AsyncFnOnce() -> Outcome,
) -> Outcome {
    let sessions = servers.sessions_at(&sentinels.url()).await?;
    let alice = Arc::new(login(&sessions, "alice").await?);
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &alice).await?;
    until_hit(&sessions, &bob).await?;
    // The sentinels may promote a replica that lacks the UNLINK.
    let visibility = sessions.revoke(bob.token.reveal()).await?.visibility;
    assert!(matches!(visibility, Visibility::Committed { .. }), "{visibility:?}");
    let stop = Arc::new(AtomicBool::new(false));
    let validating = validate(&sessions, &alice, &stop);
    fail_over().await?;
    until_connected(&sessions).await?;
    until_hit(&sessions, &alice).await?;
    until(&sessions, &bob, "invalid").await?;
    stop.store(true, Ordering::SeqCst);
    assert!(validating.await? > 0);
    assert_eq!(ask(&sessions, &bob).await, "invalid");
    // A node that starts now finds the new master.
    let new = servers.sessions_at(&sentinels.url()).await?;
    until_hit(&new, &alice).await?;
    for node in [sessions, new] {
        node.shutdown(SOON).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_failover_fails_no_request() -> Outcome {
    on(Backend::Native, |_| async {
        let (servers, sentinels) = (Servers::shared().await?, Sentinels::start().await?);
        fails_no_request(&servers, &sentinels, async || Ok(sentinels.fail_over().await?)).await?;
        // And back.
        fails_no_request(&servers, &sentinels, async || Ok(sentinels.fail_over().await?)).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_master_is_replaced_by_the_sentinels() -> Outcome {
    on(Backend::Native, |_| async {
        let (servers, sentinels) = (Servers::shared().await?, Sentinels::start().await?);
        let (master, _) = sentinels.master().await?;
        fails_no_request(&servers, &sentinels, async || {
            master.kill().await?;
            Ok(sentinels.until_master_is_not(master).await?)
        })
        .await?;
        // It returns as a replica of the new master, and is not used.
        master.restart().await?;
        let sessions = servers.sessions_at(&sentinels.url()).await?;
        until_connected(&sessions).await?;
        sessions.shutdown(SOON).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_sentinel_is_not_needed() -> Outcome {
    on(Backend::Native, |_| async {
        let (servers, sentinels) = (Servers::shared().await?, Sentinels::start().await?);
        let _paused = sentinels.servers()[0].pause().await?;
        sentinels.servers()[1].kill().await?;
        let sessions = servers.sessions_at(&sentinels.url()).await?;
        let alice = login(&sessions, "alice").await?;
        until_hit(&sessions, &alice).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_address_of_sentinels_is_named() -> Outcome {
    on(Backend::Native, |_| async {
        let sentinels = Sentinels::start().await?;
        let (master, _) = sentinels.master().await?;
        let first = sentinels.servers()[0].address();
        for (url, cause, why) in [
            (sentinels.url() + "-other", ConnectCause::Rejected, "do not know the service"),
            (format!("redis://{first}"), ConnectCause::NotMaster, "this is a sentinel"),
            (
                format!("redis+sentinel://{}/main", master.address()),
                ConnectCause::Protocol,
                "not a sentinel",
            ),
        ] {
            assert_failure(&url, cause, why).await?;
        }
        let missing = RedisCache::builder(sentinels.url())
            .sentinel_credentials(PasswordFile::new("/no/such/file"))
            .connect(std::time::Duration::from_secs(1));
        let error = missing.await.expect_err("there is no file");
        assert!(error.remedy().contains("REDIS_SENTINEL_PASSWORD"), "{error}");
        Ok(())
    })
    .await
}

async fn assert_failure(url: &str, cause: ConnectCause, why: &str) -> Outcome {
    let limit = std::time::Duration::from_secs(1);
    let error = RedisCache::builder(url).connect(limit).await.expect_err("no master");
    assert_eq!(error.cause(), cause, "{error}");
    assert!(error.to_string().contains(why), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_master_have_their_own_passwords() -> Outcome {
    on(Backend::Native, |_| async {
        let sentinels = Sentinels::start().await?;
        let (master, replica) = sentinels.master().await?;
        for sentinel in sentinels.servers() {
            // The sentinels use this password among each other too.
            let mut admin = connect(sentinel.url()).await?;
            for (name, value) in [("sentinel-pass", "s3cret-s"), ("sentinel-user", "default")] {
                let set = ["CONFIG", "SET", name, value];
                redis::cmd("SENTINEL").arg(&set).exec_async(&mut admin).await?;
            }
            let auth = ["SET", Sentinels::SERVICE, "auth-pass", "s3cret-m"];
            redis::cmd("SENTINEL").arg(&auth).exec_async(&mut admin).await?;
            let rule = ["SETUSER", "default", "resetpass", ">s3cret-s"];
            redis::cmd("ACL").arg(&rule).exec_async(&mut admin).await?;
        }
        for server in [replica, master] {
            let mut admin = server.connect().await?;
            let masterauth = ["SET", "masterauth", "s3cret-m"];
            redis::cmd("CONFIG").arg(&masterauth).exec_async(&mut admin).await?;
            let rule = ["SETUSER", "default", "resetpass", ">s3cret-m"];
            redis::cmd("ACL").arg(&rule).exec_async(&mut admin).await?;
        }
        let url = sentinels.url().replacen("://", "://:s3cret-m@", 1);
        assert_failure(&url, ConnectCause::Authentication, "REDIS_SENTINEL_PASSWORD").await?;
        let limit = std::time::Duration::from_secs(1);
        let both = RedisCache::builder(&url).sentinel_credentials(|| async {
            Ok::<_, CredentialsError>(Credential::new("s3cret-s"))
        });
        both.connect(limit).await?;
        Ok(())
    })
    .await
}

async fn connect(url: &str) -> Result<redis::aio::MultiplexedConnection, Failure> {
    Ok(redis::Client::open(url)?.get_multiplexed_async_connection().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_while_sentinels_fail_over() -> Outcome {
    on(Backend::Native, |backend| async move {
        let own = Backends::builder().backend(backend).start().await?;
        let deployment = roomy().sentinels(true).start(own).await?;
        judged(&deployment, &["redis-sentinel-failover@1+4", "redis-sentinel-failover@10+2"], 18)
            .await?;
        Ok(())
    })
    .await
}
