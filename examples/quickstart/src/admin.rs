//! The routes on a separate address, which must not be public: `GET` and `PUT /mode`, whether this
//! process uses the cache, and `GET /metrics` for Prometheus.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use session_layer::{CacheMode, Sessions};

use crate::metrics::Exporter;
use crate::problem::Problem;
use crate::routes::not_found;

/// The state of the handlers.
#[derive(Clone)]
struct Admin {
    sessions: Sessions,
    metrics: Arc<Exporter>,
}

pub(crate) fn app(sessions: Sessions, metrics: Exporter) -> Router {
    Router::new()
        .route("/mode", get(show).put(set))
        .route("/metrics", get(scrape))
        .fallback(not_found)
        .with_state(Admin { sessions, metrics: Arc::new(metrics) })
}

async fn scrape(State(admin): State<Admin>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], admin.metrics.render())
}

/// The body `{"mode":"on"}` or `{"mode":"bypass"}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeBody {
    mode: Mode,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    On,
    Bypass,
}

async fn show(State(admin): State<Admin>) -> Json<ModeBody> {
    let mode = match admin.sessions.mode() {
        CacheMode::On => Mode::On,
        CacheMode::Bypass => Mode::Bypass,
    };
    Json(ModeBody { mode })
}

/// Sets the mode. The body is read as JSON whatever its content type, so that `curl -X PUT -d`
/// works.
async fn set(
    State(admin): State<Admin>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ModeBody>, Problem> {
    let requested = body
        .ok()
        .and_then(|body| serde_json::from_slice::<ModeBody>(&body).ok())
        .ok_or_else(|| Problem::bad_input(r#"send {"mode":"on"} or {"mode":"bypass"}"#))?;
    admin.sessions.set_mode(match requested.mode {
        Mode::On => CacheMode::On,
        Mode::Bypass => CacheMode::Bypass,
    });
    Ok(show(State(admin)).await)
}
