//! Requests that end sessions.

use serde_json::json;

use crate::examples::http_client::Answer;

use super::super::process::{App, Login};
use super::{
    Outcome, assert_cleared, assert_moment, assert_problem, assert_revoked, assert_unauthorized,
    keys,
};

pub(super) async fn own_and_other_sessions(app: &App) -> Outcome {
    let carol = app.login("carol").await?;
    let elsewhere = app.login("carol").await?;
    let bob = app.login("bob").await?;
    let listed = app.get("/sessions", &carol).await?;
    assert_eq!(listed.status, 200, "{listed:?}");
    let listed = listed.json();
    let rows: Vec<_> = listed.as_array().into_iter().flatten().collect();
    assert_eq!(rows.len(), 2, "{listed}");
    for row in &rows {
        assert_eq!(keys(row), ["createdAt", "current", "lastSeenAt", "sessionId"]);
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
    assert_eq!(app.me(&bob).await?.status, 200, "a session of another user");

    assert_eq!(app.me(&elsewhere).await?.status, 200);
    let ended = delete(&elsewhere.id).await?;
    assert_revoked(&ended, "propagated");
    assert_eq!(ended.field("set-cookie"), None, "her own session remains");
    assert_unauthorized(&app.me(&elsewhere).await?);
    assert_eq!(app.me(&carol).await?.status, 200);

    let own = delete(&carol.id).await?;
    assert_revoked(&own, "propagated");
    assert_cleared(&own);
    assert_unauthorized(&app.me(&carol).await?);
    Ok(())
}

/// Checks that the list is the newest page, and that its `Link` leads to the next.
pub(super) async fn many_sessions(app: &App) -> Outcome {
    let mut logins = Vec::new();
    for _ in 0..103 {
        logins.push(app.login("dora").await?);
    }
    logins.reverse();
    let dora = &logins[0];
    let ids = |answer: &Answer| {
        let rows = answer.json();
        let ids = rows.as_array().into_iter().flatten();
        let ids = ids.map(|row| row["sessionId"].as_str().unwrap_or_default().to_owned());
        ids.collect::<Vec<_>>()
    };
    let first = app.get("/sessions", dora).await?;
    let link = first.field("link").unwrap_or_default().to_owned();
    let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    let second = app.get(next.unwrap_or_default(), dora).await?;
    assert_eq!(second.field("link"), None, "{second:?}");
    let listed: Vec<String> = [ids(&first), ids(&second)].concat();
    assert_eq!(ids(&first).len(), 100);
    assert!(listed.iter().eq(logins.iter().map(|login| &login.id)));
    let bad = app.get("/sessions?after=yesterday", dora).await?;
    assert_problem(&bad, 400);
    Ok(())
}

pub(super) async fn logout(app: &App) -> Outcome {
    let logout = async |fields: &[(&str, &str)]| app.ask("POST", "/logout", fields).await;
    let (first, second) = (app.login("dave").await?, app.login("dave").await?);
    for (login, field) in
        [(&first, ("Cookie", &*first.cookie)), (&second, ("Authorization", &*second.bearer))]
    {
        assert_eq!(app.me(login).await?.status, 200);
        let answer = logout(&[field]).await?;
        assert_revoked(&answer, "propagated");
        assert_cleared(&answer);
        assert_unauthorized(&app.me(login).await?);
    }
    // After a change of the cookie's domain, a browser sends two. Both sessions end, also those of
    // two users. Otherwise the next request would be valid with the other.
    for user in ["dave", "erin"] {
        let (one, two) = (app.login("dave").await?, app.login(user).await?);
        let both = format!("{}; {}", one.cookie, two.cookie);
        let answer = logout(&[("Cookie", &both)]).await?;
        assert_revoked(&answer, "propagated");
        for login in [&one, &two] {
            assert_unauthorized(&app.me(login).await?);
        }
    }
    // Without a session, the cookie is cleared as well.
    for fields in [vec![("Cookie", &*first.cookie)], vec![("Cookie", "session=no token")], vec![]] {
        let answer = logout(&fields).await?;
        assert_revoked(&answer, "nothing");
        assert_cleared(&answer);
    }
    assert_problem(&logout(&[("Authorization", "Bearer no-token")]).await?, 400);
    Ok(())
}

pub(super) async fn logout_everywhere(app: &App) -> Outcome {
    let erin: [Login; 3] =
        [app.login("erin").await?, app.login("erin").await?, app.login("erin").await?];
    let frank = app.login("frank").await?;
    for login in &erin {
        assert_eq!(app.me(login).await?.status, 200);
    }
    let answer = app.ask("POST", "/logout-everywhere", &[("Cookie", &erin[0].cookie)]).await?;
    let expected = json!({ "revoked": "propagated", "count": 3 });
    assert_eq!((answer.status, answer.json()), (200, expected), "{answer:?}");
    assert_cleared(&answer);
    for login in &erin {
        assert_unauthorized(&app.me(login).await?);
    }
    assert_eq!(app.me(&frank).await?.status, 200);
    let anew = app.login("erin").await?;
    assert_eq!(app.me(&anew).await?.status, 200, "logging in again is possible at once");
    Ok(())
}

pub(super) async fn login_replaces(app: &App) -> Outcome {
    let log_in = async |user: &str, fields: &[(&str, &str)]| {
        let mut fields = fields.to_vec();
        fields.push(("Content-Type", "application/json"));
        let body = json!({ "user": user }).to_string();
        let answer = app.ask_with("POST", "/login", &fields, &body).await?;
        assert_eq!(answer.status, 201, "{answer:?}");
        let set = answer.field("set-cookie").unwrap_or_default();
        std::io::Result::Ok(set.split(';').next().unwrap_or_default().to_owned())
    };
    let who = async |cookies: &str| {
        let answer = app.ask("GET", "/me", &[("Cookie", cookies)]).await?;
        let user = (answer.status == 200).then(|| answer.json()["user"].clone());
        std::io::Result::Ok(user)
    };
    // The same user again, or another: the old session ends.
    let gina = app.login("gina").await?;
    let again = log_in("gina", &[("Cookie", &gina.cookie)]).await?;
    assert_unauthorized(&app.me(&gina).await?);
    let hugo = log_in("hugo", &[("Cookie", &again)]).await?;
    assert_eq!(who(&again).await?, None);
    assert_eq!(who(&hugo).await?, Some(json!("hugo")));

    // Cookies of two users are rejected. The browser replaces one of them and still sends the
    // other.
    let (gina, ida) = (app.login("gina").await?, app.login("ida").await?);
    let both = format!("{}; {}", gina.cookie, ida.cookie);
    assert_eq!(who(&both).await?, None);
    let new = log_in("hugo", &[("Cookie", &both)]).await?;
    for login in [&gina, &ida] {
        assert_unauthorized(&app.me(login).await?);
    }
    let sent = format!("{}; {new}", gina.cookie);
    assert_eq!(who(&sent).await?, Some(json!("hugo")));

    // A session that no cookie carried remains. Malformed cookies do not prevent a login.
    let gina = app.login("gina").await?;
    for fields in [
        vec![("Authorization", &*gina.bearer)],
        vec![("Authorization", "Bearer no-token"), ("Cookie", "session=x")],
        vec![("Cookie", "session=x; session=y; session=z; session=; session=v")],
    ] {
        log_in("hugo", &fields).await?;
    }
    assert_eq!(app.me(&gina).await?.status, 200);
    // Beside a Bearer token, the cookies count.
    let unknown = ("Authorization", "Bearer no-token");
    log_in("hugo", &[unknown, ("Cookie", &gina.cookie)]).await?;
    assert_unauthorized(&app.me(&gina).await?);

    // A rejected login ends nothing.
    let ida = app.login("ida").await?;
    let fields = [("Cookie", &*ida.cookie), ("Content-Type", "application/json")];
    let rejected = app.ask_with("POST", "/login", &fields, r#"{"user":""}"#).await?;
    assert_problem(&rejected, 400);
    assert_eq!(app.me(&ida).await?.status, 200);
    Ok(())
}
