//! The tokens of requests, and the responses.

use serde_json::json;

use super::super::process::{App, source};
use super::{Outcome, UNKNOWN, assert_moment, assert_no_token, assert_unauthorized, keys};

pub(super) async fn me(app: &App) -> Outcome {
    let alice = app.login("alice").await?;
    for fields in [[("Cookie", &*alice.cookie)], [("Authorization", &*alice.bearer)]] {
        let answer = app.ask("GET", "/me", &fields).await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        let body = answer.json();
        assert_eq!(keys(&body), ["expiresAt", "sessionId", "user"]);
        assert_eq!((&body["user"], &body["sessionId"]), (&json!("alice"), &json!(alice.id)));
        assert_moment(&body["expiresAt"]);
        assert_eq!(answer.field("vary"), Some("Authorization, Cookie"));
        assert_eq!(answer.field("cache-control"), Some("private"));
        let timing = answer.field("server-timing").unwrap_or_default();
        let millis = timing.split("dur=").nth(1).and_then(|ms| ms.parse::<f64>().ok());
        assert!(timing.starts_with("session;desc=\"") && millis.is_some(), "{timing}");
        assert!(["hit", "store"].contains(&source(&answer).as_str()), "{timing}");
    }
    Ok(())
}

pub(super) async fn without_a_valid_session(app: &App) -> Outcome {
    let ended = app.login("alice").await?;
    app.ask("POST", "/logout", &[("Cookie", &ended.cookie)]).await?;
    let unknown = format!("session={UNKNOWN}");
    let bearer = format!("Bearer {UNKNOWN}");
    let mut bodies = Vec::new();
    for (fields, token_sent, looked_up) in [
        (vec![], false, false),
        (vec![("Cookie", "other=1; broken")], false, false),
        (vec![("Authorization", "Basic YTpi")], false, false),
        (vec![("Cookie", "session=")], true, false),
        (vec![("Cookie", "session=no token, surely")], true, false),
        (vec![("Cookie", &*unknown)], true, true),
        (vec![("Authorization", &*bearer)], true, true),
        (vec![("Cookie", &*ended.cookie)], true, true),
        (vec![("Authorization", &*ended.bearer)], true, true),
    ] {
        for (method, path) in [
            ("GET", "/me"),
            ("GET", "/sessions"),
            ("DELETE", "/sessions/6f2c1a52-1f7e-4d3b-9a10-0123456789ab"),
            ("DELETE", "/sessions/no-uuid"),
            ("POST", "/logout-everywhere"),
        ] {
            let answer = app.ask(method, path, &fields).await?;
            if token_sent {
                assert_unauthorized(&answer);
            } else {
                assert_no_token(&answer);
            }
            assert_eq!(answer.fields("server-timing").len(), usize::from(looked_up), "{answer:?}");
            bodies.push(answer.body);
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "one and the same body: {bodies:?}");
    Ok(())
}
