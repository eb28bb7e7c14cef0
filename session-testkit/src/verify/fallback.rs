//! Stage 6: requests without Redis get responses, and the cache is used again afterwards.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use session_layer::Source;
use tokio::time::Instant;

use super::{
    judge::{Expected, USER},
    nodes::{Nodes, Route, SOON, failed, login, no_entries, no_proxy, source, until_hit},
    report::Outcome,
};
use crate::{
    app::App,
    backends::{BackendError, PauseGuard},
    proxy::{Toxic, ToxicGuard},
    wait,
};
use session_tools::check::{Finding, Steps, Stop};

/// The number of sessions that are cached before the outage.
const SESSIONS: usize = 20;
/// The number of requests during the outage.
const REQUESTS: usize = 200;
/// The number of concurrent requests.
const CLIENTS: usize = 4;

/// An outage of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// Connections are closed, including new ones.
    Cut,
    /// Connections stay open, and no data passes.
    Hangs,
    /// Redis is killed with SIGKILL.
    Killed,
    /// Redis is paused with SIGSTOP.
    Paused,
    /// Redis has lost all its data.
    Flushed,
}

impl Away {
    fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut off",
            Self::Hangs => "hanging",
            Self::Killed => "killed",
            Self::Paused => "paused",
            Self::Flushed => "flushed",
        }
    }
}

/// The results of requests during and after the outage.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    requests: usize,
    /// The number of responses with the expected page.
    right: usize,
    /// The number of responses from Postgres, which certainly met the outage.
    by_store: usize,
    /// The first few unexpected responses.
    objections: Vec<String>,
    slowest: Duration,
    /// Whether a session that was revoked during the outage was rejected at once.
    revoked_then: bool,
    /// Whether it was rejected after the outage.
    revoked_after: bool,
    /// The time from the end of the outage until every session was a hit.
    hits_again: Option<Duration>,
}

pub(super) async fn run(nodes: &Nodes<'_>, checks: &mut Steps<'_>) -> Outcome {
    if nodes.no_hits.get() {
        checks.record(Away::Cut.name(), no_entries());
        return Ok("not examined".to_owned());
    }
    let route = checks.need("cut off", nodes.redis_route().await)?;
    let redis_url = match &route {
        Some(route) => route.url.as_str(),
        None => nodes.sandbox.redis_url(),
    };
    let app = checks.need("cut off", nodes.node_on(redis_url, nodes.sandbox.database_url()))?;
    let mut tokens = Vec::new();
    for _ in 0..SESSIONS {
        // One after the other, because a busy machine sheds concurrent logins.
        let created = checks.need("cut off", login(&app, USER, "one").await)?;
        tokens.push(created.token.reveal().to_owned());
    }
    let mut all = Vec::new();
    for away in outages(nodes, checks, route.is_some()) {
        let seen = outage(checks, nodes, route.as_ref(), &app, &tokens, away).await?;
        checks.record(away.name(), judge(away, &seen));
        all.push((away, seen));
    }
    let _late = app.sessions.shutdown(SOON).await;
    Ok(summary(&all))
}

/// Returns the outages that are allowed on these servers.
fn outages(nodes: &Nodes<'_>, checks: &mut Steps<'_>, proxied: bool) -> Vec<Away> {
    let mut outages = Vec::new();
    if proxied {
        outages.extend([Away::Cut, Away::Hangs]);
    } else {
        checks.record(Away::Cut.name(), no_proxy());
    }
    let redis = nodes.backends.redis();
    if redis.backend().is_some() {
        outages.extend([Away::Killed, Away::Paused]);
    }
    if redis.allowed("flush").is_ok() {
        outages.push(Away::Flushed);
    }
    outages
}

/// Sends requests before, during and after an outage.
async fn outage(
    checks: &mut Steps<'_>,
    nodes: &Nodes<'_>,
    route: Option<&Route>,
    app: &App,
    tokens: &[String],
    away: Away,
) -> Result<Seen, Stop> {
    let name = away.name();
    let ended = checks.need(name, login(app, USER, "one").await)?;
    let ended = ended.token.reveal();
    for token in tokens.iter().map(String::as_str).chain([ended]) {
        if until_hit(app, token).await.is_none() {
            let why = "the sessions were not cached before, therefore nothing was examined";
            let help = "see the stage \"caching integration\"";
            return Err(checks.stop(name, Finding::failed("No hit", why, help)));
        }
    }
    let cause = begin(nodes, route, away).await;
    let cause = checks
        .need(name, cause.map_err(|error| failed("The outage could not be caused", &error)))?;
    let mut seen = requests(app, tokens).await;
    let revoked = app.sessions.revoke(ended).await;
    if let Err(error) = &revoked {
        seen.objections.push(format!("a revocation failed: {error}"));
    }
    let rejected = Expected::Rejected(401);
    seen.revoked_then = rejected.objection(&app.send(ended).await).is_none();
    let ended_outage = end(nodes, away, cause).await;
    checks.need(name, ended_outage.map_err(|error| failed("Redis did not recover", &error)))?;
    let begin = Instant::now();
    let all_hit = wait::until("hits again", SOON, async || {
        for token in tokens.iter() {
            if source(&app.send(token).await) != Some(Source::Cache) {
                return false;
            }
        }
        true
    });
    seen.hits_again = all_hit.await.ok().map(|_| begin.elapsed());
    seen.revoked_after = rejected.objection(&app.send(ended).await).is_none();
    Ok(seen)
}

/// The guard of an outage. Redis that was killed has none.
enum Cause {
    Route(ToxicGuard),
    Paused(PauseGuard),
    Without,
}

async fn begin(
    nodes: &Nodes<'_>,
    route: Option<&Route>,
    away: Away,
) -> Result<Cause, BackendError> {
    let redis = nodes.backends.redis();
    match (away, route) {
        (Away::Cut, Some(route)) => return Ok(Cause::Route(route.proxy.inject(Toxic::down()))),
        (Away::Hangs, Some(route)) => return Ok(Cause::Route(route.proxy.inject(Toxic::hold()))),
        (Away::Paused, _) => return Ok(Cause::Paused(redis.pause().await?)),
        (Away::Killed, _) => redis.kill().await?,
        // `outages` returns cut and hanging only with a route.
        (Away::Flushed | Away::Cut | Away::Hangs, _) => redis.flush_all().await?,
    }
    Ok(Cause::Without)
}

async fn end(nodes: &Nodes<'_>, away: Away, cause: Cause) -> Result<(), BackendError> {
    match cause {
        Cause::Route(toxic) => drop(toxic),
        Cause::Paused(paused) => paused.resume().await?,
        Cause::Without if away == Away::Killed => nodes.backends.redis().restart().await?,
        Cause::Without => {}
    }
    Ok(())
}

/// Runs a closed loop of a few clients over all sessions in turn.
async fn requests(app: &App, tokens: &[String]) -> Seen {
    let expected = Expected::data("one");
    let send = |token: &String| {
        let (app, token) = (app.clone(), token.clone());
        async move {
            let begin = Instant::now();
            (app.send(&token).await, begin.elapsed())
        }
    };
    let answers = stream::iter(tokens.iter().cycle().take(REQUESTS).map(send));
    let answers = answers.buffer_unordered(CLIENTS);
    let mut answers = std::pin::pin!(answers);
    let mut seen = Seen::default();
    while let Some((answer, took)) = answers.next().await {
        seen.requests += 1;
        seen.slowest = seen.slowest.max(took);
        match expected.objection(&answer) {
            None => {
                seen.right += 1;
                seen.by_store += usize::from(source(&answer) == Some(Source::Store));
            }
            Some(objection) if seen.objections.len() < 3 => seen.objections.push(objection),
            Some(_) => {}
        }
    }
    seen
}

/// Summarizes all outages.
fn summary(seen: &[(Away, Seen)]) -> String {
    let sum = |count: fn(&Seen) -> usize| seen.iter().map(|(_, seen)| count(seen)).sum::<usize>();
    let back = seen.iter().map(|(away, seen)| match seen.hits_again {
        Some(after) => format!("{} {} ms", away.name(), after.as_millis()),
        None => format!("{} never", away.name()),
    });
    format!(
        "{} of {} requests got 200 while Redis was away. Time until all were hits again: {}",
        sum(|seen| seen.right),
        sum(|seen| seen.requests),
        back.collect::<Vec<_>>().join(", ")
    )
}

fn judge(away: Away, seen: &Seen) -> Finding {
    let what = format!(
        "Redis {}: {} of {} requests got 200 (slowest {} ms), a revocation holds, hits return",
        away.name(),
        seen.right,
        seen.requests,
        seen.slowest.as_millis()
    );
    let mut why = seen.objections.clone();
    if seen.right < seen.requests {
        why.insert(
            0,
            format!("{} requests got an unexpected response", seen.requests - seen.right),
        );
    }
    if seen.by_store == 0 {
        why.push("no request read Postgres, therefore nothing was examined".to_owned());
    }
    if !seen.revoked_then {
        why.push("a session that was revoked during the outage was accepted at once".to_owned());
    }
    if !seen.revoked_after {
        why.push("a session that was revoked during the outage was accepted after it".to_owned());
    }
    if seen.hits_again.is_none() {
        why.push(format!(
            "Redis was reachable again, but not used again within {} s",
            SOON.as_secs()
        ));
    }
    if why.is_empty() {
        return Finding::ok(what);
    }
    let help = if seen.right < seen.requests {
        "Postgres must validate all requests while Redis is away: check its load, its connections \
         (`max_connections`) and the latency of a SELECT (`session-testkit bench`: misses)"
    } else {
        "RUST_LOG=session_layer=debug shows the layer's errors. If both servers are healthy, \
         please report it"
    };
    Finding::failed(&what, why.join(", "), help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use session_tools::check::Status;

    fn good() -> Seen {
        Seen {
            requests: 200,
            right: 200,
            by_store: 200,
            revoked_then: true,
            revoked_after: true,
            hits_again: Some(Duration::from_millis(300)),
            ..Seen::default()
        }
    }

    #[test]
    fn each_shortcoming_is_a_failure() {
        assert_eq!(judge(Away::Cut, &good()).status, Status::Ok);
        type Change = fn(&mut Seen);
        let cases: [(Change, &str); 5] = [
            (|seen| seen.right = 199, "1 requests got an unexpected response"),
            (|seen| seen.by_store = 0, "nothing was examined"),
            (|seen| seen.revoked_then = false, "accepted at once"),
            (|seen| seen.revoked_after = false, "accepted after it"),
            (|seen| seen.hits_again = None, "not used again"),
        ];
        for (change, expected) in cases {
            let mut seen = good();
            change(&mut seen);
            let finding = judge(Away::Cut, &seen);
            assert_eq!(finding.status, Status::Failed);
            let why = finding.why.unwrap();
            assert!(why.contains(expected), "{why}");
        }
    }
}
