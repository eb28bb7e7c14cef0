//! An axum app whose routes are guarded by session-layer. `cargo run`, then open
//! <http://127.0.0.1:3000>.
//!
//! - `main.rs`: the app with its guarded routes ([`app`]), how it starts and how it stops;
//! - `routes.rs`: the handlers; `messages.rs`: their JSON; `problem.rs`: their errors;
//! - `admin.rs`: the cache's switch, on an address of its own;
//! - `page.html`: the page at `/`.

mod admin;
mod config;
mod messages;
mod page;
mod problem;
mod routes;
mod run;

use std::process::ExitCode;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};
use session_layer::{HealthService, SessionCacheLayer, SessionCookie, Sessions};

fn app(sessions: &Sessions, cookie: &SessionCookie) -> Router {
    // These lines protect an app: what is under the layer can't be reached without a valid session,
    // and its handlers find that session among their arguments.
    let layer = SessionCacheLayer::new(sessions.clone())
        .cookie(cookie)
        .server_timing(true);
    let guarded = Router::new()
        .route("/me", get(routes::me))
        .route("/sessions", get(routes::list))
        .route("/sessions/{sessionId}", delete(routes::revoke))
        .route("/logout-everywhere", post(routes::logout_everywhere))
        .route_layer(layer.clone());

    // Under an optional layer the session is there if the request has a valid one.
    let optional = Router::new()
        .route("/logout", post(routes::logout))
        .route_layer(layer.optional().on_reject(problem::logout_rejected));

    let page = page::Page::new();
    Router::new()
        .route("/", get(move || async move { page.answer() }))
        .route("/login", post(routes::login))
        .route_service("/api/health/redis", HealthService::report(sessions.clone()))
        .route_service("/livez", HealthService::livez())
        .route_service("/readyz", HealthService::readyz(sessions.clone()))
        .merge(guarded)
        .merge(optional)
        .fallback(routes::not_found)
        // A login is a name; nothing else has a body.
        .layer(DefaultBodyLimit::max(16 * 1024))
        .with_state(routes::App {
            sessions: sessions.clone(),
            cookie: cookie.clone(),
        })
}

fn main() -> ExitCode {
    run::run(app)
}
