//! `GET` and `PUT /mode`, on a separate address: whether this process uses the cache.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use session_layer::{CacheMode, Sessions};

use crate::problem::Problem;
use crate::routes::not_found;

pub(crate) fn app(sessions: Sessions) -> Router {
    Router::new().route("/mode", get(show).put(set)).fallback(not_found).with_state(sessions)
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

async fn show(State(sessions): State<Sessions>) -> Json<ModeBody> {
    let mode = match sessions.mode() {
        CacheMode::On => Mode::On,
        CacheMode::Bypass => Mode::Bypass,
    };
    Json(ModeBody { mode })
}

/// Sets the mode. The body is read as JSON whatever its content type, so that `curl -X PUT -d`
/// works.
async fn set(
    State(sessions): State<Sessions>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ModeBody>, Problem> {
    let requested = body
        .ok()
        .and_then(|body| serde_json::from_slice::<ModeBody>(&body).ok())
        .ok_or_else(|| Problem::bad_input(r#"send {"mode":"on"} or {"mode":"bypass"}"#))?;
    sessions.set_mode(match requested.mode {
        Mode::On => CacheMode::On,
        Mode::Bypass => CacheMode::Bypass,
    });
    Ok(show(State(sessions)).await)
}
