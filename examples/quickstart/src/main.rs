//! An axum app whose routes are guarded by session-layer. `cargo run`, then open
//! <http://127.0.0.1:3000>.
//!
//! - `main.rs`: the app with its guarded routes ([`app`]),
//! - `routes.rs`: the handlers, `messages.rs`: their JSON, `problem.rs`: their errors,
//! - `run.rs`: start and stop, `config.rs`: the environment variables, `usage.rs`: `--help`,
//! - `admin.rs`: the cache's switch and the metrics, on a separate address,
//! - `metrics.rs`: the text of the metrics, `traces.rs`: the log and the export of traces,
//! - `page.html`: the page at `/`.

mod admin;
mod config;
mod messages;
mod metrics;
mod page;
mod problem;
mod routes;
mod run;
mod traces;
mod usage;

use std::process::ExitCode;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};
use session_layer::{HealthService, SessionCacheLayer, SessionCookie, Sessions, TokenSource};

fn app(sessions: &Sessions, cookie: &SessionCookie) -> Router {
    // These lines protect an app. No handler under the layer runs without a valid session, which it
    // gets as an argument.
    let layer = SessionCacheLayer::new(sessions.clone()).cookie(cookie).server_timing(true);
    let guarded = Router::new()
        .route("/me", get(routes::me))
        .route("/sessions", get(routes::list))
        .route("/sessions/{sessionId}", delete(routes::revoke))
        .route("/logout-everywhere", post(routes::logout_everywhere))
        .route_layer(layer.clone());

    // Under an optional layer, the session is there if the request has a valid one. A login reads
    // only the cookies, to end their sessions, because the browser replaces one cookie.
    let optional = layer.optional();
    let login = Router::new()
        .route("/login", post(routes::login))
        .route_layer(optional.clone().sources([TokenSource::Cookie]));
    let logout = Router::new()
        .route("/logout", post(routes::logout))
        .route_layer(optional.on_reject(problem::logout_rejected));

    let page = page::Page::new();
    Router::new()
        .route("/", get(move || async move { page.answer() }))
        .route_service("/api/health/redis", HealthService::report(sessions.clone()))
        .route_service("/livez", HealthService::livez())
        .route_service("/readyz", HealthService::readyz(sessions.clone()))
        .merge(guarded)
        .merge(login)
        .merge(logout)
        .fallback(routes::not_found)
        // A login is a name. No other request has a body.
        .layer(DefaultBodyLimit::max(16 * 1024))
        .with_state(routes::App { sessions: sessions.clone(), cookie: cookie.clone() })
}

fn main() -> ExitCode {
    usage::only_usage(std::env::args_os().skip(1)).unwrap_or_else(|| run::run(app))
}
