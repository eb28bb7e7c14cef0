//! session-layer on plain hyper 1, without a framework. Run `cargo run -p hyper-example`, then
//!
//! ```sh
//! TOKEN=$(curl -s -d alice http://127.0.0.1:3000/login)
//! curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:3000/me
//! curl -X POST -H "Authorization: Bearer $TOKEN" http://127.0.0.1:3000/logout
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use session_layer::{HealthService, NewSession, Rejection, Session, SessionCacheLayer, Sessions};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tower::{ServiceBuilder, ServiceExt as _};

type Answer = Response<Full<Bytes>>;

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn Error + Send + Sync>> {
    let sessions = Sessions::from_env().await?;
    // Any other path reaches `answer` only with a valid session. Forgotten paths are therefore
    // guarded.
    let open = |parts: &http::request::Parts| matches!(parts.uri.path(), "/login" | "/health");
    let service = ServiceBuilder::new()
        .layer(SessionCacheLayer::new(sessions.clone()).skip(open))
        .service_fn({
            let sessions = sessions.clone();
            move |request| answer(sessions.clone(), request)
        });

    let addr = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(addr).await?;
    println!("http://{}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Usually there are no free file descriptors, but some connections end soon.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.clone()));
        // An error means that the client disconnected.
        tokio::spawn(connections.watch(connection));
    }
    // Requests in flight get a response. Idle clients have this much time at most.
    let _ = tokio::time::timeout(Duration::from_secs(5), connections.shutdown()).await;
    Ok(sessions.shutdown(Duration::from_secs(2)).await?)
}

async fn answer(sessions: Sessions, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let route = (request.method(), request.uri().path());
    Ok(match route {
        (&Method::POST, "/login") => login(&sessions, request).await,
        (_, "/health") => HealthService::report(sessions).oneshot(request).await?,
        // The layer has inserted the session, except for the paths that it skips.
        _ => match request.extensions().get::<Session>() {
            Some(session) => guarded(&sessions, session, route).await,
            None => text(StatusCode::NOT_FOUND, "not found"),
        },
    })
}

/// Creates a session for the user named in the body. A real application checks a password here.
async fn login(sessions: &Sessions, request: Request<Incoming>) -> Answer {
    let Ok(body) = Limited::new(request.into_body(), 1024).collect().await else {
        return text(StatusCode::BAD_REQUEST, "send a user name");
    };
    let user = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    match sessions.create(NewSession::new(user)).await {
        Ok(created) => text(StatusCode::CREATED, created.token.reveal()),
        Err(error) => failed(&error),
    }
}

async fn guarded(sessions: &Sessions, session: &Session, route: (&Method, &str)) -> Answer {
    match route {
        (&Method::GET, "/me") => text(StatusCode::OK, &format!("you are {}\n", session.user_id())),
        (&Method::POST, "/logout") => match sessions.revoke(session.id()).await {
            Ok(changed) => text(StatusCode::OK, &format!("{:?}\n", changed.visibility)),
            Err(error) => failed(&error),
        },
        _ => text(StatusCode::NOT_FOUND, "not found"),
    }
}

/// Returns 503 with `Retry-After` for an outage, as the layer does, and otherwise 400.
fn failed(error: &session_layer::Error) -> Answer {
    if error.is_outage() {
        Rejection::Unavailable.response().map(Full::new)
    } else {
        text(StatusCode::BAD_REQUEST, &error.to_string())
    }
}

fn text(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::from(text.to_owned()));
    *answer.status_mut() = status;
    answer
}
