//! The layer around axum's routes, and the extractors under it.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, COOKIE, ORIGIN, SET_COOKIE, WWW_AUTHENTICATE,
};
use axum::http::{Request, StatusCode};
use axum::response::AppendHeaders;
use axum::routing::{any, get};
use session_layer::{Session, SessionCookie, SessionToken, Validation};
use tower::ServiceExt as _;

use super::stub::Stub;
use crate::ports::token;

async fn required(session: Session) -> String {
    session.user_id().to_owned()
}

async fn if_any(session: Option<Session>) -> String {
    session.map_or("anonymous".to_owned(), |session| session.user_id().to_owned())
}

fn routes() -> Router {
    Router::new().route("/required", any(required)).route("/if-any", any(if_any))
}

async fn ask(app: Router, path: &str, cookie: &str) -> (u16, String) {
    let request = Request::get(path).header(COOKIE, cookie).body(Body::empty());
    answer(app, request.unwrap()).await
}

async fn answer(app: Router, request: Request<Body>) -> (u16, String) {
    let (parts, body) = app.oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, 10_000).await.unwrap();
    (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

fn stub() -> Stub {
    Stub::new().active(0, "alice")
}

fn alice() -> String {
    format!("session={}", token(0))
}

#[tokio::test]
async fn required_layer_passes_only_valid_sessions() {
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
async fn optional_layer_passes_requests_without_a_session() {
    let app = || routes().layer(stub().layer().optional());
    assert_eq!(ask(app(), "/required", &alice()).await.1, "alice");
    assert_eq!(ask(app(), "/if-any", &alice()).await.1, "alice");
    assert_eq!(ask(app(), "/if-any", "").await, (200, "anonymous".to_owned()));
    let outage = routes().layer(stub().store_down(true).layer().optional());
    assert_eq!(ask(outage, "/if-any", &alice()).await.0, 503);
}

#[tokio::test]
async fn extractor_sends_the_same_401_as_the_layer() {
    let stub = || stub().active(2, "bob");
    let unguarded = || {
        let layer = stub().layer();
        layer.danger_pass_preflights_unguarded(true)
    };
    let unknown = format!("session={}", token(1));
    let of_two_users = format!("{}; session={}", alice(), token(2));
    let too_many = format!("{}{}", "session=x; ".repeat(4), alice());
    for (cookies, token_sent) in [
        ("", false),
        ("other=x", false),
        ("session=", true),
        ("session=x", true),
        (&unknown, true),
        (&of_two_users, true),
        (&too_many, true),
    ] {
        let seen = async |app: Router, method: &str| {
            let request =
                Request::builder().method(method).uri("/required").header(COOKIE, cookies);
            let request = match method {
                "OPTIONS" => request
                    .header(ORIGIN, "https://example.com")
                    .header(ACCESS_CONTROL_REQUEST_METHOD, "PUT"),
                _ => request,
            };
            let response = app.oneshot(request.body(Body::empty()).unwrap()).await;
            let (parts, body) = response.unwrap().into_parts();
            let challenge = parts.headers[WWW_AUTHENTICATE].clone();
            let body = to_bytes(body, 10_000).await.unwrap();
            (parts.status, challenge, body)
        };
        let by_the_layer = seen(routes().layer(stub().layer()), "GET").await;
        assert_eq!(by_the_layer.1 != "Bearer", token_sent, "{cookies}");
        for (layer, method) in [(stub().layer().optional(), "GET"), (unguarded(), "OPTIONS")] {
            let by_the_extractor = seen(routes().layer(layer), method).await;
            assert_eq!(by_the_extractor, by_the_layer, "{method} {cookies}");
        }
    }
}

#[tokio::test]
async fn route_errors_are_500_and_name_the_remedy() {
    let skipped = routes().layer(stub().layer().skip(|_| true));
    for (app, says) in [(routes(), "add `.layer(SessionCacheLayer"), (skipped, ".skip(")] {
        for path in ["/required", "/if-any"] {
            let (status, body) = ask(app.clone(), path, &alice()).await;
            assert_eq!(status, 500);
            assert!(body.contains(says), "{body}");
        }
    }
}

#[tokio::test]
async fn session_inserted_by_other_code_is_ignored() {
    let validated = stub().sessions().validate(&token(0)).await;
    let Validation::Valid(session) = validated else {
        panic!("token 0 is active");
    };
    let mut request = Request::get("/required").body(Body::empty()).unwrap();
    request.extensions_mut().insert(session);
    assert_eq!(answer(routes(), request).await.0, 500);
}

#[tokio::test]
async fn passed_preflight_has_no_session() {
    let layer = stub().layer().danger_pass_preflights_unguarded(true);
    let app = routes().layer(layer);
    for (path, expected) in [("/required", 401), ("/if-any", 200)] {
        let preflight = super::stub::preflight().map(Body::new);
        let (mut parts, body) = preflight.into_parts();
        parts.uri = path.parse().unwrap();
        parts.headers.insert(COOKIE, alice().parse().unwrap());
        let (status, user) = answer(app.clone(), Request::from_parts(parts, body)).await;
        assert_eq!(status, expected);
        assert!(user != "alice");
    }
}

#[tokio::test]
async fn cookies_are_appended_to_those_of_the_response() {
    let app = Router::new().route(
        "/login",
        get(|| async {
            let cookie = SessionCookie::new();
            let Validation::Valid(session) = stub().sessions().validate(&token(0)).await else {
                panic!("token 0 is active");
            };
            let theme = AppendHeaders([(SET_COOKIE, "theme=dark")]);
            let token = SessionToken::generate().unwrap();
            (StatusCode::CREATED, theme, cookie.issue(&token, &session), cookie.clear(), "in")
        }),
    );
    let request = Request::get("/login").body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers().get_all(SET_COOKIE).iter().count(), 3);
}

// Over a socket and axum's own server, to include the additions of hyper 1.
#[tokio::test]
async fn layer_works_over_a_socket() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = routes().layer(stub().layer().server_timing(true));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    for (field, starts, has) in [
        (format!("authorization: bearer {}", token(0)), "HTTP/1.1 200", "desc=\"store\""),
        (
            format!("authorization: bearer {}", token(1)),
            "HTTP/1.1 401",
            "www-authenticate: Bearer error=\"invalid_token\"\r\n",
        ),
        ("authorization: bearer x".to_owned(), "HTTP/1.1 400", "application/problem+json"),
        (
            format!("cookie: \u{fc}=\u{fc}; {}", alice()),
            "HTTP/1.1 200",
            "vary: Authorization, Cookie",
        ),
        ("cookie: session=\"".to_owned(), "HTTP/1.1 401", "content-length: "),
    ] {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET /required HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{field}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(starts) && answer.contains(has), "{field}: {answer}");
    }
    server.abort();
}
