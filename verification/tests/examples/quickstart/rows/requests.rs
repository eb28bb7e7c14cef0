//! What a request may carry, and what is answered.

use serde_json::json;

use super::super::process::{App, source};
use super::{
    Outcome, UNKNOWN, assert_moment, assert_no_token, assert_problem, assert_unauthorized, keys,
};

pub(super) async fn me(app: &App) -> Outcome {
    let alice = app.login("alice").await?;
    for fields in [[("Cookie", &*alice.cookie)], [("Authorization", &*alice.bearer)]] {
        let answer = app.ask("GET", "/me", &fields).await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = answer.json();
        assert_eq!(keys(&told), ["expiresAt", "sessionId", "user"]);
        assert_eq!((&told["user"], &told["sessionId"]), (&json!("alice"), &json!(alice.id)));
        assert_moment(&told["expiresAt"]);
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

pub(super) async fn several_cookies(app: &App) -> Outcome {
    let (alice, again, bob) =
        (app.login("alice").await?, app.login("alice").await?, app.login("bob").await?);
    let unknown = format!("session={UNKNOWN}");
    let unknowns = ["B", "C", "D", "E"].map(|first| format!("session={first}{}", &UNKNOWN[1..]));
    let three = unknowns[..3].join("; ");
    let status = async |cookies: &[&str]| {
        let fields: Vec<_> = cookies.iter().map(|cookie| ("Cookie", *cookie)).collect();
        app.ask("GET", "/me", &fields).await.map(|answer| answer.status)
    };
    assert_eq!(status(&[&format!("{unknown}; {}", alice.cookie)]).await?, 200);
    assert_eq!(status(&[&format!("{}; {unknown}; x=y", alice.cookie)]).await?, 200);
    assert_eq!(status(&[&unknown, &alice.cookie]).await?, 200, "several fields, as of HTTP/2");
    assert_eq!(status(&[&format!("{three}; {}", alice.cookie)]).await?, 200, "the fourth counts");
    let fifth = format!("{}; {}", unknowns.join("; "), alice.cookie);
    assert_eq!(status(&[&fifth]).await?, 401, "more than are looked up");
    // A sibling domain plants its own valid token, and junk that pushes the user's out.
    for junk in ["session=x", "session=", &*unknown, &*bob.cookie] {
        let planted = [&*bob.cookie, junk, junk, junk, &*alice.cookie].join("; ");
        assert_eq!(status(&[&planted]).await?, 401, "{junk}");
    }
    let few = format!("session=x; session=; {}", alice.cookie);
    assert_eq!(status(&[&few]).await?, 200, "what is no token is ignored");
    assert_eq!(status(&[&format!("{}; {}", alice.cookie, again.cookie)]).await?, 200, "one user's");
    assert_eq!(status(&[&format!("{}; {}", alice.cookie, bob.cookie)]).await?, 401, "two users'");
    Ok(())
}

pub(super) async fn authorization(app: &App) -> Outcome {
    let alice = app.login("alice").await?;
    let cookie = ("Cookie", &*alice.cookie);
    let bearer = ("Authorization", &*alice.bearer);
    let unknown = format!("Bearer {UNKNOWN}");
    let lower = format!("bearer {}", alice.token);
    let oversize = format!("Bearer {}", "a".repeat(4097));
    for (fields, status) in [
        // The Bearer token decides alone.
        (vec![("Authorization", &*unknown), cookie], 401),
        (vec![bearer, ("Cookie", "session=no token")], 200),
        (vec![("Authorization", &*lower)], 200),
        // Two, or one that is no token: 400, whatever else there is.
        (vec![bearer, bearer], 400),
        (vec![("Authorization", "Bearer"), cookie], 400),
        (vec![("Authorization", "Bearer no-token"), cookie], 400),
        (vec![("Authorization", &*oversize), cookie], 400),
        // Other schemes are nobody's business here.
        (vec![("Authorization", "Basic YTpi"), cookie], 200),
        (vec![("Authorization", "bAsIc YTpi"), bearer], 200),
    ] {
        let answer = app.ask("GET", "/me", &fields).await?;
        assert_eq!(answer.status, status, "{fields:?}: {answer:?}");
        if status == 400 {
            assert_problem(&answer, 400);
            assert_eq!(answer.field("server-timing"), None, "{answer:?}");
        }
    }
    Ok(())
}

pub(super) async fn preflight(app: &App) -> Outcome {
    let origin = ("Origin", "https://elsewhere.example");
    let method = ("Access-Control-Request-Method", "GET");
    // There is no CORS middleware here, so the layer answers, and a browser takes it for "not
    // allowed".
    for path in ["/me", "/sessions", "/logout-everywhere", "/sessions/x"] {
        let answered = app.ask("OPTIONS", path, &[origin, method]).await?;
        assert_eq!((answered.status, &*answered.body), (204, ""), "{answered:?}");
        for name in ["access-control-allow-origin", "access-control-allow-methods"] {
            assert_eq!(answered.field(name), None, "{answered:?}");
        }
    }
    for fields in [vec![], vec![origin], vec![method]] {
        assert_no_token(&app.ask("OPTIONS", "/me", &fields).await?);
    }
    Ok(())
}
