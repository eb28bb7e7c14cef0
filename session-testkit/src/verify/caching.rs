//! Stage 3: a copy comes into being, is served on every node, and ends when its session changes.

use std::time::Duration;

use session_layer::{Mode, Tier, Validation};

use super::{
    judge::{Expected, USER, after, answers, reached},
    nodes::{Nodes, SOON, failed, login, until_hit},
    report::{Checks, Outcome},
};
use crate::{app::App, check::Finding};

const NO_HIT: &str = "`session-testkit check` says whether Redis allows what it takes (SET, EVALSHA, INFO) and is a \
    master; RUST_LOG=session_layer=debug says what the layer met";
const STALE: &str = "a copy outlived its session. Is REDIS_URL one server, the same for every node, and not a proxy that \
    reads from replicas? If it is, this is a bug of session-layer: please report it with RUST_LOG=session_layer=debug";
const WRONG: &str = "do other applications write into this schema or namespace? If not, this is a bug of session-layer: \
    please report it";

pub(super) async fn run(nodes: &Nodes<'_>, checks: &mut Checks<'_>) -> Outcome {
    let a = checks.need("miss", nodes.node())?;
    let b = checks.need("miss", nodes.node())?;
    let session = checks.need("miss", login(&a, USER, "one").await)?;
    let token = session.token.reveal();

    let first = a.ask(token).await;
    let expected = Expected::data("one").from(Tier::Store);
    let what = "First request: a miss, answered by Postgres";
    checks.must(
        "miss",
        answers(what, &expected, [("node A", &first)], WRONG),
    )?;

    nodes.no_hits.set(true);
    let hit = hit(checks, "hit", &a, token, "one").await?;
    nodes.no_hits.set(false);
    let _shared = self::hit(checks, "other node", &b, token, "one").await?;

    update(checks, &a, &b, token).await?;
    let token = rotate(checks, &a, &b, token).await?;
    revoke(checks, &a, &b, &token).await?;
    revoke_all(checks, &a, &b).await?;
    bypass(checks, &a, &b).await?;
    for node in [a, b] {
        let _late = node.sessions.shutdown(SOON).await;
    }
    Ok(format!(
        "miss, fill, hit ({:.1} ms after the miss), seen by a second node; update, rotate, revoke, revoke-all on one node seen \
         by both; bypass and back",
        hit.as_secs_f64() * 1000.0
    ))
}

/// The cache answers, and with what it should.
async fn hit(
    checks: &mut Checks<'_>,
    name: &'static str,
    node: &App,
    token: &str,
    data: &str,
) -> Result<Duration, super::report::Stop> {
    let Some((waited, answer)) = until_hit(node, token).await else {
        let why = format!("no answer came from the cache within {} s", SOON.as_secs());
        checks.must(name, Finding::failed("No hit", why, NO_HIT))?;
        return Ok(SOON);
    };
    let expected = Expected::data(data).from(Tier::Cache);
    let what = match name {
        "other node" => "Another node is answered by the same copy",
        _ => "Filled: the cache answers, with the same user and data",
    };
    checks.must(
        name,
        answers(what, &expected, [("the cache", &answer)], WRONG),
    )?;
    Ok(waited)
}

async fn update(checks: &mut Checks<'_>, a: &App, b: &App, token: &str) -> Stopped {
    let Validation::Valid(session) = a.sessions.validate(token).await else {
        let why = "the session of this run was not valid any more";
        return checks.must("update", Finding::failed("No update", why, WRONG));
    };
    let changed = a.sessions.update(&session, "two").await;
    let changed = changed.map_err(|error| failed("The session could not be updated", &error));
    let reach = checks.need("update", changed)?.reach;
    let seen = [
        ("node A", &a.ask(token).await),
        ("node B", &b.ask(token).await),
    ];
    let what = format!("Updated ({}): both nodes see the new data", reached(reach));
    let finding = answers(&what, &Expected::data("two"), seen, STALE);
    checks.note("update", after(reach, finding));
    Ok(())
}

async fn rotate(
    checks: &mut Checks<'_>,
    a: &App,
    b: &App,
    old: &str,
) -> Result<String, super::report::Stop> {
    hit_both(checks, "rotate", [a, b], old, "two").await?;
    let changed = a.sessions.rotate(old, Duration::ZERO).await;
    let changed = changed.map_err(|error| failed("The token could not be rotated", &error));
    let changed = checks.need("rotate", changed)?;
    let (new, reach) = (changed.value.token.reveal().to_owned(), changed.reach);
    let seen = [("node A", &a.ask(old).await), ("node B", &b.ask(old).await)];
    let what = format!(
        "Rotated ({}): both nodes refuse the old token",
        reached(reach)
    );
    let finding = answers(&what, &Expected::Rejected(401), seen, STALE);
    checks.note("rotate", after(reach, finding));
    let seen = [
        ("node A", &a.ask(&new).await),
        ("node B", &b.ask(&new).await),
    ];
    let what = "The new token is good on both";
    checks.must("rotate", answers(what, &Expected::data("two"), seen, WRONG))?;
    Ok(new)
}

async fn revoke(checks: &mut Checks<'_>, a: &App, b: &App, token: &str) -> Stopped {
    hit_both(checks, "revoke", [a, b], token, "two").await?;
    let changed = a.sessions.revoke(token).await;
    let changed = changed.map_err(|error| failed("The session could not be revoked", &error));
    let reach = checks.need("revoke", changed)?.reach;
    let seen = [
        ("node A", &a.ask(token).await),
        ("node B", &b.ask(token).await),
    ];
    let what = format!("Revoked ({}): neither node serves the copy", reached(reach));
    let finding = answers(&what, &Expected::Rejected(401), seen, STALE);
    checks.note("revoke", after(reach, finding));
    Ok(())
}

async fn revoke_all(checks: &mut Checks<'_>, a: &App, b: &App) -> Stopped {
    let first = checks.need("revoke all", login(a, USER, "one").await)?;
    let second = checks.need("revoke all", login(b, USER, "one").await)?;
    let tokens = [first.token.reveal(), second.token.reveal()];
    for token in tokens {
        hit_both(checks, "revoke all", [a, b], token, "one").await?;
    }
    let changed = a.sessions.revoke_all(USER).await;
    let changed = changed.map_err(|error| failed("The sessions could not be revoked", &error));
    let reach = checks.need("revoke all", changed)?.reach;
    let seen = [
        ("the first", &b.ask(tokens[0]).await),
        ("the second", &b.ask(tokens[1]).await),
    ];
    let what = format!(
        "All of a user's revoked ({}): none is served",
        reached(reach)
    );
    let finding = answers(&what, &Expected::Rejected(401), seen, STALE);
    checks.note("revoke all", after(reach, finding));
    Ok(())
}

async fn bypass(checks: &mut Checks<'_>, a: &App, b: &App) -> Stopped {
    let kept = checks.need("bypass", login(a, USER, "one").await)?;
    let ended = checks.need("bypass", login(a, USER, "one").await)?;
    let (kept, ended) = (kept.token.reveal(), ended.token.reveal());
    for token in [kept, ended] {
        hit_both(checks, "bypass", [a, b], token, "one").await?;
    }
    a.sessions.set_mode(Mode::Bypass);
    let seen = a.ask(kept).await;
    let expected = Expected::data("one").from(Tier::Store);
    let what = "Bypassed: Postgres answers though there is a copy";
    checks.note(
        "bypass",
        answers(what, &expected, [("node A", &seen)], WRONG),
    );
    let changed = a.sessions.revoke(ended).await;
    let changed = changed.map_err(|error| failed("The session could not be revoked", &error));
    let reach = checks.need("bypass", changed)?.reach;
    a.sessions.set_mode(Mode::On);
    let seen = [
        ("node A", &a.ask(ended).await),
        ("node B", &b.ask(ended).await),
    ];
    let what = "Switched on again: what was revoked meanwhile is not served";
    let finding = answers(what, &Expected::Rejected(401), seen, STALE);
    checks.note("bypass", after(reach, finding));
    let seen = a.ask(kept).await;
    let expected = Expected::data("one").from(Tier::Cache);
    let what = "Switched on again: the cache answers";
    checks.note(
        "bypass",
        answers(what, &expected, [("node A", &seen)], NO_HIT),
    );
    Ok(())
}

type Stopped = Result<(), super::report::Stop>;

/// Copies that are to end must be there first, or their end proves nothing.
async fn hit_both(
    checks: &mut Checks<'_>,
    name: &'static str,
    nodes: [&App; 2],
    token: &str,
    data: &str,
) -> Stopped {
    for node in nodes {
        let Some((_, answer)) = until_hit(node, token).await else {
            let why = format!("no answer came from the cache within {} s", SOON.as_secs());
            return checks.must(
                name,
                Finding::failed("No hit before the change", why, NO_HIT),
            );
        };
        if let Some(objection) = Expected::data(data).objection(&answer) {
            return checks.must(name, Finding::failed("A wrong copy", objection, WRONG));
        }
    }
    Ok(())
}
