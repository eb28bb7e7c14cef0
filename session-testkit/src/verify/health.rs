//! Stage 4: the health endpoint with Redis, without it, and after its return.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::BodyExt;
use session_layer::HealthService;
use tower::{Service, ServiceExt as _};

use super::{
    document::{FIELD_COUNT, not_down, not_up, objections},
    judge::USER,
    nodes::{Nodes, SOON, login, no_proxy},
    report::Outcome,
};
use crate::{
    app::{Answer, App, read},
    proxy::Toxic,
    wait,
};
use session_tools::check::{Finding, Steps};

const HELP: &str = "see \"Health document\" in session-layer's documentation (`HealthReport`). A \
    proxy or middleware in front may change it";

pub(super) async fn run(nodes: &Nodes<'_>, checks: &mut Steps<'_>) -> Outcome {
    let route = checks.need("healthy", nodes.redis_route().await)?;
    let redis_url = route.as_ref().map_or(nodes.sandbox.redis_url(), |route| &route.url);
    let app = checks.need("healthy", nodes.node_on(redis_url, nodes.sandbox.database_url()))?;
    // This opens a connection to Postgres. A probe has less time than that may take.
    checks.need("healthy", login(&app, USER, "one").await)?;
    let up = until_status(&app, 200).await;
    checks.must("healthy", healthy("Redis reachable: 200", &up))?;
    let ping = up.body["performance"]["ping"].as_f64().unwrap_or_default();
    let Some(route) = route else {
        checks.record("down", no_proxy());
        let _late = app.sessions.shutdown(SOON).await;
        return Ok(format!("{FIELD_COUNT} fields. Healthy 200. PING {ping:.2} ms"));
    };

    let cut = route.proxy.inject(Toxic::down());
    let down = until_status(&app, 503).await;
    let what = "Redis cut off: 503, unhealthy, unknown fields are null";
    checks.record("down", judged(what, 503, &down, not_down(&down.body)));
    let live = query(HealthService::livez()).await;
    let what = "Redis cut off: /livez is 200, therefore no node restarts";
    checks.record("livez", judged(what, 200, &live, vec![]));
    let ready = query(HealthService::readyz(app.sessions.clone())).await;
    let what = "Redis cut off: /readyz is 200, because Postgres is reachable";
    checks.record("readyz", judged(what, 200, &ready, vec![]));
    cut.heal();

    let again = until_status(&app, 200).await;
    // The document may report the outage for 60 s, as `degraded`.
    let what = "Redis reachable again: 200, connected";
    checks.record("recovered", judged(what, 200, &again, not_up(&again.body)));
    let _late = app.sessions.shutdown(SOON).await;
    Ok(format!(
        "{FIELD_COUNT} fields. Healthy 200, Redis cut off 503 with /livez and /readyz 200, \
         reachable again 200. PING {ping:.2} ms"
    ))
}

/// Waits for a document with this status. Returns the last one at the deadline.
async fn until_status(app: &App, status: u16) -> Answer {
    let mut last = Answer::default();
    let _timeout = wait::until("the status", SOON, async || {
        last = query(HealthService::report(app.sessions.clone())).await;
        last.status == status
    })
    .await;
    last
}

async fn query<S, B>(service: S) -> Answer
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: BodyExt,
{
    let Ok(response) = service.oneshot(Request::new(())).await;
    read(response).await
}

/// Judges a document with Redis reachable. `degraded` is a warning with the reported cause.
fn healthy(what: &str, seen: &Answer) -> Finding {
    let finding = judged(what, 200, seen, not_up(&seen.body));
    let errors = seen.body["errors"].as_array().into_iter().flatten();
    let errors: Vec<&str> = errors.filter_map(|error| error.as_str()).collect();
    if finding.status != session_tools::check::Status::Ok || seen.body["status"] == "healthy" {
        return finding;
    }
    let why = if errors.is_empty() {
        format!("PING took {} ms", seen.body["performance"]["ping"])
    } else {
        errors.join(", ")
    };
    Finding::warning(
        &format!("{what}, but degraded"),
        why,
        "sessions are validated, but check the reported cause",
    )
}

/// Judges the status, the document's form, and its agreement with the state of Redis.
fn judged(what: &str, status: u16, seen: &Answer, contradictions: Vec<String>) -> Finding {
    let mut found = Vec::new();
    if seen.status != status {
        found.push(format!("got {} instead of {status}", seen.status));
    }
    // `/livez` and `/readyz` have their own documents.
    if seen.body.get("redis").is_some() || seen.body.is_null() {
        found.extend(objections(&seen.body));
    }
    found.extend(contradictions);
    if found.is_empty() { Finding::ok(what) } else { Finding::failed(what, found.join(", "), HELP) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use session_tools::check::Status;

    #[test]
    fn document_is_judged_by_status_form_and_state() {
        let answer = |status, body| Answer { status, body, ..Answer::default() };
        let alive = json!({"status":"alive"});
        assert_eq!(judged("livez", 200, &answer(200, alive.clone()), vec![]).status, Status::Ok);
        assert_eq!(judged("livez", 200, &answer(503, alive), vec![]).status, Status::Failed);
        // A body without JSON, and a document with a missing field.
        for body in [json!(null), json!({"redis":{}})] {
            let finding = judged("report", 200, &answer(200, body), vec![]);
            assert!(finding.why.unwrap().contains("is missing"));
        }
    }
}
