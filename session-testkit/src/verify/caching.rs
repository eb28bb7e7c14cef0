//! Stage 3: an entry is filled, is served on every node, and is removed when its session changes.

use std::time::Duration;

use session_layer::{CacheMode, RevokeTarget, Source, Validation};

use super::{
    judge::{Expected, USER, after, described, judge},
    nodes::{Nodes, SOON, failed, login, until_hit},
    report::{Checks, Outcome},
};
use crate::{app::App, check::Finding};

const NO_HIT: &str = "`session-testkit check` shows whether Redis permits SET, \
    EVALSHA and INFO and is a master. RUST_LOG=session_layer=debug shows the layer's errors";
const STALE: &str = "an entry was served after its session had ended. Check that REDIS_URL is \
                     one server, the same for every node, and not a proxy that reads from \
                     replicas. If it is, this is a bug of session-layer: please report it with \
                     RUST_LOG=session_layer=debug";
const WRONG: &str = "check that no other application writes into this schema or namespace. If \
                     none does, this is a bug of session-layer: please report it";

pub(super) async fn run(nodes: &Nodes<'_>, checks: &mut Checks<'_>) -> Outcome {
    let a = checks.need("miss", nodes.node())?;
    let b = checks.need("miss", nodes.node())?;
    let session = checks.need("miss", login(&a, USER, "one").await)?;
    let token = session.token.reveal();

    let first = a.send(token).await;
    let expected = Expected::data("one").from(Source::Store);
    let what = "First request: a miss, validated by Postgres";
    checks.must("miss", judge(what, &expected, [("node A", &first)], WRONG))?;

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
        "miss, fill, hit ({:.1} ms after the miss) on two nodes. Update, rotate, revoke, \
         revoke-all on one node affect both. Bypass and back",
        hit.as_secs_f64() * 1000.0
    ))
}

/// Checks that the cache serves the expected session.
async fn hit(
    checks: &mut Checks<'_>,
    name: &'static str,
    node: &App,
    token: &str,
    data: &str,
) -> Result<Duration, super::report::Stop> {
    let Some((waited, answer)) = until_hit(node, token).await else {
        let why = format!("no hit within {} s", SOON.as_secs());
        checks.must(name, Finding::failed("No hit", why, NO_HIT))?;
        return Ok(SOON);
    };
    let expected = Expected::data(data).from(Source::Cache);
    let what = match name {
        "other node" => "Another node serves the same entry",
        _ => "Filled: the cache serves the same user and data",
    };
    checks.must(name, judge(what, &expected, [("the cache", &answer)], WRONG))?;
    Ok(waited)
}

async fn update(checks: &mut Checks<'_>, a: &App, b: &App, token: &str) -> Stopped {
    let Validation::Valid(session) = a.sessions.validate(token).await else {
        let why = "the session of this run was no longer valid";
        return checks.must("update", Finding::failed("No update", why, WRONG));
    };
    let changed = a.sessions.update(&session, "two").await;
    let changed = changed.map_err(|error| failed("The session could not be updated", &error));
    let visibility = checks.need("update", changed)?.visibility;
    let seen = [("node A", &a.send(token).await), ("node B", &b.send(token).await)];
    let what = format!("Updated ({}): both nodes serve the new data", described(visibility));
    let finding = judge(&what, &Expected::data("two"), seen, STALE);
    checks.record("update", after(visibility, finding));
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
    let (new, visibility) = (changed.value.token.reveal().to_owned(), changed.visibility);
    let seen = [("node A", &a.send(old).await), ("node B", &b.send(old).await)];
    let what = format!("Rotated ({}): both nodes reject the old token", described(visibility));
    let finding = judge(&what, &Expected::Rejected(401), seen, STALE);
    checks.record("rotate", after(visibility, finding));
    let seen = [("node A", &a.send(&new).await), ("node B", &b.send(&new).await)];
    let what = "The new token is valid on both nodes";
    checks.must("rotate", judge(what, &Expected::data("two"), seen, WRONG))?;
    Ok(new)
}

async fn revoke(checks: &mut Checks<'_>, a: &App, b: &App, token: &str) -> Stopped {
    hit_both(checks, "revoke", [a, b], token, "two").await?;
    let changed = a.sessions.revoke(token).await;
    let changed = changed.map_err(|error| failed("The session could not be revoked", &error));
    let visibility = checks.need("revoke", changed)?.visibility;
    let seen = [("node A", &a.send(token).await), ("node B", &b.send(token).await)];
    let what = format!("Revoked ({}): neither node serves the entry", described(visibility));
    let finding = judge(&what, &Expected::Rejected(401), seen, STALE);
    checks.record("revoke", after(visibility, finding));
    Ok(())
}

async fn revoke_all(checks: &mut Checks<'_>, a: &App, b: &App) -> Stopped {
    let first = checks.need("revoke all", login(a, USER, "one").await)?;
    let second = checks.need("revoke all", login(b, USER, "one").await)?;
    let tokens = [first.token.reveal(), second.token.reveal()];
    for token in tokens {
        hit_both(checks, "revoke all", [a, b], token, "one").await?;
    }
    let changed = a.sessions.revoke(RevokeTarget::user(USER)).await;
    let changed = changed.map_err(|error| failed("The sessions could not be revoked", &error));
    let visibility = checks.need("revoke all", changed)?.visibility;
    let seen = [("the first", &b.send(tokens[0]).await), ("the second", &b.send(tokens[1]).await)];
    let what =
        format!("All sessions of a user revoked ({}): none is served", described(visibility));
    let finding = judge(&what, &Expected::Rejected(401), seen, STALE);
    checks.record("revoke all", after(visibility, finding));
    Ok(())
}

async fn bypass(checks: &mut Checks<'_>, a: &App, b: &App) -> Stopped {
    let kept = checks.need("bypass", login(a, USER, "one").await)?;
    let ended = checks.need("bypass", login(a, USER, "one").await)?;
    let (kept, ended) = (kept.token.reveal(), ended.token.reveal());
    for token in [kept, ended] {
        hit_both(checks, "bypass", [a, b], token, "one").await?;
    }
    a.sessions.set_mode(CacheMode::Bypass);
    let seen = a.send(kept).await;
    let expected = Expected::data("one").from(Source::Store);
    let what = "Bypass: Postgres validates although there is an entry";
    checks.record("bypass", judge(what, &expected, [("node A", &seen)], WRONG));
    let changed = a.sessions.revoke(ended).await;
    let changed = changed.map_err(|error| failed("The session could not be revoked", &error));
    let visibility = checks.need("bypass", changed)?.visibility;
    a.sessions.set_mode(CacheMode::On);
    let seen = [("node A", &a.send(ended).await), ("node B", &b.send(ended).await)];
    let what = "Switched on again: a session revoked meanwhile is not served";
    let finding = judge(what, &Expected::Rejected(401), seen, STALE);
    checks.record("bypass", after(visibility, finding));
    let seen = a.send(kept).await;
    let expected = Expected::data("one").from(Source::Cache);
    let what = "Switched on again: the cache serves entries";
    checks.record("bypass", judge(what, &expected, [("node A", &seen)], NO_HIT));
    Ok(())
}

type Stopped = Result<(), super::report::Stop>;

/// Waits for entries on both nodes. Without them, their removal would prove nothing.
async fn hit_both(
    checks: &mut Checks<'_>,
    name: &'static str,
    nodes: [&App; 2],
    token: &str,
    data: &str,
) -> Stopped {
    for node in nodes {
        let Some((_, answer)) = until_hit(node, token).await else {
            let why = format!("no hit within {} s", SOON.as_secs());
            return checks.must(name, Finding::failed("No hit before the change", why, NO_HIT));
        };
        if let Some(objection) = Expected::data(data).objection(&answer) {
            return checks.must(name, Finding::failed("A wrong entry", objection, WRONG));
        }
    }
    Ok(())
}
