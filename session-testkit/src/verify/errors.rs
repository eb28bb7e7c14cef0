//! Stage 5: garbage in requests, garbage in Redis, and both servers unreachable.

use http::{
    HeaderName,
    header::{AUTHORIZATION, COOKIE},
};
use redis::{RedisResult, aio::MultiplexedConnection, cmd};
use session_layer::Source;
use session_layer::limits::MAX_TOKEN_BYTES;

use super::{
    judge::{Expected, USER, judge},
    nodes::{Nodes, SOON, failed, login, no_entries, no_proxy, until_hit},
    report::Outcome,
};
use crate::{app::App, proxy::Toxic, subject::Token};
use session_tools::check::{Finding, Steps, Stop};

/// The format of the keys. The check fails for another format, because it finds no entry.
const KEY_FORMAT: u32 = 2;

const REPORT: &str =
    "this does not depend on the servers. It is a bug of session-layer: please report it";
const GARBAGE: &str = "Redis may contain anything without harm. This is a bug of \
    session-layer: please report it with RUST_LOG=session_layer=debug";

pub(super) async fn run(nodes: &Nodes<'_>, checks: &mut Steps<'_>) -> Outcome {
    let app = checks.need("requests", nodes.node())?;
    let requests = requests(checks, &app).await;
    let planted = planted(checks, nodes, &app).await;
    let _late = app.sessions.shutdown(SOON).await;
    unreachable(checks, nodes).await?;
    let planted = planted?;
    Ok(format!(
        "{requests} malformed or unknown requests: 400, 401. {planted} kinds of garbage in Redis: \
         misses, then hits again. Both servers unreachable: 503"
    ))
}

type Carries<'a> = Vec<(HeaderName, &'a str)>;

fn bearer(value: &str) -> Carries<'_> {
    vec![(AUTHORIZATION, value)]
}

/// Sends requests with missing, unknown and malformed tokens. Returns their number.
async fn requests(checks: &mut Steps<'_>, app: &App) -> usize {
    let unknown =
        format!("Bearer {}", Token::base64url(*b"a token that was not ever issued").reveal());
    let long = format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1));
    let cases: [(&'static str, Carries<'_>, u16); 8] = [
        ("no token", vec![], 401),
        ("an unknown token", bearer(&unknown), 401),
        ("a malformed Bearer token", bearer("Bearer no/token,at all"), 400),
        ("a Bearer token over the size", bearer(&long), 400),
        ("two Bearer tokens", vec![(AUTHORIZATION, &unknown), (AUTHORIZATION, &unknown)], 400),
        ("Bearer without a token", bearer("Bearer "), 400),
        ("another scheme", bearer("Basic dXNlcjpwYXNz"), 401),
        ("a cookie with a malformed token", vec![(COOKIE, "session=garbage")], 401),
    ];
    let mut unauthorized = Vec::new();
    for (carries, fields, status) in &cases {
        let seen = app.get(fields).await;
        let what = format!("A request with {carries}: {status}");
        let finding = judge(&what, &Expected::Rejected(*status), [("the request", &seen)], REPORT);
        checks.record("requests", finding);
        if *status == 401 {
            unauthorized.push(seen.body);
        }
    }
    let alike = unauthorized.windows(2).all(|pair| pair[0] == pair[1]);
    let what = "Every 401 has the same body, which does not reveal the reason";
    let differ = || Finding::failed(what, "their bodies differ", REPORT);
    checks.record("requests", if alike { Finding::ok(what) } else { differ() });
    cases.len()
}

/// Plants garbage under the key of a cached session. Returns the number of kinds.
async fn planted(checks: &mut Steps<'_>, nodes: &Nodes<'_>, app: &App) -> Result<usize, Stop> {
    if nodes.no_hits.get() {
        checks.record("garbage", no_entries());
        return Ok(0);
    }
    let session = checks.need("garbage", login(app, USER, "one").await)?;
    let token = session.token.reveal();
    let key = format!(
        "{}:{KEY_FORMAT}:{}",
        nodes.sandbox.namespace(),
        session.token.digest().to_base64url()
    );
    let unwritten = "Garbage could not be written to Redis";
    let redis = nodes.backends.redis().connect().await;
    let mut redis = checks.need("garbage", redis.map_err(|error| failed(unwritten, &error)))?;
    let kinds: [(&'static str, &[&[u8]]); 5] = [
        ("text", &[b"SET", b"garbage"]),
        ("an empty string", &[b"SET", b""]),
        ("the beginning of an entry", &[b"SET", b"Vp\x01\x02\x03"]),
        ("bytes", &[b"SET", &[0xff; 4096]]),
        ("a list", &[b"RPUSH", b"garbage"]),
    ];
    for (kind, words) in &kinds {
        if until_hit(app, token).await.is_none() {
            let why = "the session was not cached before, therefore nothing was examined";
            let help = "see the stage \"caching integration\"";
            return Err(checks.stop("garbage", Finding::failed("No hit", why, help)));
        }
        let put = put(&mut redis, &key, words).await;
        let existed = checks.need("garbage", put.map_err(|error| failed(unwritten, &error)))?;
        if !existed {
            let why = format!("there is no entry under the key {key}");
            return Err(checks.stop("garbage", Finding::failed("No entry", why, REPORT)));
        }
        let seen = app.send(token).await;
        let what = format!("Under its key in Redis is {kind}: a miss, validated by Postgres");
        let expected = Expected::data("one").from(Source::Store);
        checks.record("garbage", judge(&what, &expected, [("the request", &seen)], GARBAGE));
    }
    let what = "The cache serves entries again";
    let stays = || Finding::failed(what, "the garbage was not replaced", GARBAGE);
    let hit = until_hit(app, token).await;
    checks.record("garbage", hit.map_or_else(stays, |_| Finding::ok(what)));
    Ok(kinds.len())
}

/// Replaces the value of a key. Returns whether there was one.
async fn put(redis: &mut MultiplexedConnection, key: &str, words: &[&[u8]]) -> RedisResult<bool> {
    let existed: u64 = cmd("UNLINK").arg(key).query_async(redis).await?;
    cmd(&String::from_utf8_lossy(words[0])).arg(key).arg(&words[1..]).exec_async(redis).await?;
    // The garbage expires even if the sandbox is not cleaned up.
    let _expires: u64 = cmd("PEXPIRE").arg(key).arg(300_000).query_async(redis).await?;
    Ok(existed == 1)
}

/// Checks the response without both servers, which must be 503 and not 401.
async fn unreachable(checks: &mut Steps<'_>, nodes: &Nodes<'_>) -> Result<(), Stop> {
    let routes = (
        checks.need("unreachable", nodes.redis_route().await)?,
        checks.need("unreachable", nodes.postgres_route().await)?,
    );
    let (Some(redis), Some(postgres)) = routes else {
        checks.record("unreachable", no_proxy());
        return Ok(());
    };
    let app = checks.need("unreachable", nodes.node_on(&redis.url, &postgres.url))?;
    let session = checks.need("unreachable", login(&app, USER, "one").await)?;
    let token = session.token.reveal();
    let before = app.send(token).await;
    let cut = [&redis, &postgres].map(|route| route.proxy.inject(Toxic::down()));
    let seen = app.send(token).await;
    let what = "Both servers unreachable: 503 with Retry-After, not 401";
    let expected = Expected::Rejected(503);
    let mut finding = judge(what, &expected, [("the request", &seen)], REPORT);
    if let Some(objection) = Expected::data("one").objection(&before) {
        finding =
            Finding::failed(what, format!("before the servers were cut off: {objection}"), REPORT);
    }
    checks.record("unreachable", finding);
    drop(cut);
    let _late = app.sessions.shutdown(SOON).await;
    Ok(())
}
