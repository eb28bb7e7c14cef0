//! The handlers. Those for `/me`, `/sessions` and `/logout-everywhere` take a [`Session`]: the layer
//! has made sure that there is one.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use session_layer::{
    NewSession, PresentedSessions, Reach, Session, SessionCookie, SessionId, Sessions,
};

use crate::messages::{Listed, LoggedIn, Login, Me, Revoked};
use crate::problem::{Problem, not_ended};

/// What every handler can reach.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) sessions: Sessions,
    pub(crate) cookie: SessionCookie,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// `POST /login`. A real application checks a password between the login's beginning and its end; this one
/// believes everybody.
pub(crate) async fn login(
    State(app): State<App>,
    Login { user, remember }: Login,
) -> Result<impl IntoResponse, Problem> {
    let login = app.sessions.begin_login().await?;
    let mut new = NewSession::new(user).persistent(remember);
    if remember {
        new = new.lifetime(90 * DAY).idle_timeout(30 * DAY);
    }
    let created = login.create(new).await?;
    let body = LoggedIn {
        token: created.token.reveal().to_owned(),
        session_id: created.session.id(),
        expires_at: created.session.expires_at(),
    };
    Ok((
        StatusCode::CREATED,
        // The token goes to this client and into no cache on the way.
        [(header::CACHE_CONTROL, "no-store")],
        app.cookie.issue(&created.token, &created.session),
        Json(body),
    ))
}

/// `GET /me`.
pub(crate) async fn me(session: Session) -> Json<Me> {
    Json(Me {
        user: session.user_id().to_owned(),
        session_id: session.id(),
        expires_at: session.expires_at(),
    })
}

/// `GET /sessions`: from Postgres, always.
pub(crate) async fn list(
    State(app): State<App>,
    session: Session,
) -> Result<Json<Vec<Listed>>, Problem> {
    let listed = app.sessions.list(session.user_id()).await?;
    let listed = listed.into_iter().map(|one| Listed {
        session_id: one.session.id(),
        created_at: one.session.created_at(),
        last_seen_at: one.session.last_seen_at(),
        current: one.session.id() == session.id(),
    });
    Ok(Json(listed.collect()))
}

/// `DELETE /sessions/{sessionId}`. The id comes from outside, so only the user's own sessions are
/// looked for: another user's, an unknown one and what is no id are the same 404.
pub(crate) async fn revoke(
    State(app): State<App>,
    session: Session,
    id: Result<Path<SessionId>, PathRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Path(id) = id.map_err(|_no_uuid| Problem::NotFound)?;
    let changed = app.sessions.revoke_owned(session.user_id(), id).await;
    let changed = changed.map_err(not_ended)?;
    if changed.reach == Reach::Nothing {
        return Err(Problem::NotFound);
    }
    let clear = (id == session.id()).then(|| app.cookie.clear());
    Ok((clear, Json(Revoked::reaching(changed.reach))))
}

/// `POST /logout`, under `.optional()`: whoever has no session, or one that has ended, is logged out
/// already, and their cookie goes all the same. All sessions that the request presents end, or the
/// next request would be let in by another of its cookies.
pub(crate) async fn logout(
    State(app): State<App>,
    presented: PresentedSessions,
) -> Result<impl IntoResponse, Problem> {
    let mut reach = Reach::Nothing;
    for session in presented.iter() {
        let this = app.sessions.revoke_id(session.id()).await;
        let this = this.map_err(not_ended)?.reach;
        // Of several the one that reaches least far is told.
        if reach == Reach::Nothing || matches!(this, Reach::Committed { .. }) {
            reach = this;
        }
    }
    // Only now: had Postgres not answered, the session would live on, and so must the cookie.
    Ok((app.cookie.clear(), Json(Revoked::reaching(reach))))
}

/// `POST /logout-everywhere`: this session ends too.
pub(crate) async fn logout_everywhere(
    State(app): State<App>,
    session: Session,
) -> Result<impl IntoResponse, Problem> {
    let changed = app.sessions.revoke_all(session.user_id()).await;
    let changed = changed.map_err(not_ended)?;
    let mut revoked = Revoked::reaching(changed.reach);
    revoked.count = Some(changed.value);
    Ok((app.cookie.clear(), Json(revoked)))
}

/// Whatever has no route.
pub(crate) async fn not_found() -> Problem {
    Problem::NotFound
}
