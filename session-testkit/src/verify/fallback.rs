//! Stage 6: requests while Redis is away. They are answered, and when it is back the cache is used again.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{future::try_join_all, stream, stream::StreamExt as _};
use session_layer::Tier;
use tokio::time::Instant;

use super::{
    judge::{Expected, USER},
    nodes::{Line, Nodes, SOON, failed, login, no_copies, no_line, tier, until_hit},
    report::{Checks, Outcome, Stop},
};
use crate::{
    app::{Answer, App},
    backends::{BackendError, PauseGuard},
    check::Finding,
    proxy::{Toxic, ToxicGuard},
    wait,
};

/// Sessions that are cached before Redis goes away.
const SESSIONS: usize = 20;
/// Requests while it is away.
const REQUESTS: usize = 200;
/// Of these, how many at a time.
const CLIENTS: usize = 4;

/// How Redis goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// Connections are closed, new ones too.
    Cut,
    /// Connections stay, and nothing passes.
    Hangs,
    /// SIGKILL.
    Killed,
    /// SIGSTOP.
    Paused,
    /// It stays, and has lost everything.
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

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What became of requests while Redis was away, and afterwards.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    requests: usize,
    /// Answered with the right page.
    right: usize,
    /// Answered by Postgres: at least these met the outage.
    by_store: usize,
    /// What else was answered, the first few.
    objections: Vec<String>,
    slowest: Duration,
    /// A session that was revoked meanwhile was refused then.
    revoked_then: bool,
    /// And afterwards.
    revoked_after: bool,
    /// How long after the healing every session was a hit again.
    hits_again: Option<Duration>,
}

pub(super) async fn run(nodes: &Nodes<'_>, checks: &mut Checks<'_>) -> Outcome {
    if nodes.no_hits.get() {
        checks.note(Away::Cut.name(), no_copies());
        return Ok("not examined".to_owned());
    }
    let line = checks.need("cut off", nodes.redis_line().await)?;
    let redis_url = match &line {
        Some(line) => line.url.as_str(),
        None => nodes.sandbox.redis_url(),
    };
    let app = checks.need(
        "cut off",
        nodes.node_on(redis_url, nodes.sandbox.database_url()),
    )?;
    let logins = (0..SESSIONS).map(|_| login(&app, USER, "one"));
    let created = checks.need("cut off", try_join_all(logins).await)?;
    let tokens: Arc<[String]> = created
        .iter()
        .map(|created| created.token.reveal().to_owned())
        .collect();
    let mut all = Vec::new();
    for away in ways(nodes, checks, line.is_some()) {
        let seen = outage(checks, nodes, line.as_ref(), &app, &tokens, away).await?;
        checks.note(away.name(), judge(away, &seen));
        all.push((away, seen));
    }
    let _late = app.sessions.shutdown(SOON).await;
    Ok(summary(&all))
}

/// The ways that are allowed here.
fn ways(nodes: &Nodes<'_>, checks: &mut Checks<'_>, line: bool) -> Vec<Away> {
    let mut ways = Vec::new();
    if line {
        ways.extend([Away::Cut, Away::Hangs]);
    } else {
        checks.note(Away::Cut.name(), no_line());
    }
    let redis = nodes.backends.redis();
    if redis.backend().is_some() {
        ways.extend([Away::Killed, Away::Paused]);
    }
    if redis.allowed("flush").is_ok() {
        ways.push(Away::Flushed);
    }
    ways
}

/// Requests before, while and after Redis is away in this way.
async fn outage(
    checks: &mut Checks<'_>,
    nodes: &Nodes<'_>,
    line: Option<&Line>,
    app: &App,
    tokens: &Arc<[String]>,
    away: Away,
) -> Result<Seen, Stop> {
    let name = away.name();
    let ended = checks.need(name, login(app, USER, "one").await)?;
    let ended = ended.token.reveal();
    for token in tokens.iter().map(String::as_str).chain([ended]) {
        if until_hit(app, token).await.is_none() {
            let why = "the sessions were not cached before, so nothing could be examined";
            let help = "see the stage \"caching integration\"";
            checks.must(name, Finding::failed("No hit", why, help))?;
        }
    }
    let gone = send_away(nodes, line, away).await;
    let gone = checks.need(
        name,
        gone.map_err(|error| failed("Redis could not be sent away", &error)),
    )?;
    let mut seen = requests(app, tokens).await;
    let revoked = app.sessions.revoke(ended).await;
    if let Err(error) = &revoked {
        seen.objections
            .push(format!("a revocation failed: {error}"));
    }
    let refused = Expected::Rejected(401);
    seen.revoked_then = refused.objection(&app.ask(ended).await).is_none();
    let back = bring_back(nodes, gone).await;
    checks.need(
        name,
        back.map_err(|error| failed("Redis did not come back", &error)),
    )?;
    let begin = Instant::now();
    let all_hit = wait::until("hits again", SOON, async || {
        for token in tokens.iter() {
            if tier(&app.ask(token).await) != Some(Tier::Cache) {
                return false;
            }
        }
        true
    });
    seen.hits_again = all_hit.await.ok().map(|_| begin.elapsed());
    seen.revoked_after = refused.objection(&app.ask(ended).await).is_none();
    Ok(seen)
}

/// What brings Redis back.
enum Gone {
    Line(ToxicGuard),
    Killed,
    Paused(PauseGuard),
    Flushed,
}

async fn send_away(
    nodes: &Nodes<'_>,
    line: Option<&Line>,
    away: Away,
) -> Result<Gone, BackendError> {
    let redis = nodes.backends.redis();
    Ok(match (away, line) {
        (Away::Cut, Some(line)) => Gone::Line(line.proxy.inject(Toxic::down())),
        (Away::Hangs, Some(line)) => Gone::Line(line.proxy.inject(Toxic::hold())),
        (Away::Killed, _) => {
            redis.kill().await?;
            Gone::Killed
        }
        (Away::Paused, _) => Gone::Paused(redis.pause().await?),
        // Without a line nothing is cut: `ways` does not ask for it.
        (Away::Flushed | Away::Cut | Away::Hangs, _) => {
            redis.flush_all().await?;
            Gone::Flushed
        }
    })
}

async fn bring_back(nodes: &Nodes<'_>, gone: Gone) -> Result<(), BackendError> {
    match gone {
        Gone::Line(toxic) => {
            toxic.heal();
        }
        Gone::Killed => nodes.backends.redis().restart().await?,
        Gone::Paused(paused) => paused.resume().await?,
        Gone::Flushed => {}
    }
    Ok(())
}

/// A closed loop of a few clients, all sessions in turn.
async fn requests(app: &App, tokens: &Arc<[String]>) -> Seen {
    let expected = Expected::data("one");
    let ask = |token: &String| {
        let (app, token) = (app.clone(), token.clone());
        async move {
            let begin = Instant::now();
            (app.ask(&token).await, begin.elapsed())
        }
    };
    let answers = stream::iter(tokens.iter().cycle().take(REQUESTS).map(ask));
    let answers = answers.buffer_unordered(CLIENTS);
    let mut answers = std::pin::pin!(answers);
    let mut seen = Seen::default();
    while let Some((answer, took)) = answers.next().await {
        note(&mut seen, &expected, &answer, took);
    }
    seen
}

fn note(seen: &mut Seen, expected: &Expected<'_>, answer: &Answer, took: Duration) {
    seen.requests += 1;
    seen.slowest = seen.slowest.max(took);
    match expected.objection(answer) {
        None => {
            seen.right += 1;
            seen.by_store += usize::from(tier(answer) == Some(Tier::Store));
        }
        Some(objection) if seen.objections.len() < 3 => seen.objections.push(objection),
        Some(_) => {}
    }
}

/// Of all ways together.
fn summary(seen: &[(Away, Seen)]) -> String {
    let sum = |count: fn(&Seen) -> usize| seen.iter().map(|(_, seen)| count(seen)).sum::<usize>();
    let back = seen.iter().map(|(away, seen)| match seen.hits_again {
        Some(after) => format!("{away} {} ms", after.as_millis()),
        None => format!("{away} never"),
    });
    format!(
        "{} of {} requests answered with 200 while Redis was away; until all were hits again: {}",
        sum(|seen| seen.right),
        sum(|seen| seen.requests),
        back.collect::<Vec<_>>().join(", ")
    )
}

fn judge(away: Away, seen: &Seen) -> Finding {
    let what = format!(
        "Redis {away}: {} of {} requests answered with 200 (slowest {} ms), a revocation holds, hits again",
        seen.right,
        seen.requests,
        seen.slowest.as_millis()
    );
    let mut why = seen.objections.clone();
    if seen.right < seen.requests {
        why.insert(
            0,
            format!(
                "{} requests were not answered as they should",
                seen.requests - seen.right
            ),
        );
    }
    if seen.by_store == 0 {
        why.push("no request was answered by Postgres, so nothing was examined".to_owned());
    }
    if !seen.revoked_then {
        why.push("a session that was revoked meanwhile was let in at once".to_owned());
    }
    if !seen.revoked_after {
        why.push("a session that was revoked meanwhile was let in once Redis was back".to_owned());
    }
    if seen.hits_again.is_none() {
        why.push(format!(
            "Redis was back, and was not used again within {} s",
            SOON.as_secs()
        ));
    }
    if why.is_empty() {
        return Finding::ok(what);
    }
    let help = if seen.right < seen.requests {
        "Postgres has to carry all requests while Redis is away: look at its load, its connections (`max_connections`) and how \
         long a SELECT takes (`session-testkit bench`: misses)"
    } else {
        "RUST_LOG=session_layer=debug says what the layer met; if both servers are well, please report it"
    };
    Finding::failed(&what, why.join("; "), help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

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
    fn every_way_to_fall_short_is_a_failure() {
        assert_eq!(judge(Away::Cut, &good()).status, Status::Ok);
        type Change = fn(&mut Seen);
        let cases: [(Change, &str); 5] = [
            (|seen| seen.right = 199, "1 requests were not answered"),
            (|seen| seen.by_store = 0, "nothing was examined"),
            (|seen| seen.revoked_then = false, "let in at once"),
            (|seen| seen.revoked_after = false, "once Redis was back"),
            (|seen| seen.hits_again = None, "not used again"),
        ];
        for (change, said) in cases {
            let mut seen = good();
            change(&mut seen);
            let finding = judge(Away::Cut, &seen);
            assert_eq!(finding.status, Status::Failed);
            let why = finding.why.unwrap();
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn an_answer_counts_as_right_only_with_the_page() {
        let mut seen = Seen::default();
        let unavailable = Answer {
            status: 503,
            ..Answer::default()
        };
        let expected = Expected::data("one");
        for _ in 0..5 {
            note(&mut seen, &expected, &unavailable, Duration::from_millis(7));
        }
        assert_eq!((seen.requests, seen.right, seen.by_store), (5, 0, 0));
        assert_eq!(seen.objections.len(), 3);
        assert_eq!(seen.slowest, Duration::from_millis(7));
    }
}
