//! Routes for operators.

use serde_json::{Value, json};

use super::super::process::App;
use super::{Outcome, assert_moment, assert_problem, keys};
use crate::examples::http_client as http;

pub(super) async fn health(app: &App) -> Outcome {
    let answer = app.ask("GET", "/api/health/redis", &[]).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let document = answer.json();
    // A busy machine may report errors.
    let well = document["errors"].as_array().is_some_and(Vec::is_empty);
    assert_eq!(document["status"], if well { "healthy" } else { "degraded" }, "{document:#}");
    assert_moment(&document["timestamp"]);
    for (at, names) in [
        ("", &["status", "timestamp", "redis", "sessionCache", "performance", "errors"][..]),
        ("/redis", &["connected", "version", "uptime", "usedMemory", "totalKeys"]),
        ("/sessionCache", &["enabled", "healthy", "metrics", "pool"]),
        ("/sessionCache/metrics", &["hits", "misses", "errors", "total", "hitRate", "ttl"]),
        ("/sessionCache/pool", &["size", "available", "pending"]),
        ("/performance", &["ping", "set", "get"]),
    ] {
        let part = document.pointer(at).unwrap_or(&Value::Null);
        for name in names {
            assert!(keys(part).contains(name), "{at}/{name} is missing in {document:#}");
        }
    }
    let metrics = &document["sessionCache"]["metrics"];
    let number = |name: &str| metrics[name].as_f64().unwrap_or(-1.0);
    assert!(number("hits") > 0.0 && number("misses") > 0.0, "{metrics}");
    let sum = number("hits") + number("misses") + number("errors");
    assert!((number("total") - sum).abs() < 0.5, "{metrics}");
    assert!((number("hitRate") - number("hits") * 100.0 / sum).abs() < 0.01, "{metrics}");
    assert!((number("ttl") - 300.0).abs() < 0.5, "{metrics}");
    for step in ["ping", "set", "get"] {
        let millis = document["performance"][step].as_f64();
        assert!(millis.is_some_and(|millis| (0.0..1000.0).contains(&millis)), "{document:#}");
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(app.ask("GET", path, &[]).await?.status, 200);
    }
    Ok(())
}

pub(super) async fn admin(app: &App) -> Outcome {
    let get = async || http::send(&app.admin, "GET", "/mode", &[], "").await;
    assert_eq!(get().await?.json(), json!({ "mode": "on" }));
    for mode in ["bypass", "bypass", "on"] {
        let wanted = json!({ "mode": mode });
        let answer = app.put_mode(&wanted.to_string()).await?;
        assert_eq!((answer.status, answer.json()), (200, wanted.clone()));
        assert_eq!(get().await?.json(), wanted);
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
    assert_eq!(get().await?.json(), json!({ "mode": "on" }), "a rejected mode changed something");
    // The public address has no such route.
    assert_eq!(app.ask("GET", "/mode", &[]).await?.status, 404);
    assert_eq!(app.ask("PUT", "/mode", &[]).await?.status, 404);
    Ok(())
}

pub(super) async fn no_such_route(app: &App) -> Outcome {
    for (method, path) in
        [("GET", "/nothing"), ("GET", "/sessions/a/b"), ("POST", "/me/"), ("GET", "/favicon.ico")]
    {
        assert_problem(&app.ask(method, path, &[]).await?, 404);
    }
    assert_problem(&http::send(&app.admin, "GET", "/", &[], "").await?, 404);
    Ok(())
}
