//! Stage 3: an entry is filled, is served on every node, and is removed when its session changes.

use std::time::Duration;

use session_layer::{CacheMode, Error, RevokeTarget, Source, Validation, Visibility};

use super::{
    judge::{Expected, USER, after, described, judge},
    nodes::{Nodes, SOON, failed, login, until_hit},
    report::Outcome,
};
use crate::app::App;
use session_tools::check::{Finding, Steps, Stop};

const NO_HIT: &str = "`sessionctl check` shows whether Redis permits SET, \
    EVALSHA and INFO and is a master. RUST_LOG=session_layer=debug shows the layer's errors";
const STALE: &str = "an entry was served after its session had ended. Check that REDIS_URL is \
                     one server, the same for every node, and not a proxy that reads from \
                     replicas. If it is, this is a bug of session-layer: please report it with \
                     RUST_LOG=session_layer=debug";
const WRONG: &str = "check that no other application writes into this schema or namespace. If \
                     none does, this is a bug of session-layer: please report it";

pub(super) async fn run(nodes: &Nodes<'_>, checks: &mut Steps<'_>) -> Outcome {
    let [a, b] = [(); 2].map(|()| nodes.node());
    let (a, b) = (checks.need("miss", a)?, checks.need("miss", b)?);
    let mut pair = Pair { checks, a: &a, b: &b };
    let token = pair.login("miss").await?;

    let seen = a.send(&token).await;
    let expected = Expected::data("one").from(Source::Store);
    let what = "First request: a miss, validated by Postgres";
    pair.checks.must("miss", judge(what, &expected, [("node A", &seen)], WRONG))?;

    nodes.no_hits.set(true);
    let hit = pair.hit("hit", &a, &token, "one").await?;
    nodes.no_hits.set(false);
    let what = "Filled: the cache serves the same user and data";
    pair.checks.record("hit", Finding::ok(what));
    pair.hit("other node", &b, &token, "one").await?;
    pair.checks.record("other node", Finding::ok("Another node serves the same entry"));

    pair.update(&token).await?;
    let token = pair.rotate(&token).await?;
    pair.revoke(&token).await?;
    pair.revoke_all().await?;
    pair.bypass().await?;
    for node in [a, b] {
        let _late = node.sessions.shutdown(SOON).await;
    }
    Ok(format!(
        "miss, fill, hit ({:.1} ms after the miss) on two nodes. Update, rotate, revoke, \
         revoke-all on one node affect both. Bypass and back",
        hit.as_secs_f64() * 1000.0
    ))
}

/// Two nodes, and the checks of them.
struct Pair<'a, 'n> {
    checks: &'a mut Steps<'n>,
    a: &'a App,
    b: &'a App,
}

impl Pair<'_, '_> {
    /// Logs in on node A and returns the token.
    async fn login(&mut self, step: &'static str) -> Result<String, Stop> {
        let created = self.checks.need(step, login(self.a, USER, "one").await)?;
        Ok(created.token.reveal().to_owned())
    }

    /// Waits for a hit with the expected data.
    async fn hit(
        &mut self,
        step: &'static str,
        node: &App,
        token: &str,
        data: &str,
    ) -> Result<Duration, Stop> {
        let Some((waited, answer)) = until_hit(node, token).await else {
            let why = format!("no hit within {} s", SOON.as_secs());
            return Err(self.checks.stop(step, Finding::failed("No hit", why, NO_HIT)));
        };
        match Expected::data(data).objection(&answer) {
            None => Ok(waited),
            Some(why) => Err(self.checks.stop(step, Finding::failed("A wrong entry", why, WRONG))),
        }
    }

    /// Waits for entries on both nodes. Without them, their removal would prove nothing.
    async fn hit_both(&mut self, step: &'static str, token: &str, data: &str) -> Result<(), Stop> {
        for node in [self.a, self.b] {
            self.hit(step, node, token, data).await?;
        }
        Ok(())
    }

    /// Judges the responses of both nodes to these tokens after a change on node A.
    async fn changed(
        &mut self,
        step: &'static str,
        (done, then): (&str, &str),
        changed: Result<Visibility, Error>,
        tokens: &[&str],
        expected: &Expected<'_>,
    ) -> Result<(), Stop> {
        let changed = changed.map_err(|error| failed("The change could not be made", &error));
        let visibility = self.checks.need(step, changed)?;
        let mut seen = Vec::new();
        for token in tokens {
            seen.push(("node A", self.a.send(token).await));
            seen.push(("node B", self.b.send(token).await));
        }
        let seen = seen.iter().map(|(node, answer)| (*node, answer));
        let what = format!("{done} ({}): {then}", described(visibility));
        let finding = judge(&what, expected, seen, STALE);
        self.checks.record(step, after(visibility, finding));
        Ok(())
    }

    async fn update(&mut self, token: &str) -> Result<(), Stop> {
        let Validation::Valid(session) = self.a.sessions.validate(token).await else {
            let why = "the session of this run was no longer valid";
            return Err(self.checks.stop("update", Finding::failed("No update", why, WRONG)));
        };
        let changed = self.a.sessions.update(&session, "two").await.map(|it| it.visibility);
        let what = ("Updated", "both nodes serve the new data");
        self.changed("update", what, changed, &[token], &Expected::data("two")).await
    }

    async fn rotate(&mut self, old: &str) -> Result<String, Stop> {
        self.hit_both("rotate", old, "two").await?;
        let changed = self.a.sessions.rotate(old, Duration::ZERO).await;
        let new = changed.as_ref().map(|it| it.value.token.reveal().to_owned()).unwrap_or_default();
        let changed = changed.map(|it| it.visibility);
        let what = ("Rotated", "both nodes reject the old token");
        self.changed("rotate", what, changed, &[old], &Expected::Rejected(401)).await?;
        let seen = [("node A", &self.a.send(&new).await), ("node B", &self.b.send(&new).await)];
        let what = "The new token is valid on both nodes";
        self.checks.must("rotate", judge(what, &Expected::data("two"), seen, WRONG))?;
        Ok(new)
    }

    async fn revoke(&mut self, token: &str) -> Result<(), Stop> {
        self.hit_both("revoke", token, "two").await?;
        let changed = self.a.sessions.revoke(token).await.map(|it| it.visibility);
        let what = ("Revoked", "neither node serves the entry");
        self.changed("revoke", what, changed, &[token], &Expected::Rejected(401)).await
    }

    async fn revoke_all(&mut self) -> Result<(), Stop> {
        const STEP: &str = "revoke all";
        let (first, second) = (self.login(STEP).await?, self.login(STEP).await?);
        for token in [&first, &second] {
            self.hit_both(STEP, token, "one").await?;
        }
        let changed = self.a.sessions.revoke(RevokeTarget::user(USER)).await;
        let changed = changed.map(|it| it.visibility);
        let what = ("All sessions of a user revoked", "none is served");
        self.changed(STEP, what, changed, &[&first, &second], &Expected::Rejected(401)).await
    }

    async fn bypass(&mut self) -> Result<(), Stop> {
        const STEP: &str = "bypass";
        let (kept, ended) = (self.login(STEP).await?, self.login(STEP).await?);
        for token in [&kept, &ended] {
            self.hit_both(STEP, token, "one").await?;
        }
        self.a.sessions.set_mode(CacheMode::Bypass);
        let what = "Bypass: Postgres validates although there is an entry";
        self.served_from(Source::Store, what, &kept, WRONG).await;
        let changed = self.a.sessions.revoke(ended.as_str()).await.map(|it| it.visibility);
        self.a.sessions.set_mode(CacheMode::On);
        let what = ("Revoked during bypass", "not served after the cache is switched on again");
        self.changed(STEP, what, changed, &[&ended], &Expected::Rejected(401)).await?;
        let what = "Switched on again: the cache serves entries";
        self.served_from(Source::Cache, what, &kept, NO_HIT).await;
        Ok(())
    }

    async fn served_from(&mut self, source: Source, what: &str, token: &str, help: &str) {
        let expected = Expected::data("one").from(source);
        let seen = self.a.send(token).await;
        self.checks.record("bypass", judge(what, &expected, [("node A", &seen)], help));
    }
}
