//! Logins and the page.

use super::super::process::App;
use super::{Outcome, assert_moment, assert_problem, keys};
use crate::examples::http_client as http;

pub(super) async fn page(app: &App) -> Outcome {
    let page = app.ask("GET", "/", &[]).await?;
    assert_eq!(page.status, 200);
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.field("content-security-policy").unwrap_or_default();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    // The page loads nothing. Its only addresses are XML namespaces.
    let addresses =
        page.body.matches("http").count() - page.body.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(addresses, 0);
    Ok(())
}

pub(super) async fn login(app: &App) -> Outcome {
    let json = [("Content-Type", "application/json; charset=utf-8")];
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    for (fields, body) in [(json, r#"{"user":"alice"}"#), (form, "user=alice")] {
        let answer = app.ask_with("POST", "/login", &fields, body).await?;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let document = answer.json();
        assert_eq!(keys(&document), ["expiresAt", "sessionId", "token"]);
        assert_moment(&document["expiresAt"]);
        let token = document["token"].as_str().unwrap_or_default();
        assert_eq!(token.len(), 43, "{document}");
        let expected = format!("session={token}; HttpOnly; SameSite=Lax; Path=/");
        assert_eq!(answer.field("set-cookie"), Some(expected.as_str()));
    }
    // With "remember me", the browser keeps the cookie for the idle timeout.
    for (fields, body) in
        [(json, r#"{"user":"alice","remember":true}"#), (form, "user=alice&remember=true")]
    {
        let answer = app.ask_with("POST", "/login", &fields, body).await?;
        let cookie = answer.field("set-cookie").unwrap_or_default();
        assert!(cookie.ends_with("; Path=/; Max-Age=2592000"), "{cookie}");
    }
    let long = "é".repeat(200);
    app.login(&long).await?;
    Ok(())
}

pub(super) async fn bad_logins(app: &App) -> Outcome {
    let json = Some("application/json");
    let form = Some("application/x-www-form-urlencoded");
    let too_long = "a".repeat(201);
    let far_too_long = "a".repeat(1_000_000);
    for (content_type, body) in [
        (json, r#"{"user":""}"#.to_owned()),
        (json, format!(r#"{{"user":"{too_long}"}}"#)),
        (json, format!(r#"{{"user":"{far_too_long}"}}"#)),
        (json, r#"{"user":"a\u0000b"}"#.to_owned()),
        (json, r#"{"user":7}"#.to_owned()),
        (json, r#"{"user":"alice","remember":"yes"}"#.to_owned()),
        (json, r#"{"user":"alice""#.to_owned()),
        (json, "{}".to_owned()),
        (json, r#"["alice"]"#.to_owned()),
        (json, "user=alice".to_owned()),
        (json, String::new()),
        (form, "user=".to_owned()),
        (form, format!("user={too_long}")),
        (form, "user=a%00b".to_owned()),
        (form, "user=%ff".to_owned()),
        (form, "name=alice".to_owned()),
        (form, "user=alice&user=bob".to_owned()),
        (form, String::new()),
        (Some("text/plain"), "alice".to_owned()),
        (Some("multipart/form-data; boundary=x"), "--x--".to_owned()),
        (None, r#"{"user":"alice"}"#.to_owned()),
        (None, String::new()),
    ] {
        let fields: Vec<_> =
            content_type.map(|value| ("Content-Type", value)).into_iter().collect();
        let answer = http::send(&app.address, "POST", "/login", &fields, &body).await?;
        let shown = body.get(..40).unwrap_or(&body);
        assert_eq!(answer.status, 400, "{content_type:?} {shown}: {answer:?}");
        assert_problem(&answer, 400);
        assert_eq!(answer.field("set-cookie"), None);
    }
    Ok(())
}
