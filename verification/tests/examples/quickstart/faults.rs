//! Redis and Postgres are killed, paused, demoted and restarted under the quickstart.

use std::time::Duration;

use serde_json::json;
use session_testkit::backends::Backends;
use session_testkit::wait;
use tempfile::TempDir;

use super::process::{App, Login, env_of, source};
use super::rows::{
    assert_cleared, assert_no_token, assert_outage, assert_problem, assert_revoked,
    assert_unauthorized,
};
use crate::examples::http_client::Answer;
use crate::harness::{Failure, Outcome, default_backend, shared};
use crate::support::execute;

/// The time in which the process observes that a server is down or up again.
const SOON: Duration = Duration::from_secs(5);

async fn start() -> Result<(Backends, App), Failure> {
    let servers = Backends::builder().backend(default_backend().await?).start().await?;
    let app = App::on(&servers).await?;
    Ok((servers, app))
}

/// Waits until Redis serves this session.
async fn until_hit(app: &App, login: &Login) -> Outcome {
    let hit = async || app.source(login).await.is_ok_and(|source| source == "hit");
    wait::until("a hit", SOON, hit).await?;
    Ok(())
}

/// Logs alice in twice. Redis serves both sessions.
async fn two_cached(app: &App) -> Result<(Login, Login), Failure> {
    let (alice, other) = (app.login("alice").await?, app.login("alice").await?);
    until_hit(app, &alice).await?;
    until_hit(app, &other).await?;
    Ok((alice, other))
}

/// Asserts the response to a revocation that did not reach Redis, with both bounds.
fn assert_committed(answer: &Answer) {
    let body = answer.json();
    assert_eq!((answer.status, &body["revoked"]), (200, &json!("committed")), "{answer:?}");
    assert_eq!(body["atMostMs"], 302_000, "{answer:?}");
    assert_eq!(body["withinMs"], 2_000, "{answer:?}");
}

/// Asserts that everything works on Postgres alone. Ends `other`.
async fn assert_works_without_redis(app: &App, alice: &Login, other: &Login) -> Outcome {
    for _ in 0..5 {
        let me = app.me(alice).await?;
        assert_eq!((me.status, source(&me).as_str()), (200, "store"), "{me:?}");
    }
    let new = app.login("alice").await?;
    assert_eq!(app.me(&new).await?.status, 200);
    assert_eq!(app.get("/sessions", alice).await?.json().as_array().map(Vec::len), Some(3));
    let path = format!("/sessions/{}", new.id);
    assert_committed(&app.ask("DELETE", &path, &[("Cookie", &alice.cookie)]).await?);
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

/// Waits until the health document reports that Redis is down.
async fn until_unhealthy(app: &App) -> Outcome {
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

/// Asserts that Redis serves alice again, and that the ended session stays ended.
async fn assert_recovers(app: &App, alice: &Login, ended: &Login) -> Outcome {
    for _ in 0..20 {
        assert_unauthorized(&app.me(ended).await?);
    }
    until_hit(app, alice).await?;
    assert_unauthorized(&app.me(ended).await?);
    let connected = async || app.health().await.is_ok_and(|health| health.status == 200);
    wait::until("the health to be a 200", SOON, connected).await?;
    let document = app.health().await?.json();
    assert_eq!(document["redis"]["connected"], true, "{document:#}");
    // The errors of the last minute are still reported.
    assert_eq!(document["status"], "degraded", "{document:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_and_back_with_an_old_dump_revives_no_session() -> Outcome {
    let (servers, app) = start().await?;
    let (alice, other) = two_cached(&app).await?;
    // The dump has an entry of a session that ends while Redis is down.
    servers.redis().save().await?;
    servers.redis().kill().await?;
    assert_works_without_redis(&app, &alice, &other).await?;
    until_unhealthy(&app).await?;
    servers.redis().restart().await?;
    assert_recovers(&app, &alice, &other).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_paused_and_resumed_revives_no_session() -> Outcome {
    let (servers, app) = start().await?;
    let (alice, other) = two_cached(&app).await?;
    let paused = servers.redis().pause().await?;
    assert_works_without_redis(&app, &alice, &other).await?;
    until_unhealthy(&app).await?;
    paused.resume().await?;
    assert_recovers(&app, &alice, &other).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_absent_at_the_start_is_used_later() -> Outcome {
    let servers = Backends::builder().backend(default_backend().await?).start().await?;
    servers.redis().kill().await?;
    let app = App::on(&servers).await?;
    let (alice, other) = (app.login("alice").await?, app.login("alice").await?);
    assert_works_without_redis(&app, &alice, &other).await?;
    until_unhealthy(&app).await?;
    servers.redis().restart().await?;
    assert_recovers(&app, &alice, &other).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_demoted_is_not_used_until_promoted() -> Outcome {
    let (servers, app) = start().await?;
    let new_master = Backends::builder().backend(default_backend().await?).start_redis().await?;
    let (alice, other) = two_cached(&app).await?;
    servers.redis().replica_of(Some(&new_master)).await?;
    // A demoted server still responds to reads. The node observes the demotion within a second.
    let bypassed = async || app.source(&alice).await.is_ok_and(|source| source == "store");
    wait::until("the demotion to be observed", SOON, bypassed).await?;
    assert_works_without_redis(&app, &alice, &other).await?;
    servers.redis().replica_of(None).await?;
    assert_recovers(&app, &alice, &other).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_serves_only_cached_sessions() -> Outcome {
    let (servers, app) = start().await?;
    let (alice, uncached) = (app.login("alice").await?, app.login("alice").await?);
    until_hit(&app, &alice).await?;
    servers.postgres().kill().await?;

    let me = app.get("/me", &alice).await?;
    assert_eq!((me.status, source(&me).as_str()), (200, "hit"), "{me:?}");
    let unknown = app.send("GET", "/me", &[("Authorization", &uncached.bearer)]).await?;
    assert_outage(&unknown);
    assert_eq!(source(&unknown), "unavailable");
    assert_outage(&app.try_login("alice").await?);
    assert_outage(&app.send("GET", "/sessions", &[("Cookie", &alice.cookie)]).await?);
    let cookie = ("Cookie", &*alice.cookie);
    let delete = format!("/sessions/{}", uncached.id);
    for (method, path, cookie) in [
        ("POST", "/logout", cookie),
        // The layer answers, because it cannot validate this session.
        ("POST", "/logout", ("Cookie", &*uncached.cookie)),
        ("POST", "/logout-everywhere", cookie),
        ("DELETE", delete.as_str(), cookie),
    ] {
        let answer = app.send(method, path, &[cookie]).await?;
        assert_outage(&answer);
        let detail = answer.json()["detail"].to_string();
        let says = detail.contains("could not be ended") && detail.contains("try again");
        assert!(says, "{method} {path}: {detail}");
    }
    assert_problem(&app.ask("DELETE", "/sessions/no-uuid", &[cookie]).await?, 404);
    assert_no_token(&app.send("GET", "/me", &[]).await?);
    assert_eq!(app.ask("GET", "/readyz", &[]).await?.status, 200, "hits can be validated");
    assert_eq!(app.health().await?.json()["redis"]["connected"], true);
    assert_eq!(app.get("/me", &alice).await?.status, 200, "nothing has ended");

    servers.postgres().restart().await?;
    until_valid(&app, &uncached).await?;
    assert_revoked(&app.ask("POST", "/logout", &[cookie]).await?, "propagated");
    assert_unauthorized(&app.me(&alice).await?);
    Ok(())
}

async fn until_valid(app: &App, login: &Login) -> Outcome {
    let valid = async || app.me(login).await.is_ok_and(|me| me.status == 200);
    wait::until("a valid session", SOON, valid).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_killed_answers_503_and_clears_no_cookie() -> Outcome {
    let (servers, app) = start().await?;
    let alice = app.login("alice").await?;
    until_hit(&app, &alice).await?;
    servers.redis().kill().await?;
    servers.postgres().kill().await?;
    for _ in 0..5 {
        assert_outage(&app.send("GET", "/me", &[("Cookie", &alice.cookie)]).await?);
        assert_outage(&app.send("POST", "/logout", &[("Cookie", &alice.cookie)]).await?);
    }
    assert_no_token(&app.send("GET", "/me", &[]).await?);
    assert_problem(&app.send("GET", "/readyz", &[]).await?, 503);
    assert_eq!(app.send("GET", "/livez", &[]).await?.status, 200);
    until_unhealthy(&app).await?;
    servers.postgres().restart().await?;
    until_valid(&app, &alice).await?;
    servers.redis().restart().await?;
    until_hit(&app, &alice).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bypass_reads_postgres_and_does_not_need_redis() -> Outcome {
    let servers = Backends::builder().backend(default_backend().await?).start().await?;
    let sandbox = servers.sandbox();
    let mut env = env_of(&sandbox);
    env.push(("SESSION_CACHE_ENABLED", "false".to_owned()));
    let app = App::start(TempDir::new()?, &env).await?;
    let alice = app.login("alice").await?;
    assert_eq!(app.source(&alice).await?, "store");
    assert_eq!(app.put_mode(r#"{"mode":"on"}"#).await?.status, 200);
    until_hit(&app, &alice).await?;
    assert_eq!(app.put_mode(r#"{"mode":"bypass"}"#).await?.status, 200);
    assert_eq!(app.source(&alice).await?, "store");
    let document = app.health().await?.json();
    assert_eq!(document["sessionCache"]["enabled"], false, "{document:#}");
    servers.redis().kill().await?;
    assert_eq!(app.source(&alice).await?, "store");
    let degraded =
        async || app.health().await.is_ok_and(|health| health.json()["status"] == "degraded");
    wait::until("the health to be degraded", SOON, degraded).await?;
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
        until_hit(&app, &login).await?;
        let sql = format!("UPDATE {sessions} {change} WHERE id = '{}'", login.id);
        execute(backends.postgres(), sql).await?;
        let ended = async || app.me(&login).await.is_ok_and(|me| me.status == 401);
        wait::until("the journal to end the entry", SOON, ended).await?;
        assert_unauthorized(&app.me(&login).await?);
        let logout = app.ask("POST", "/logout", &[("Cookie", &login.cookie)]).await?;
        assert_revoked(&logout, "nothing");
        assert_cleared(&logout);
    }
    Ok(())
}
