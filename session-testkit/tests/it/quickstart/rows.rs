//! Every row of CONTRACT's tables, whatever the sessions are kept in.

use serde_json::{Value, json};

use super::process::{App, Login, tier};
use crate::http::{self, Answer};

type Outcome = std::io::Result<()>;

/// A token like ours that was never issued.
const UNKNOWN: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

pub(crate) async fn all(app: &App) -> Outcome {
    page(app).await?;
    login(app).await?;
    bad_logins(app).await?;
    me(app).await?;
    without_a_valid_session(app).await?;
    several_cookies(app).await?;
    authorization(app).await?;
    preflight(app).await?;
    own_and_other_sessions(app).await?;
    logout(app).await?;
    logout_everywhere(app).await?;
    health(app).await?;
    admin(app).await?;
    no_such_route(app).await
}

/// A problem document with this status.
pub(crate) fn assert_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(
        answer.field("content-type"),
        Some("application/problem+json"),
        "{answer:?}"
    );
    assert_eq!(answer.json()["status"], status, "{answer:?}");
}

/// 503: to be tried again, and nobody is logged out.
pub(crate) fn assert_outage(answer: &Answer) {
    assert_problem(answer, 503);
    let after = answer
        .field("retry-after")
        .and_then(|after| after.parse::<u32>().ok());
    assert!(after.is_some(), "{answer:?}");
    assert_eq!(answer.field("set-cookie"), None, "{answer:?}");
}

/// 401, one and the same.
pub(crate) fn assert_unauthorized(answer: &Answer) {
    assert_problem(answer, 401);
    assert_eq!(
        answer.field("www-authenticate"),
        Some("Bearer"),
        "{answer:?}"
    );
    assert_eq!(
        answer.json()["detail"],
        "a valid session is required",
        "{answer:?}"
    );
    assert_eq!(answer.field("set-cookie"), None, "{answer:?}");
}

pub(crate) fn assert_cleared(answer: &Answer) {
    let cookie = answer.field("set-cookie").unwrap_or_default();
    assert!(
        cookie.starts_with("session=;") && cookie.contains("Max-Age=0"),
        "{answer:?}"
    );
    assert!(
        cookie.contains("Path=/") && cookie.contains("HttpOnly"),
        "{answer:?}"
    );
}

pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    keys.sort_unstable();
    keys
}

/// RFC 3339 in UTC.
fn assert_moment(value: &Value) {
    let text = value.as_str().unwrap_or_default();
    assert!(
        text.parse::<session_layer::Timestamp>().is_ok() && text.ends_with('Z'),
        "{value}"
    );
}

async fn page(app: &App) -> Outcome {
    let page = app.ask("GET", "/", &[]).await?;
    assert_eq!(page.status, 200);
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.field("content-security-policy").unwrap_or_default();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    // Nothing is loaded from anywhere: what the page names by address are XML namespaces.
    let addresses =
        page.body.matches("http").count() - page.body.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(addresses, 0);
    Ok(())
}

async fn login(app: &App) -> Outcome {
    let json = [("Content-Type", "application/json; charset=utf-8")];
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    for (fields, body) in [(json, r#"{"user":"alice"}"#), (form, "user=alice")] {
        let answer = app.ask_with("POST", "/login", &fields, body).await?;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let told = answer.json();
        assert_eq!(keys(&told), ["expiresAt", "sessionId", "token"]);
        assert_moment(&told["expiresAt"]);
        let token = told["token"].as_str().unwrap_or_default();
        assert_eq!(token.len(), 43, "{told}");
        let expected = format!("session={token}; HttpOnly; SameSite=Lax; Path=/");
        assert_eq!(answer.field("set-cookie"), Some(expected.as_str()));
    }
    let long = "é".repeat(200);
    app.login(&long).await?;
    Ok(())
}

async fn bad_logins(app: &App) -> Outcome {
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
        (json, r#"{"user":"alice""#.to_owned()),
        (json, "{}".to_owned()),
        (json, "user=alice".to_owned()),
        (json, String::new()),
        (form, "user=".to_owned()),
        (form, format!("user={too_long}")),
        (form, "user=a%00b".to_owned()),
        (form, "name=alice".to_owned()),
        (form, "user=alice&user=bob".to_owned()),
        (form, String::new()),
        (Some("text/plain"), "alice".to_owned()),
        (Some("multipart/form-data; boundary=x"), "--x--".to_owned()),
        (None, r#"{"user":"alice"}"#.to_owned()),
        (None, String::new()),
    ] {
        let fields: Vec<_> = content_type
            .map(|value| ("Content-Type", value))
            .into_iter()
            .collect();
        let answer = http::send(&app.address, "POST", "/login", &fields, &body).await?;
        let shown = body.get(..40).unwrap_or(&body);
        assert_eq!(answer.status, 400, "{content_type:?} {shown}: {answer:?}");
        assert_problem(&answer, 400);
        assert_eq!(answer.field("set-cookie"), None);
    }
    Ok(())
}

async fn me(app: &App) -> Outcome {
    let alice = app.login("alice").await?;
    for fields in [
        [("Cookie", &*alice.cookie)],
        [("Authorization", &*alice.bearer)],
    ] {
        let answer = app.ask("GET", "/me", &fields).await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = answer.json();
        assert_eq!(keys(&told), ["expiresAt", "sessionId", "user"]);
        assert_eq!(
            (&told["user"], &told["sessionId"]),
            (&json!("alice"), &json!(alice.id))
        );
        assert_moment(&told["expiresAt"]);
        assert_eq!(answer.field("vary"), Some("Authorization, Cookie"));
        assert_eq!(answer.field("cache-control"), Some("private"));
        let timing = answer.field("server-timing").unwrap_or_default();
        let millis = timing
            .split("dur=")
            .nth(1)
            .and_then(|ms| ms.parse::<f64>().ok());
        assert!(
            timing.starts_with("session;desc=\"") && millis.is_some(),
            "{timing}"
        );
        assert!(
            ["hit", "store"].contains(&tier(&answer).as_str()),
            "{timing}"
        );
    }
    Ok(())
}

async fn without_a_valid_session(app: &App) -> Outcome {
    let ended = app.login("alice").await?;
    app.ask("POST", "/logout", &[("Cookie", &ended.cookie)])
        .await?;
    let unknown = format!("session={UNKNOWN}");
    let bearer = format!("Bearer {UNKNOWN}");
    let mut bodies = Vec::new();
    for (fields, looked_up) in [
        (vec![], false),
        (vec![("Cookie", "session=")], false),
        (vec![("Cookie", "session=no token, surely")], false),
        (vec![("Cookie", "other=1; broken")], false),
        (vec![("Authorization", "Basic YTpi")], false),
        (vec![("Cookie", &*unknown)], true),
        (vec![("Authorization", &*bearer)], true),
        (vec![("Cookie", &*ended.cookie)], true),
        (vec![("Authorization", &*ended.bearer)], true),
    ] {
        for (method, path) in [
            ("GET", "/me"),
            ("GET", "/sessions"),
            ("DELETE", "/sessions/6f2c1a52-1f7e-4d3b-9a10-0123456789ab"),
            ("DELETE", "/sessions/no-uuid"),
            ("POST", "/logout-everywhere"),
        ] {
            let answer = app.ask(method, path, &fields).await?;
            assert_unauthorized(&answer);
            assert_eq!(
                answer.fields("server-timing").len(),
                usize::from(looked_up),
                "{answer:?}"
            );
            bodies.push(answer.body);
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "one and the same body: {bodies:?}");
    Ok(())
}

async fn several_cookies(app: &App) -> Outcome {
    let (alice, again, bob) = (
        app.login("alice").await?,
        app.login("alice").await?,
        app.login("bob").await?,
    );
    let unknown = format!("session={UNKNOWN}");
    let unknowns = ["B", "C", "D", "E"].map(|first| format!("session={first}{}", &UNKNOWN[1..]));
    let three = unknowns[..3].join("; ");
    let status = async |cookies: &[&str]| {
        let fields: Vec<_> = cookies.iter().map(|cookie| ("Cookie", *cookie)).collect();
        app.ask("GET", "/me", &fields)
            .await
            .map(|answer| answer.status)
    };
    assert_eq!(
        status(&[&format!("{unknown}; {}", alice.cookie)]).await?,
        200
    );
    assert_eq!(
        status(&[&format!("{}; {unknown}; x=y", alice.cookie)]).await?,
        200
    );
    assert_eq!(
        status(&[&unknown, &alice.cookie]).await?,
        200,
        "several fields, as of HTTP/2"
    );
    assert_eq!(
        status(&[&format!("{three}; {}", alice.cookie)]).await?,
        200,
        "the fourth counts"
    );
    let fifth = format!("{}; {}", unknowns.join("; "), alice.cookie);
    assert_eq!(status(&[&fifth]).await?, 401, "the fifth does not");
    assert_eq!(
        status(&[&format!("{}; {}", alice.cookie, again.cookie)]).await?,
        200,
        "one user's"
    );
    assert_eq!(
        status(&[&format!("{}; {}", alice.cookie, bob.cookie)]).await?,
        401,
        "two users'"
    );
    Ok(())
}

async fn authorization(app: &App) -> Outcome {
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

async fn preflight(app: &App) -> Outcome {
    let origin = ("Origin", "https://elsewhere.example");
    let method = ("Access-Control-Request-Method", "GET");
    let passed = app.ask("OPTIONS", "/me", &[origin, method]).await?;
    // There is no CORS middleware here, so the router answers; but the layer let it through.
    assert_eq!(passed.status, 405, "{passed:?}");
    for fields in [vec![], vec![origin], vec![method]] {
        assert_unauthorized(&app.ask("OPTIONS", "/me", &fields).await?);
    }
    Ok(())
}

async fn own_and_other_sessions(app: &App) -> Outcome {
    let carol = app.login("carol").await?;
    let elsewhere = app.login("carol").await?;
    let bob = app.login("bob").await?;
    let listed = app.get("/sessions", &carol).await?;
    assert_eq!(listed.status, 200, "{listed:?}");
    let listed = listed.json();
    let rows: Vec<_> = listed.as_array().into_iter().flatten().collect();
    assert_eq!(rows.len(), 2, "{listed}");
    for row in &rows {
        assert_eq!(
            keys(row),
            ["createdAt", "current", "lastSeenAt", "sessionId"]
        );
        assert_moment(&row["createdAt"]);
        assert_moment(&row["lastSeenAt"]);
        let id = row["sessionId"].as_str().unwrap_or_default();
        assert!(id == carol.id || id == elsewhere.id, "{row}");
        assert_eq!(row["current"], id == carol.id, "{row}");
    }

    let delete = async |id: &str| {
        let path = format!("/sessions/{id}");
        app.ask("DELETE", &path, &[("Cookie", &carol.cookie)]).await
    };
    let unknown = "6f2c1a52-1f7e-4d3b-9a10-0123456789ab";
    let mut bodies = Vec::new();
    for id in [&*bob.id, unknown, "no-uuid", "%ff", "%00"] {
        let answer = delete(id).await?;
        assert_problem(&answer, 404);
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "all alike: {bodies:?}");
    assert_eq!(app.me(&bob).await?.status, 200, "it was not hers to end");

    assert_eq!(app.me(&elsewhere).await?.status, 200);
    let ended = delete(&elsewhere.id).await?;
    assert_eq!(
        (ended.status, ended.json()),
        (200, json!({ "revoked": "propagated" })),
        "{ended:?}"
    );
    assert_eq!(ended.field("set-cookie"), None, "her own session goes on");
    assert_unauthorized(&app.me(&elsewhere).await?);
    assert_eq!(app.me(&carol).await?.status, 200);

    let own = delete(&carol.id).await?;
    assert_eq!(
        (own.status, own.json()),
        (200, json!({ "revoked": "propagated" })),
        "{own:?}"
    );
    assert_cleared(&own);
    assert_unauthorized(&app.me(&carol).await?);
    Ok(())
}

async fn logout(app: &App) -> Outcome {
    let logout = async |fields: &[(&str, &str)]| app.ask("POST", "/logout", fields).await;
    let (first, second) = (app.login("dave").await?, app.login("dave").await?);
    for (login, field) in [
        (&first, ("Cookie", &*first.cookie)),
        (&second, ("Authorization", &*second.bearer)),
    ] {
        assert_eq!(app.me(login).await?.status, 200);
        let answer = logout(&[field]).await?;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({ "revoked": "propagated" })),
            "{answer:?}"
        );
        assert_cleared(&answer);
        assert_unauthorized(&app.me(login).await?);
    }
    // Whoever has no session is logged out already, and their cookie goes all the same.
    for fields in [
        vec![("Cookie", &*first.cookie)],
        vec![("Cookie", "session=no token")],
        vec![],
    ] {
        let answer = logout(&fields).await?;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({ "revoked": "nothing" })),
            "{answer:?}"
        );
        assert_cleared(&answer);
    }
    assert_problem(&logout(&[("Authorization", "Bearer no-token")]).await?, 400);
    Ok(())
}

async fn logout_everywhere(app: &App) -> Outcome {
    let erin: [Login; 3] = [
        app.login("erin").await?,
        app.login("erin").await?,
        app.login("erin").await?,
    ];
    let frank = app.login("frank").await?;
    for login in &erin {
        assert_eq!(app.me(login).await?.status, 200);
    }
    let answer = app
        .ask("POST", "/logout-everywhere", &[("Cookie", &erin[0].cookie)])
        .await?;
    let expected = json!({ "revoked": "propagated", "count": 3 });
    assert_eq!(
        (answer.status, answer.json()),
        (200, expected),
        "{answer:?}"
    );
    assert_cleared(&answer);
    for login in &erin {
        assert_unauthorized(&app.me(login).await?);
    }
    assert_eq!(app.me(&frank).await?.status, 200);
    let anew = app.login("erin").await?;
    assert_eq!(
        app.me(&anew).await?.status,
        200,
        "logging in again is possible at once"
    );
    Ok(())
}

async fn health(app: &App) -> Outcome {
    let answer = app.ask("GET", "/api/health/redis", &[]).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let document = answer.json();
    // A busy machine has errors to tell of; where there are none, all is well.
    let well = document["errors"].as_array().is_some_and(Vec::is_empty);
    assert_eq!(
        document["status"],
        if well { "healthy" } else { "degraded" },
        "{document:#}"
    );
    assert_moment(&document["timestamp"]);
    for (at, names) in [
        (
            "",
            &[
                "status",
                "timestamp",
                "redis",
                "sessionCache",
                "performance",
                "errors",
            ][..],
        ),
        (
            "/redis",
            &["connected", "version", "uptime", "usedMemory", "totalKeys"],
        ),
        ("/sessionCache", &["enabled", "healthy", "metrics", "pool"]),
        (
            "/sessionCache/metrics",
            &["hits", "misses", "errors", "total", "hitRate", "ttl"],
        ),
        ("/sessionCache/pool", &["size", "available", "pending"]),
        ("/performance", &["ping", "set", "get"]),
    ] {
        let part = document.pointer(at).unwrap_or(&Value::Null);
        for name in names {
            assert!(
                keys(part).contains(name),
                "{at}/{name} is missing in {document:#}"
            );
        }
    }
    let metrics = &document["sessionCache"]["metrics"];
    let number = |name: &str| metrics[name].as_f64().unwrap_or(-1.0);
    assert!(number("hits") > 0.0 && number("misses") > 0.0, "{metrics}");
    let sum = number("hits") + number("misses") + number("errors");
    assert!((number("total") - sum).abs() < 0.5, "{metrics}");
    assert!(
        (number("hitRate") - number("hits") * 100.0 / sum).abs() < 0.01,
        "{metrics}"
    );
    assert!((number("ttl") - 300.0).abs() < 0.5, "{metrics}");
    for step in ["ping", "set", "get"] {
        let millis = document["performance"][step].as_f64();
        assert!(
            millis.is_some_and(|millis| (0.0..1000.0).contains(&millis)),
            "{document:#}"
        );
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(app.ask("GET", path, &[]).await?.status, 200);
    }
    Ok(())
}

async fn admin(app: &App) -> Outcome {
    let get = async || http::send(&app.admin, "GET", "/mode", &[], "").await;
    assert_eq!(get().await?.json(), json!({ "mode": "on" }));
    for mode in ["bypass", "bypass", "on"] {
        let asked = json!({ "mode": mode });
        let answer = app.put_mode(&asked.to_string()).await?;
        assert_eq!((answer.status, answer.json()), (200, asked.clone()));
        assert_eq!(get().await?.json(), asked);
    }
    let large = format!(r#"{{"mode":"{}"}}"#, "x".repeat(3_000_000));
    for bad in [
        r#"{"mode":"off"}"#,
        r#"{"mode":"On"}"#,
        r#"{"mode":1}"#,
        "{}",
        "on",
        "",
        r#"{"mode":"on","x":1}"#,
        &large,
    ] {
        let answer = app.put_mode(bad).await?;
        let shown = bad.get(..40).unwrap_or(bad);
        assert_eq!(answer.status, 400, "{shown}: {answer:?}");
    }
    assert_eq!(
        get().await?.json(),
        json!({ "mode": "on" }),
        "what was refused changed nothing"
    );
    // Not where everybody can reach it.
    assert_eq!(app.ask("GET", "/mode", &[]).await?.status, 404);
    assert_eq!(app.ask("PUT", "/mode", &[]).await?.status, 404);
    Ok(())
}

async fn no_such_route(app: &App) -> Outcome {
    for (method, path) in [
        ("GET", "/nothing"),
        ("GET", "/sessions/a/b"),
        ("POST", "/me/"),
        ("GET", "/favicon.ico"),
    ] {
        assert_problem(&app.ask(method, path, &[]).await?, 404);
    }
    assert_problem(&http::send(&app.admin, "GET", "/", &[], "").await?, 404);
    Ok(())
}
