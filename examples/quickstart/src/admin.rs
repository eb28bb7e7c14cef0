//! `GET` and `PUT /mode`, on an address of their own: is the cache used by this process?

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use session_layer::{Mode, Sessions};

use crate::problem::Problem;
use crate::routes::not_found;

pub(crate) fn app(sessions: Sessions) -> Router {
    Router::new()
        .route("/mode", get(show).put(set))
        .fallback(not_found)
        .with_state(sessions)
}

/// `{"mode":"on"}` or `{"mode":"bypass"}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeBody {
    mode: Word,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    On,
    Bypass,
}

async fn show(State(sessions): State<Sessions>) -> Json<ModeBody> {
    let mode = match sessions.mode() {
        Mode::On => Word::On,
        Mode::Bypass => Word::Bypass,
    };
    Json(ModeBody { mode })
}

/// The body is read as JSON whatever its content type says, so that `curl -X PUT -d` is enough.
async fn set(
    State(sessions): State<Sessions>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ModeBody>, Problem> {
    let asked = body
        .ok()
        .and_then(|body| serde_json::from_slice::<ModeBody>(&body).ok())
        .ok_or_else(|| Problem::bad_input(r#"send {"mode":"on"} or {"mode":"bypass"}"#))?;
    sessions.set_mode(match asked.mode {
        Word::On => Mode::On,
        Word::Bypass => Mode::Bypass,
    });
    Ok(show(State(sessions)).await)
}
