//! The handlers. Those for `/me`, `/sessions` and `/logout-everywhere` take a [`Session`], which
//! the layer guarantees.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use session_layer::{
    ListCursor, NewSession, RequestSessions, RevokeTarget, Session, SessionCookie, SessionId,
    Sessions, Visibility,
};

use crate::messages::{After, Listed, LoggedIn, Login, Me, Revoked};
use crate::problem::{Problem, not_ended};

/// The state of all handlers.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) sessions: Sessions,
    pub(crate) cookie: SessionCookie,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Handles `POST /login`. A real application checks a password between the login's beginning and
/// its end, but this one accepts every user. The sessions of the request's cookies end.
///
/// The session keeps the address and the user agent, for operators (`sessionctl sessions`). Behind
/// a proxy, the peer is the proxy. Read the address from the header that it sets then.
pub(crate) async fn login(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    sent: RequestSessions,
    Login { user, remember }: Login,
) -> Result<impl IntoResponse, Problem> {
    let login = app.sessions.begin_login().await?;
    let mut new = NewSession::new(user).persistent(remember).ip(peer.ip().to_canonical());
    if let Some(agent) = headers.get(header::USER_AGENT) {
        new = new.user_agent(String::from_utf8_lossy(agent.as_bytes()));
    }
    if remember {
        new = new.lifetime(90 * DAY).idle_timeout(30 * DAY);
    }
    let created = login.create_replacing(&sent, new).await?.value;
    let body = LoggedIn {
        token: created.token.reveal().to_owned(),
        session_id: created.session.id(),
        expires_at: created.session.expires_at(),
    };
    Ok((
        StatusCode::CREATED,
        // Only this client may have the token, and no cache on the way.
        [(header::CACHE_CONTROL, "no-store")],
        app.cookie.issue(&created.token, &created.session),
        Json(body),
    ))
}

/// Handles `GET /me`.
pub(crate) async fn me(session: Session) -> Json<Me> {
    Json(Me {
        user: session.user_id().to_owned(),
        session_id: session.id(),
        expires_at: session.expires_at(),
    })
}

/// Handles `GET /sessions`, always from Postgres. It returns the newest page, or with `?after=` a
/// later one. A `Link` names the next.
pub(crate) async fn list(
    State(app): State<App>,
    session: Session,
    query: Result<Query<After>, QueryRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Query(After { after }) = query.map_err(|bad| Problem::bad_input(bad.body_text()))?;
    let page = match after {
        None => app.sessions.list(session.user_id()).await?,
        Some(text) => {
            let cursor = text.parse::<ListCursor>();
            let cursor = cursor.map_err(|bad| Problem::bad_input(bad.to_string()))?;
            app.sessions.list_page(session.user_id(), cursor).await?
        }
    };
    let listed = page.sessions.into_iter().map(|one| Listed {
        session_id: one.id,
        created_at: one.created_at,
        last_seen_at: one.last_seen_at,
        current: one.id == session.id(),
    });
    let next = page.next.map(|next| format!("</sessions?after={next}>; rel=\"next\""));
    let link = next.map(|next| [(header::LINK, next)]);
    Ok((link, Json(listed.collect::<Vec<_>>())))
}

/// Handles `DELETE /sessions/{sessionId}`. The id is untrusted, so only the user's own sessions are
/// searched. Another user's session, an unknown id and a malformed id are the same 404.
pub(crate) async fn revoke(
    State(app): State<App>,
    session: Session,
    id: Result<Path<SessionId>, PathRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Path(id) = id.map_err(|_no_uuid| Problem::not_found())?;
    let changed = app.sessions.revoke(RevokeTarget::owned(session.user_id(), id)).await;
    let changed = changed.map_err(not_ended)?;
    if changed.visibility == Visibility::Nothing {
        return Err(Problem::not_found());
    }
    let clear = (id == session.id()).then(|| app.cookie.clear());
    Ok((clear, Json(Revoked::reaching(changed.visibility))))
}

/// Handles `POST /logout`, under `.optional()`. A client without an active session is already
/// logged out, and its cookie is cleared too. All sessions of the request end, because the next
/// request could otherwise use another of its cookies.
pub(crate) async fn logout(
    State(app): State<App>,
    sent: RequestSessions,
) -> Result<impl IntoResponse, Problem> {
    let changed = app.sessions.revoke_presented(&sent).await;
    let visibility = changed.map_err(not_ended)?.visibility;
    // Not before the reply: without one, the session stays active, and so must the cookie.
    Ok((app.cookie.clear(), Json(Revoked::reaching(visibility))))
}

/// Handles `POST /logout-everywhere`, which also ends this session.
pub(crate) async fn logout_everywhere(
    State(app): State<App>,
    session: Session,
) -> Result<impl IntoResponse, Problem> {
    let changed = app.sessions.revoke(RevokeTarget::user(session.user_id())).await;
    let changed = changed.map_err(not_ended)?;
    let mut revoked = Revoked::reaching(changed.visibility);
    revoked.count = Some(changed.value);
    Ok((app.cookie.clear(), Json(revoked)))
}

/// Handles requests without a route.
pub(crate) async fn not_found() -> Problem {
    Problem::not_found()
}
