//! Everything that ends sessions.

use serde_json::json;

use super::super::process::{App, Login};
use super::{Outcome, assert_cleared, assert_moment, assert_problem, assert_unauthorized, keys};

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

pub(super) async fn logout(app: &App) -> Outcome {
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

pub(super) async fn logout_everywhere(app: &App) -> Outcome {
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
