//! axum: the layer around routes, and the extractors under it.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{Request, StatusCode};
use axum::response::AppendHeaders;
use axum::routing::{any, get};
use session_layer::{Session, SessionCookie, SessionToken, Validation};
use tower::ServiceExt as _;

use crate::stub::{Stub, token};

async fn required(session: Session) -> String {
    session.user_id().to_owned()
}

async fn if_any(session: Option<Session>) -> String {
    session.map_or("nobody".to_owned(), |session| session.user_id().to_owned())
}

fn routes() -> Router {
    Router::new()
        .route("/required", any(required))
        .route("/if-any", any(if_any))
}

async fn ask(app: Router, path: &str, cookie: &str) -> (u16, String) {
    let request = Request::get(path)
        .header(COOKIE, cookie)
        .body(Body::empty());
    answer(app, request.unwrap()).await
}

async fn answer(app: Router, request: Request<Body>) -> (u16, String) {
    let (parts, body) = app.oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, 10_000).await.unwrap();
    (
        parts.status.as_u16(),
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

fn stub() -> Stub {
    Stub::new().alive(0, "alice")
}

fn alice() -> String {
    format!("session={}", token(0))
}

#[tokio::test]
async fn under_the_layer() {
    for app in [
        routes().layer(stub().layer()),
        routes().route_layer(stub().layer()),
        Router::new().merge(routes().layer(stub().layer())),
    ] {
        for path in ["/required", "/if-any"] {
            let reached = ask(app.clone(), path, &alice()).await;
            assert_eq!(reached, (200, "alice".to_owned()));
            assert_eq!(ask(app.clone(), path, "").await.0, 401);
        }
    }
}

#[tokio::test]
async fn under_an_optional_layer() {
    let app = || routes().layer(stub().layer().optional());
    assert_eq!(ask(app(), "/required", &alice()).await.1, "alice");
    assert_eq!(ask(app(), "/if-any", &alice()).await.1, "alice");
    assert_eq!(ask(app(), "/if-any", "").await, (200, "nobody".to_owned()));
    // The extractor's 401 is the layer's.
    let by_the_layer = ask(routes().layer(stub().layer()), "/required", "").await;
    assert_eq!(ask(app(), "/required", "").await, by_the_layer);
    let outage = routes().layer(stub().store_down(true).layer().optional());
    assert_eq!(ask(outage, "/if-any", &alice()).await.0, 503);
}

#[tokio::test]
async fn mistakes_in_the_routes_are_500_and_say_what_to_do() {
    let skipped = routes().layer(stub().layer().skip(|_| true));
    for (app, says) in [
        (routes(), "add `.layer(SessionCacheLayer"),
        (skipped, ".skip("),
    ] {
        for path in ["/required", "/if-any"] {
            let (status, body) = ask(app.clone(), path, &alice()).await;
            assert_eq!(status, 500);
            assert!(body.contains(says), "{body}");
        }
    }
}

#[tokio::test]
async fn a_session_put_in_by_hand_does_not_count() {
    let validated = stub().sessions().validate(&token(0)).await;
    let Validation::Valid(session) = validated else {
        panic!("token 0 is alive");
    };
    let mut request = Request::get("/required").body(Body::empty()).unwrap();
    request.extensions_mut().insert(session);
    assert_eq!(answer(routes(), request).await.0, 500);
}

#[tokio::test]
async fn a_preflight_that_reaches_a_handler_has_no_session() {
    let app = routes().layer(stub().layer());
    for (path, expected) in [("/required", 401), ("/if-any", 200)] {
        let preflight = crate::stub::preflight().map(Body::new);
        let (mut parts, body) = preflight.into_parts();
        parts.uri = path.parse().unwrap();
        parts.headers.insert(COOKIE, alice().parse().unwrap());
        let (status, user) = answer(app.clone(), Request::from_parts(parts, body)).await;
        assert_eq!(status, expected);
        assert!(user != "alice");
    }
}

#[tokio::test]
async fn cookies_are_appended_to_the_answers_others() {
    let app = Router::new().route(
        "/login",
        get(|| async {
            let cookie = SessionCookie::new();
            let Validation::Valid(session) = stub().sessions().validate(&token(0)).await else {
                panic!("token 0 is alive");
            };
            let theme = AppendHeaders([(SET_COOKIE, "theme=dark")]);
            let token = SessionToken::generate().unwrap();
            (
                StatusCode::CREATED,
                theme,
                cookie.issue(&token, &session),
                cookie.clear(),
                "in",
            )
        }),
    );
    let request = Request::get("/login").body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers().get_all(SET_COOKIE).iter().count(), 3);
}

/// Over a socket, through axum's own server: hyper 1 with whatever it adds.
#[tokio::test]
async fn over_http() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = routes().layer(stub().layer().server_timing(true));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    for (field, starts, has) in [
        (
            format!("authorization: bearer {}", token(0)),
            "HTTP/1.1 200",
            "desc=\"store\"",
        ),
        (
            format!("authorization: bearer {}", token(1)),
            "HTTP/1.1 401",
            "www-authenticate: Bearer",
        ),
        (
            "authorization: bearer x".to_owned(),
            "HTTP/1.1 400",
            "application/problem+json",
        ),
        (
            format!("cookie: \u{fc}=\u{fc}; {}", alice()),
            "HTTP/1.1 200",
            "vary: Authorization, Cookie",
        ),
        (
            "cookie: session=\"".to_owned(),
            "HTTP/1.1 401",
            "content-length: ",
        ),
    ] {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET /required HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{field}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(starts) && answer.contains(has),
            "{field}: {answer}"
        );
    }
    server.abort();
}
