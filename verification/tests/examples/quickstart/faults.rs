//! Redis and Postgres are killed, stopped, flushed, demoted and revived under the quickstart.

use std::time::{Duration, Instant};

use serde_json::json;
use session_testkit::{
    backends::{Backend, Backends},
    wait,
};
use tempfile::TempDir;

use super::{
    process::{App, Login, env_of, source},
    rows::{
        assert_cleared, assert_no_token, assert_outage, assert_problem, assert_unauthorized, keys,
    },
};
use crate::{
    examples::http_client::Answer,
    harness::{Outcome, default_backend, shared},
    support::execute,
};

/// Noticing that a server is gone or there again.
const SOON: Duration = Duration::from_secs(5);

async fn servers(backend: Backend) -> Result<Backends, session_testkit::backends::BackendError> {
    Backends::builder().backend(backend).start().await
}

/// Waits until this session is answered for by Redis again.
async fn hit_again(app: &App, login: &Login) -> Outcome {
    let hit = async || app.source(login).await.is_ok_and(|source| source == "hit");
    let took = wait::until("a hit", SOON, hit).await?;
    eprintln!("hits again after {took:?}");
    Ok(())
}

/// A revocation that Redis could not be told of: committed, with both bounds.
fn assert_committed(answer: &Answer) {
    let told = answer.json();
    assert_eq!((answer.status, &told["revoked"]), (200, &json!("committed")), "{answer:?}");
    assert_eq!(told["atMostMs"], 302_000, "{answer:?}");
    assert_eq!(told["withinMs"], 2_000, "{answer:?}");
}

/// Everything works on Postgres alone; ends `other`.
async fn works_without_redis(app: &App, alice: &Login, other: &Login) -> Outcome {
    for _ in 0..5 {
        let begin = Instant::now();
        let me = app.me(alice).await?;
        assert_eq!((me.status, source(&me).as_str()), (200, "store"), "{me:?}");
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    }
    let new = app.login("alice").await?;
    assert_eq!(app.me(&new).await?.status, 200);
    assert_eq!(app.get("/sessions", alice).await?.json().as_array().map(Vec::len), Some(3));
    assert_committed(
        &app.ask("DELETE", &format!("/sessions/{}", new.id), &[("Cookie", &alice.cookie)]).await?,
    );
    let logout = app.ask("POST", "/logout", &[("Cookie", &other.cookie)]).await?;
    assert_committed(&logout);
    assert_cleared(&logout);
    for ended in [&new, other] {
        assert_unauthorized(&app.me(ended).await?);
    }
    assert_eq!(app.ask("GET", "/readyz", &[]).await?.status, 200);
    assert_eq!(app.ask("GET", "/livez", &[]).await?.status, 200);
    Ok(())
}

async fn health_without_redis(app: &App) -> Outcome {
    let unhealthy = async || app.health().await.is_ok_and(|health| health.status == 503);
    wait::until("the health to be a 503", SOON, unhealthy).await?;
    let document = app.health().await?.json();
    assert_eq!(document["status"], "unhealthy", "{document:#}");
    assert_eq!(document["redis"]["connected"], false, "{document:#}");
    assert_eq!(document["redis"]["version"], json!(null), "{document:#}");
    assert_eq!(document["sessionCache"]["pool"]["available"], 0, "{document:#}");
    assert_eq!(document["performance"], json!({ "ping": null, "set": null, "get": null }));
    let errors = document["errors"].as_array().map_or(0, Vec::len);
    assert!((1..=10).contains(&errors), "{document:#}");
    Ok(())
}

async fn healthy_again(app: &App) -> Outcome {
    // Degraded: the errors of the last minute are still told.
    let connected = async || app.health().await.is_ok_and(|health| health.status == 200);
    wait::until("the health to be a 200", SOON, connected).await?;
    let document = app.health().await?.json();
    assert_eq!(document["redis"]["connected"], true, "{document:#}");
    assert_eq!(document["status"], "degraded", "{document:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_and_back_with_an_old_dump_revives_nobody() -> Outcome {
    let backend = default_backend().await?;
    let servers = servers(backend).await?;
    let app = App::on(&servers).await?;
    let (alice, other) = (app.login("alice").await?, app.login("alice").await?);
    hit_again(&app, &alice).await?;
    hit_again(&app, &other).await?;
    // What it will come back with: a copy of a session that ends while it is away.
    servers.redis().save().await?;
    servers.redis().kill().await?;
    works_without_redis(&app, &alice, &other).await?;
    health_without_redis(&app).await?;

    servers.redis().restart().await?;
    for _ in 0..20 {
        assert_unauthorized(&app.me(&other).await?);
    }
    hit_again(&app, &alice).await?;
    assert_unauthorized(&app.me(&other).await?);
    healthy_again(&app).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_paused_and_resumed_revives_nobody() -> Outcome {
    let backend = default_backend().await?;
    let servers = servers(backend).await?;
    let app = App::on(&servers).await?;
    let (alice, other) = (app.login("alice").await?, app.login("alice").await?);
    hit_again(&app, &alice).await?;
    hit_again(&app, &other).await?;
    let paused = servers.redis().pause().await?;
    works_without_redis(&app, &alice, &other).await?;
    health_without_redis(&app).await?;

    paused.resume().await?;
    // It wakes with a copy of `other` that nobody could remove.
    for _ in 0..20 {
        assert_unauthorized(&app.me(&other).await?);
    }
    hit_again(&app, &alice).await?;
    assert_unauthorized(&app.me(&other).await?);
    healthy_again(&app).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_absent_at_the_start_is_used_later() -> Outcome {
    let backend = default_backend().await?;
    let servers = servers(backend).await?;
    servers.redis().kill().await?;
    let app = App::on(&servers).await?;
    let (alice, other) = (app.login("alice").await?, app.login("alice").await?);
    works_without_redis(&app, &alice, &other).await?;
    health_without_redis(&app).await?;
    servers.redis().restart().await?;
    hit_again(&app, &alice).await?;
    healthy_again(&app).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_demoted_is_not_used_until_promoted() -> Outcome {
    let backend = default_backend().await?;
    let servers = servers(backend).await?;
    let new_master = Backends::builder().backend(backend).start_redis().await?;
    let app = App::on(&servers).await?;
    let (alice, other) = (app.login("alice").await?, app.login("alice").await?);
    hit_again(&app, &alice).await?;
    hit_again(&app, &other).await?;
    servers.redis().replica_of(Some(&new_master)).await?;
    // A demoted server still answers reads: within a second it is noticed, and no longer believed.
    let noticed = async || app.source(&alice).await.is_ok_and(|source| source == "store");
    wait::until("the demotion to be noticed", SOON, noticed).await?;
    works_without_redis(&app, &alice, &other).await?;

    servers.redis().replica_of(None).await?;
    for _ in 0..20 {
        assert_unauthorized(&app.me(&other).await?);
    }
    hit_again(&app, &alice).await?;
    assert_unauthorized(&app.me(&other).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_flushed_logs_nobody_out() -> Outcome {
    let backend = default_backend().await?;
    let servers = servers(backend).await?;
    let app = App::on(&servers).await?;
    let (alice, ended) = (app.login("alice").await?, app.login("alice").await?);
    app.ask("POST", "/logout", &[("Cookie", &ended.cookie)]).await?;
    for _ in 0..3 {
        hit_again(&app, &alice).await?;
        servers.redis().flush_all().await?;
        assert_eq!(app.source(&alice).await?, "store");
        assert_unauthorized(&app.me(&ended).await?);
    }
    hit_again(&app, &alice).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_serves_what_is_cached() -> Outcome {
    let backend = default_backend().await?;
    let servers = servers(backend).await?;
    let app = App::on(&servers).await?;
    let (alice, uncached) = (app.login("alice").await?, app.login("alice").await?);
    hit_again(&app, &alice).await?;
    servers.postgres().kill().await?;

    let me = app.get("/me", &alice).await?;
    assert_eq!((me.status, source(&me).as_str()), (200, "hit"), "{me:?}");
    // Nobody could say: an outage is never a 401.
    let unknown = app.send("GET", "/me", &[("Authorization", &uncached.bearer)]).await?;
    assert_outage(&unknown);
    assert_eq!(source(&unknown), "unavailable");
    assert_outage(&app.try_login("alice").await?);
    assert_outage(&app.send("GET", "/sessions", &[("Cookie", &alice.cookie)]).await?);
    let cookie = ("Cookie", &*alice.cookie);
    let delete = format!("/sessions/{}", uncached.id);
    let nobody_knows = ("Cookie", &*uncached.cookie);
    for (method, path, cookie) in [
        ("POST", "/logout", cookie),
        // By the layer: nobody could say whose it is.
        ("POST", "/logout", nobody_knows),
        ("POST", "/logout-everywhere", cookie),
        ("DELETE", delete.as_str(), cookie),
    ] {
        let answer = app.send(method, path, &[cookie]).await?;
        assert_outage(&answer);
        let detail = answer.json()["detail"].to_string();
        assert!(
            detail.contains("could not be ended") && detail.contains("try again"),
            "{method} {path}: {detail}"
        );
    }
    assert_problem(&app.ask("DELETE", "/sessions/no-uuid", &[cookie]).await?, 404);
    assert_no_token(&app.send("GET", "/me", &[]).await?);
    assert_eq!(app.ask("GET", "/readyz", &[]).await?.status, 200, "hits can be validated");
    assert_eq!(app.health().await?.json()["redis"]["connected"], true);
    assert_eq!(app.get("/me", &alice).await?.status, 200, "what failed has ended nothing");

    servers.postgres().restart().await?;
    let answers = async || app.me(&uncached).await.is_ok_and(|me| me.status == 200);
    wait::until("Postgres to be asked again", SOON, answers).await?;
    let logout = app.ask("POST", "/logout", &[cookie]).await?;
    assert_eq!((logout.status, logout.json()), (200, json!({ "revoked": "propagated" })));
    assert_unauthorized(&app.me(&alice).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_killed_answers_503_and_clears_no_cookie() -> Outcome {
    let backend = default_backend().await?;
    let servers = servers(backend).await?;
    let app = App::on(&servers).await?;
    let alice = app.login("alice").await?;
    hit_again(&app, &alice).await?;
    servers.redis().kill().await?;
    servers.postgres().kill().await?;
    for _ in 0..5 {
        assert_outage(&app.send("GET", "/me", &[("Cookie", &alice.cookie)]).await?);
        assert_outage(&app.send("POST", "/logout", &[("Cookie", &alice.cookie)]).await?);
    }
    assert_no_token(&app.send("GET", "/me", &[]).await?);
    assert_problem(&app.send("GET", "/readyz", &[]).await?, 503);
    assert_eq!(app.send("GET", "/livez", &[]).await?.status, 200);
    health_without_redis(&app).await?;

    servers.postgres().restart().await?;
    let answers = async || app.me(&alice).await.is_ok_and(|me| me.status == 200);
    wait::until("Postgres to be asked again", SOON, answers).await?;
    servers.redis().restart().await?;
    hit_again(&app, &alice).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_answers_from_postgres() -> Outcome {
    let backends = shared().await?;
    let app = App::on(&backends).await?;
    let (alice, other) = (app.login("alice").await?, app.login("alice").await?);
    hit_again(&app, &alice).await?;
    hit_again(&app, &other).await?;
    assert_eq!(app.put_mode(r#"{"mode":"bypass"}"#).await?.status, 200);
    assert_eq!(app.source(&alice).await?, "store");
    let health = app.health().await?;
    let document = health.json();
    assert_eq!(
        (health.status, &document["sessionCache"]["enabled"]),
        (200, &json!(false)),
        "{document:#}"
    );
    // Redis is told all the same, so that turning it on again serves nothing that ended meanwhile.
    let logout = app.ask("POST", "/logout", &[("Cookie", &other.cookie)]).await?;
    assert_eq!((logout.status, logout.json()), (200, json!({ "revoked": "propagated" })));
    assert_eq!(app.put_mode(r#"{"mode":"on"}"#).await?.status, 200);
    assert_unauthorized(&app.me(&other).await?);
    hit_again(&app, &alice).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_without_redis_answers_from_postgres() -> Outcome {
    let backend = default_backend().await?;
    let servers = servers(backend).await?;
    let sandbox = servers.sandbox();
    let mut env = env_of(&sandbox);
    env.push(("SESSION_CACHE_ENABLED", "false".to_owned()));
    let app = App::start(TempDir::new()?, &env).await?;
    let alice = app.login("alice").await?;
    assert_eq!(app.source(&alice).await?, "store");
    servers.redis().kill().await?;
    assert_eq!(app.source(&alice).await?, "store");
    let degraded =
        async || app.health().await.is_ok_and(|health| health.json()["status"] == "degraded");
    wait::until("Redis to be missed", SOON, degraded).await?;
    assert_eq!(app.health().await?.status, 200);
    assert_eq!(app.ask("GET", "/readyz", &[]).await?.status, 200);
    servers.postgres().kill().await?;
    assert_outage(&app.send("GET", "/me", &[("Cookie", &alice.cookie)]).await?);
    assert_problem(&app.send("GET", "/readyz", &[]).await?, 503);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_ended_or_expired_by_sql_are_rejected() -> Outcome {
    let backends = shared().await?;
    let app = App::on(&backends).await?;
    let sessions = format!("{}.sessions", app.schema());
    for change in [
        "SET revoked_at = now()",
        "SET revoked_at = now() + interval '1 year'",
        "SET expires_at = now() - interval '1 second'",
    ] {
        let login = app.login("alice").await?;
        // There is a copy, for Redis to go on serving.
        hit_again(&app, &login).await?;
        let sql = format!("UPDATE {sessions} {change} WHERE id = '{}'", login.id);
        execute(backends.postgres(), sql).await?;
        let ended = async || app.me(&login).await.is_ok_and(|me| me.status == 401);
        wait::until("the journal to end the copy", SOON, ended).await?;
        assert_unauthorized(&app.me(&login).await?);
        let logout = app.ask("POST", "/logout", &[("Cookie", &login.cookie)]).await?;
        assert_eq!((logout.status, logout.json()), (200, json!({ "revoked": "nothing" })));
        assert_cleared(&logout);
    }
    let document = app.health().await?.json();
    assert!(keys(&document).contains(&"status"));
    Ok(())
}
