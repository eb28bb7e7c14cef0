//! Stage 4: the health endpoint says what is: with Redis there, without it, and there again.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::BodyExt;
use session_layer::HealthService;
use tower::{Service, ServiceExt as _};

use super::{
    document::{FIELD_COUNT, not_down, not_up, objections},
    nodes::{Nodes, SOON, no_line},
    report::{Checks, Outcome},
};
use crate::{
    app::{Answer, App, read},
    check::Finding,
    proxy::Toxic,
    wait,
};

const HELP: &str = "see \"Health document\" in session-layer's documentation (`HealthReport`); a proxy or middleware in \
    front may change it";

pub(super) async fn run(nodes: &Nodes<'_>, checks: &mut Checks<'_>) -> Outcome {
    let Some(line) = checks.need("healthy", nodes.redis_line().await)? else {
        return without_a_line(nodes, checks).await;
    };
    let app = checks.need(
        "healthy",
        nodes.node_on(&line.url, nodes.sandbox.database_url()),
    )?;
    let up = until_status(&app, 200).await;
    checks.must("healthy", healthy("Redis there: 200", &up))?;
    let ping = up.body["performance"]["ping"].as_f64().unwrap_or_default();

    let cut = line.proxy.inject(Toxic::down());
    let down = until_status(&app, 503).await;
    checks.note(
        "down",
        judged(
            "Redis cut off: 503, unhealthy, what is unknown is null",
            503,
            &down,
            not_down(&down.body),
        ),
    );
    let alive = ask(HealthService::livez()).await;
    checks.note(
        "livez",
        judged(
            "Redis cut off: /livez is 200, nobody is restarted for it",
            200,
            &alive,
            vec![],
        ),
    );
    let ready = ask(HealthService::readyz(app.sessions.clone())).await;
    checks.note(
        "readyz",
        judged(
            "Redis cut off: /readyz is 200, Postgres answers",
            200,
            &ready,
            vec![],
        ),
    );
    cut.heal();

    let again = until_status(&app, 200).await;
    // That it was away may be told for 60 s, as `degraded`.
    let what = "Redis back: 200, connected";
    checks.note("recovered", judged(what, 200, &again, not_up(&again.body)));
    let _late = app.sessions.shutdown(SOON).await;
    Ok(format!(
        "{FIELD_COUNT} fields; healthy 200, Redis cut off 503 with /livez and /readyz 200, back 200; PING {ping:.2} ms"
    ))
}

/// The document alone, where Redis can't be cut off.
async fn without_a_line(nodes: &Nodes<'_>, checks: &mut Checks<'_>) -> Outcome {
    let app = checks.need("healthy", nodes.node())?;
    let up = until_status(&app, 200).await;
    checks.note("healthy", healthy("Redis there: 200", &up));
    checks.note("down", no_line());
    let _late = app.sessions.shutdown(SOON).await;
    Ok(format!("{FIELD_COUNT} fields; healthy 200"))
}

/// The document once it has this status, or the last one after a while.
async fn until_status(app: &App, status: u16) -> Answer {
    let mut last = Answer::default();
    let _in_vain = wait::until("the status", SOON, async || {
        last = ask(HealthService::report(app.sessions.clone())).await;
        last.status == status
    })
    .await;
    last
}

async fn ask<S, B>(service: S) -> Answer
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: BodyExt,
{
    let Ok(response) = service.oneshot(Request::new(())).await;
    read(response).await
}

/// A document with Redis there. That it is degraded is the deployment's matter, and said.
fn healthy(what: &str, seen: &Answer) -> Finding {
    let finding = judged(what, 200, seen, not_up(&seen.body));
    let errors = seen.body["errors"].as_array().into_iter().flatten();
    let errors: Vec<&str> = errors.filter_map(|error| error.as_str()).collect();
    if finding.status != crate::check::Status::Ok || seen.body["status"] == "healthy" {
        return finding;
    }
    let why = if errors.is_empty() {
        format!("PING took {} ms", seen.body["performance"]["ping"])
    } else {
        errors.join("; ")
    };
    Finding::warning(
        &format!("{what}, but degraded"),
        why,
        "sessions are validated; what is said there is what to look at",
    )
}

/// The status, the document's form, and what contradicts the state of Redis.
fn judged(what: &str, status: u16, seen: &Answer, contradictions: Vec<String>) -> Finding {
    let mut found = Vec::new();
    if seen.status != status {
        found.push(format!("answered {} instead of {status}", seen.status));
    }
    // `/livez` and `/readyz` have a document of their own.
    if seen.body.get("redis").is_some() || seen.body.is_null() {
        found.extend(objections(&seen.body));
    }
    found.extend(contradictions);
    if found.is_empty() {
        Finding::ok(what)
    } else {
        Finding::failed(what, found.join("; "), HELP)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::Status;

    #[test]
    fn a_document_is_judged_by_status_form_and_state() {
        let answer = |status, body| Answer {
            status,
            body,
            ..Answer::default()
        };
        let alive = json!({"status":"alive"});
        assert_eq!(
            judged("livez", 200, &answer(200, alive.clone()), vec![]).status,
            Status::Ok
        );
        assert_eq!(
            judged("livez", 200, &answer(503, alive), vec![]).status,
            Status::Failed
        );
        // No JSON at all, and a document with a hole.
        for body in [json!(null), json!({"redis":{}})] {
            let finding = judged("report", 200, &answer(200, body), vec![]);
            assert!(finding.why.unwrap().contains("left out"));
        }
    }
}
