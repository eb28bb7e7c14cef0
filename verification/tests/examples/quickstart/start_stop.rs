//! How the quickstart starts, fails to start, and stops.

use std::time::{Duration, Instant};

use session_testkit::backends::Backends;
use session_testkit::wait;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::process::{App, env_of};
use crate::harness::{Failure, Outcome, default_backend, shared};
use crate::support::SOON;

/// The time that orchestrators wait before they kill.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_is_reported_and_keeps_sessions_over_a_restart() -> Outcome {
    let app = App::embedded().await?;
    for text in ["Embedded", "DATABASE_URL=postgres://", "REDIS_URL=redis://"] {
        assert!(app.banner.contains(text), "{}", app.banner);
    }
    let warned = "WARN session_layer::sessions::env: neither DATABASE_URL nor REDIS_URL is set";
    assert!(app.log().contains(warned), "{}", app.log());
    let (alice, ended) = (app.login("alice").await?, app.login("alice").await?);
    app.ask("POST", "/logout", &[("Cookie", &ended.cookie)]).await?;
    let health = app.health().await?.json();
    assert_eq!(health["sessionCache"]["backend"], "memory", "{health:#}");
    assert_eq!(health["redis"]["connected"], false, "{health:#}");
    let (status, took, folder) = app.stop().await?;
    assert!(status.success() && took < GRACE, "{status} after {took:?}");
    assert!(folder.path().join("session-layer.db").exists());

    let app = App::start(folder, &[]).await?;
    assert_eq!(app.me(&alice).await?.status, 200);
    assert_eq!(app.me(&ended).await?.status, 401);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_start_prints_one_message() -> Outcome {
    let taken = TcpListener::bind("127.0.0.1:0").await?;
    let taken = taken.local_addr()?.to_string();
    // No server listens there any more.
    let unused = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let nowhere = format!("postgres://app:hunter2@{unused}/app");
    for (env, words) in [
        (vec![("SECURE_COOKIES", "yes")], vec!["SECURE_COOKIES", "yes", "true, false, 1 or 0"]),
        (vec![("SESSION_CACHE_TTL", "soon")], vec!["SESSION_CACHE_TTL", "soon"]),
        (vec![("RUST_LOG", "a=b=c")], vec!["RUST_LOG", "a=b=c"]),
        (vec![("ADDR", "somewhere")], vec!["ADDR", "somewhere", "HOST:PORT"]),
        (vec![("ADDR", &*taken)], vec!["ADDR", &*taken]),
        (vec![("ADMIN_ADDR", &*taken)], vec!["ADMIN_ADDR", &*taken]),
        (vec![("REDIS_URL", "redis://localhost")], vec!["REDIS_URL", "postgres://"]),
        (
            vec![("DATABASE_URL", "postgres://localhost/app")],
            vec!["REDIS_URL", "SESSION_CACHE_ENABLED=false"],
        ),
        (
            vec![("SESSION_DB_SCHEMA", "shop"), ("DATABASE_URL", "")],
            vec!["SESSION_DB_SCHEMA", "DATABASE_URL=sqlite:PATH"],
        ),
        (
            vec![("DATABASE_URL", "postgres://u:1/hunter2@localhost/app")],
            vec!["DATABASE_URL", "%2F"],
        ),
        (
            vec![("DATABASE_URL", "mysql://u:hunter2@localhost/app")],
            vec!["DATABASE_URL", "postgres://"],
        ),
        (
            vec![
                ("DATABASE_URL", &*nowhere),
                ("REDIS_URL", "redis://localhost"),
                ("SESSION_DB_START_TIMEOUT", "0"),
            ],
            vec!["onnect"],
        ),
        (vec![("DATABASE_URL", "sqlite:/no/such/folder/x.db")], vec!["/no/such/folder"]),
    ] {
        let env: Vec<_> = env.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        let (status, log) = App::start_in_vain(&env).await?;
        assert!(!status.success() && status.code().is_some(), "{env:?}: {status}");
        let message: Vec<_> = log.lines().filter(|line| line.starts_with("quickstart")).collect();
        assert_eq!(message.len(), 1, "{env:?}: {log}");
        for word in words {
            assert!(message[0].contains(word), "{word:?} is missing in {log}");
        }
        assert!(!log.contains("panicked") && !log.contains("hunter2"), "{log}");
    }
    Ok(())
}

// It would wait for an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_does_not_wait_for_what_only_a_setting_can_change() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let url = sandbox.database_url();
    let verifying = format!("{url}?sslmode=verify-full");
    let redis = format!("postgres://app@{}/app", backends.redis().address());
    let place = url.rsplit('@').next().unwrap_or_default();
    let unknown_role = format!("postgres://no_such_role:hunter2@{place}");
    for (url, word) in [(verifying, "has no TLS"), (redis, "is Redis"), (unknown_role, "user")] {
        let mut env = env_of(&sandbox);
        env.retain(|(name, _)| *name != "DATABASE_URL");
        env.extend([("DATABASE_URL", url), ("SESSION_DB_START_TIMEOUT", "3600".to_owned())]);
        let (status, log) = App::start_in_vain(&env).await?;
        assert!(!status.success() && log.contains(word), "{word}: {log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_print_the_usage_or_an_error_and_start_nothing() -> Outcome {
    let (code, usage, _) = App::arguments(&["--help"]).await?;
    assert_eq!(code, Some(0), "{usage}");
    for name in ["ADDR", "ADMIN_ADDR", "SECURE_COOKIES", "DATABASE_URL", "REDIS_URL", "/login"] {
        assert!(usage.contains(name), "{name} is missing in {usage}");
    }
    assert_eq!(App::arguments(&["-h"]).await?.1, usage);
    for unknown in [&["--port"][..], &["serve"], &[""], &["serve", "--help"]] {
        let (code, out, error) = App::arguments(unknown).await?;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{unknown:?}: {error}");
        let named = format!("unknown argument {:?}", unknown[0]);
        assert!(error.contains(&named) && error.contains("--help"), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_waits_for_a_postgres_that_wakes_up() -> Outcome {
    let servers = Backends::builder().backend(default_backend().await?).start().await?;
    let sandbox = servers.sandbox();
    let folder = TempDir::new()?;
    let log = folder.path().join("log");
    let env = env_of(&sandbox);
    servers.postgres().kill().await?;
    let waking = async {
        // The quickstart may have to be compiled first.
        wait::until("a message about the wait", SOON * 5, async || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            log.contains("Postgres cannot be reached yet")
        })
        .await?;
        Ok::<_, Failure>(servers.postgres().restart().await?)
    };
    let (app, woken) = tokio::join!(App::start(folder, &env), waking);
    woken?;
    let app = app?;
    let alice = app.login("alice").await?;
    assert_eq!(app.me(&alice).await?.status, 200);
    assert_eq!(app.log().matches("SESSION_DB_START_TIMEOUT").count(), 1, "{}", app.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secure_cookies_have_the_host_prefix() -> Outcome {
    let app = App::start(TempDir::new()?, &[("SECURE_COOKIES", "true".to_owned())]).await?;
    let login = app.try_login("alice").await?;
    let cookie = login.field("set-cookie").unwrap_or_default();
    let token = login.json()["token"].as_str().unwrap_or_default().to_owned();
    assert_eq!(cookie, format!("__Host-session={token}; HttpOnly; SameSite=Lax; Secure; Path=/"));
    let status = async |name: &str| {
        let cookie = format!("{name}={token}");
        app.ask("GET", "/me", &[("Cookie", &cookie)]).await.map(|answer| answer.status)
    };
    assert_eq!(status("__Host-session").await?, 200);
    assert_eq!(status("session").await?, 401, "the cookie of another name");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_does_not_wait_for_silent_clients() -> Outcome {
    let mut app = App::embedded().await?;
    let silent = TcpStream::connect(&app.address).await?;
    let mut idle = TcpStream::connect(&app.address).await?;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut half = TcpStream::connect(&app.admin).await?;
    half.write_all(b"PUT /mode HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{").await?;
    // A request in flight at the signal completes later, and gets its response.
    let mut slow = TcpStream::connect(&app.address).await?;
    let body = r#"{"user":"alice"}"#;
    let head = format!(
        "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: \
         {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    slow.write_all(head.as_bytes()).await?;
    let mut asks_for_body = [0; 25];
    slow.read_exact(&mut asks_for_body).await?;
    assert_eq!(&asks_for_body, b"HTTP/1.1 100 Continue\r\n\r\n");
    let begin = Instant::now();
    app.terminate()?;
    let ends = async || TcpStream::connect(&app.address).await.is_err();
    wait::until("the listener to close", SOON, ends).await?;
    slow.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let status = app.ended().await?;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begin.elapsed() < GRACE, "{:?}", begin.elapsed());
    drop((silent, idle, half));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_does_not_wait_for_stores_that_hang() -> Outcome {
    let backend = default_backend().await?;
    let servers = Backends::builder().backend(backend).start().await?;
    let mut app = App::on(&servers).await?;
    let alice = app.login("alice").await?;
    assert_eq!(app.me(&alice).await?.status, 200);
    let _redis = servers.redis().pause().await?;
    let _postgres = servers.postgres().pause().await?;
    let begin = Instant::now();
    let fields = [("Authorization", &*alice.bearer)];
    let requests = async {
        tokio::join!(
            app.send("POST", "/logout", &fields),
            app.try_login("bob"),
            app.send("GET", "/me", &fields),
            async {
                sleep(Duration::from_millis(300)).await;
                app.terminate()
            }
        )
    };
    let (logout, login, me, sent) = requests.await;
    sent?;
    for (what, answer) in [("logout", logout?), ("login", login?), ("me", me?)] {
        assert_eq!(answer.status, 503, "{what}: {answer:?}");
    }
    let status = app.ended().await?;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begin.elapsed() < GRACE, "{:?}", begin.elapsed());
    Ok(())
}
