//! Stage 5: garbage in requests, garbage in Redis, and nobody there to ask.

use http::{
    HeaderName,
    header::{AUTHORIZATION, COOKIE},
};
use redis::{RedisResult, aio::MultiplexedConnection, cmd};
use session_layer::{MAX_TOKEN_BYTES, Tier};

use super::{
    judge::{Expected, USER, answers},
    nodes::{Nodes, SOON, failed, login, no_copies, no_line, until_hit},
    report::{Checks, Outcome, Stop},
};
use crate::{app::App, check::Finding, proxy::Toxic, subject::Token};

/// The format of today's keys. That there is something under such a key is checked first, so a newer one
/// can't go unnoticed.
const KEY_FORMAT: u32 = 1;

const REPORT: &str =
    "this does not depend on the servers: a bug of session-layer, please report it";
const GARBAGE: &str = "Redis must be able to contain anything without harm: a bug of session-layer, please report it with \
    RUST_LOG=session_layer=debug";

pub(super) async fn run(nodes: &Nodes<'_>, checks: &mut Checks<'_>) -> Outcome {
    let app = checks.need("requests", nodes.node())?;
    let requests = requests(checks, &app).await;
    let planted = planted(checks, nodes, &app).await;
    let _late = app.sessions.shutdown(SOON).await;
    nobody(checks, nodes).await?;
    let planted = planted?;
    Ok(format!(
        "{requests} malformed or unknown requests: 400, 401; {planted} kinds of garbage in Redis: misses, then hits again; \
         nobody to ask: 503"
    ))
}

type Carries<'a> = Vec<(HeaderName, &'a str)>;

fn bearer(value: &str) -> Carries<'_> {
    vec![(AUTHORIZATION, value)]
}

/// What a request carries, and what it gets.
async fn requests(checks: &mut Checks<'_>, app: &App) -> usize {
    let unknown = format!(
        "Bearer {}",
        Token::base64url(*b"nobody ever gave out this token!").reveal()
    );
    let long = format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1));
    let cases: [(&'static str, Carries<'_>, u16); 8] = [
        ("no token", vec![], 401),
        ("an unknown token", bearer(&unknown), 401),
        (
            "a Bearer token that is none",
            bearer("Bearer no/token,at all"),
            400,
        ),
        ("a Bearer token over the size", bearer(&long), 400),
        (
            "two Bearer tokens",
            vec![(AUTHORIZATION, &unknown), (AUTHORIZATION, &unknown)],
            400,
        ),
        ("Bearer and nothing behind it", bearer("Bearer "), 400),
        ("another scheme", bearer("Basic dXNlcjpwYXNz"), 401),
        (
            "a cookie that is no token",
            vec![(COOKIE, "session=garbage")],
            401,
        ),
    ];
    let mut unauthorized = Vec::new();
    for (carries, fields, status) in &cases {
        let seen = app.get(fields).await;
        let what = format!("A request with {carries}: {status}");
        let finding = answers(
            &what,
            &Expected::Rejected(*status),
            [("it was", &seen)],
            REPORT,
        );
        checks.note("requests", finding);
        if *status == 401 {
            unauthorized.push(seen.body);
        }
    }
    let alike = unauthorized.windows(2).all(|pair| pair[0] == pair[1]);
    let what = "Every 401 has one and the same body: it tells nobody why";
    checks.note(
        "requests",
        if alike {
            Finding::ok(what)
        } else {
            Finding::failed(what, "their bodies differ", REPORT)
        },
    );
    cases.len()
}

/// What is put under the key of a session that is cached; answers how many kinds of it.
async fn planted(checks: &mut Checks<'_>, nodes: &Nodes<'_>, app: &App) -> Result<usize, Stop> {
    if nodes.no_hits.get() {
        checks.note("garbage", no_copies());
        return Ok(0);
    }
    let session = checks.need("garbage", login(app, USER, "one").await)?;
    let token = session.token.reveal();
    let key = format!(
        "{}:{KEY_FORMAT}:{}",
        nodes.sandbox.namespace(),
        session.token.digest().to_base64url()
    );
    let redis = nodes.backends.redis().connect().await;
    let mut redis = checks.need(
        "garbage",
        redis.map_err(|error| failed("Nothing could be put into Redis", &error)),
    )?;
    let kinds: [(&'static str, &[&[u8]]); 5] = [
        ("text", &[b"SET", b"garbage"]),
        ("nothing at all", &[b"SET", b""]),
        ("the beginning of an entry", &[b"SET", b"Vp\x01\x02\x03"]),
        ("bytes", &[b"SET", &[0xff; 4096]]),
        ("a list", &[b"RPUSH", b"garbage"]),
    ];
    for (kind, words) in &kinds {
        if until_hit(app, token).await.is_none() {
            let why = "the session was not cached before, so nothing could be examined";
            let help = "see the stage \"caching integration\"";
            checks.must("garbage", Finding::failed("No hit", why, help))?;
        }
        let put = put(&mut redis, &key, words).await;
        let there = checks.need(
            "garbage",
            put.map_err(|error| failed("Nothing could be put into Redis", &error)),
        )?;
        if !there {
            let why = format!("there is no copy under the key {key}");
            checks.must("garbage", Finding::failed("No copy", why, REPORT))?;
        }
        let seen = app.ask(token).await;
        let what = format!("Under its key in Redis is {kind}: a miss, Postgres answers");
        let expected = Expected::data("one").from(Tier::Store);
        checks.note(
            "garbage",
            answers(&what, &expected, [("it was", &seen)], GARBAGE),
        );
    }
    let what = "And the cache answers again";
    checks.note(
        "garbage",
        match until_hit(app, token).await {
            Some(_) => Finding::ok(what),
            None => Finding::failed(what, "garbage stayed where it was", GARBAGE),
        },
    );
    Ok(kinds.len())
}

/// Replaces what is under a key; answers whether there was something.
async fn put(redis: &mut MultiplexedConnection, key: &str, words: &[&[u8]]) -> RedisResult<bool> {
    let there: u64 = cmd("UNLINK").arg(key).query_async(redis).await?;
    cmd(&String::from_utf8_lossy(words[0]))
        .arg(key)
        .arg(&words[1..])
        .exec_async(redis)
        .await?;
    // Should the sandbox not be cleaned up, this is not what stays for ever.
    let _expires: u64 = cmd("PEXPIRE")
        .arg(key)
        .arg(300_000)
        .query_async(redis)
        .await?;
    Ok(there == 1)
}

/// Both servers cut off: the request is told to come again, not that its session has ended.
async fn nobody(checks: &mut Checks<'_>, nodes: &Nodes<'_>) -> Result<(), Stop> {
    let lines = (
        checks.need("nobody", nodes.redis_line().await)?,
        checks.need("nobody", nodes.postgres_line().await)?,
    );
    let (Some(redis), Some(postgres)) = lines else {
        checks.note("nobody", no_line());
        return Ok(());
    };
    let app = checks.need("nobody", nodes.node_on(&redis.url, &postgres.url))?;
    let session = checks.need("nobody", login(&app, USER, "one").await)?;
    let token = session.token.reveal();
    let before = app.ask(token).await;
    let cut = [&redis, &postgres].map(|line| line.proxy.inject(Toxic::down()));
    let seen = app.ask(token).await;
    let what = "Neither server answers: 503 with Retry-After, not 401";
    let expected = Expected::Rejected(503);
    let mut finding = answers(what, &expected, [("it was", &seen)], REPORT);
    if let Some(objection) = Expected::data("one").objection(&before) {
        finding = Finding::failed(
            what,
            format!("before the servers were cut off: {objection}"),
            REPORT,
        );
    }
    checks.note("nobody", finding);
    drop(cut);
    let _late = app.sessions.shutdown(SOON).await;
    Ok(())
}
