//! The page and the code list the same spans, and a collector gets them with their parents, without
//! a secret.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is a failure with its location")]

mod collector;
mod recorder;

use std::collections::BTreeSet;
use std::fs;

use futures_util::future::join_all;
use session_layer::cache::NoCache;
use session_layer::traces::{SPANS, SpanDescription, TARGET};
use session_layer::{Sessions, TokenDigest};
use session_testkit::backends::Backends;
use session_testkit::wait;
use tempfile::TempDir;
use tokio::net::TcpListener;

use self::collector::{Collector, Exported};
use self::recorder::Recorder;
use super::metrics::root;
use crate::examples::quickstart::process::{App, Login, env_of};
use crate::harness::{Outcome, default_backend};
use crate::support::{SOON, Servers, ask, login, until_hit};

const USER: &str = "alice-of-the-traces";

/// Returns the row of a span in the table of `docs/tracing.md`.
fn row(span: &SpanDescription) -> String {
    let attributes: Vec<_> = span.attributes.iter().map(|name| format!("`{name}`")).collect();
    let attributes = if attributes.is_empty() { "–".to_owned() } else { attributes.join(", ") };
    let (name, kind, help) = (span.name, span.kind, span.help);
    format!("| `{name}` | {kind} | {attributes} | {help} |")
}

#[test]
fn page_has_the_table_of_the_code() {
    let page = fs::read_to_string(root().join("docs/tracing.md")).unwrap();
    let written: Vec<_> = page.lines().filter(|line| line.starts_with("| `session.")).collect();
    let expected: Vec<_> = SPANS.iter().map(row).collect();
    assert_eq!(written, expected, "docs/tracing.md needs these rows:\n{}", expected.join("\n"));
    assert!(page.contains(&format!("`{TARGET}`")));
}

/// Asserts that the catalog has this span with all of its attributes.
fn assert_described(span: &Exported) {
    let name = match span.text("db.system.name") {
        Some("redis") => "session.redis.command",
        Some("postgresql") => "session.store.call",
        _ => &span.name,
    };
    let described = SPANS.iter().find(|it| it.name == name);
    let described = described.unwrap_or_else(|| panic!("no span {name}: {span:?}"));
    assert_eq!(span.kind, described.kind, "{span:?}");
    for attribute in span.attributes.keys().filter(|name| *name != "error.type") {
        assert!(described.attributes.contains(&attribute.as_str()), "{attribute}: {span:?}");
    }
}

/// A trace that a client began.
struct Trace {
    id: String,
    header: String,
}

/// The span of the client that sent the request.
const CLIENT: &str = "00f067aa0ba902b7";

impl Trace {
    fn begin(number: u8) -> Self {
        let id = format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}");
        let header = format!("00-{id}-{CLIENT}-01");
        Self { id, header }
    }
}

async fn ask_in(app: &App, trace: &Trace, method: &str, path: &str, login: &Login) -> u16 {
    let fields = [("Authorization", &*login.bearer), ("traceparent", &*trace.header)];
    app.send(method, path, &fields).await.unwrap().status
}

/// Asks for `/me` in new traces until the validation had this result of the look-up. Returns the
/// trace. On a busy machine Redis may miss its deadline.
async fn me_until(
    app: &App,
    collector: &Collector,
    login: &Login,
    numbers: std::ops::Range<u8>,
    result: &str,
) -> Vec<Exported> {
    for number in numbers {
        let trace = Trace::begin(number);
        assert_eq!(ask_in(app, &trace, "GET", "/me", login).await, 200);
        let spans = collector.trace(&trace.id, "GET /me").await;
        let look_up = spans.iter().find(|span| span.name == "session.cache.look_up").unwrap();
        if look_up.text("session_layer.result") == Some(result) {
            return spans;
        }
    }
    panic!("no look-up with the result {result}");
}

/// Returns each span as `parent > name`, sorted. The parent of the first is the client's span.
fn tree(spans: &[Exported]) -> Vec<String> {
    let name_of = |id: &str| spans.iter().find(|span| span.id == id).map(|span| &*span.name);
    let lines = spans.iter().map(|span| {
        let parent =
            name_of(&span.parent).unwrap_or(if span.parent == CLIENT { "client" } else { "?" });
        format!("{parent} > {}", span.name)
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

fn named<'a>(spans: &'a [Exported], name: &str) -> &'a Exported {
    let found = spans.iter().find(|span| span.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {:#?}", tree(spans)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collector_gets_the_spans_of_requests_and_no_secret() -> Outcome {
    let servers = Backends::builder().backend(default_backend().await?).start().await?;
    let collector = Collector::start().await?;
    let sandbox = servers.sandbox();
    let mut env = env_of(&sandbox);
    env.push(("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()));
    env.push(("OTEL_EXPORTER_OTLP_HEADERS", "x-team=sessions".to_owned()));
    env.push(("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()));
    env.push(("OTEL_SERVICE_NAME", "shop".to_owned()));
    let app = App::start(TempDir::new()?, &env).await?;
    // The node serves entries from its first read of the journal on.
    let warm = app.login("warm").await?;
    wait::until("a hit", SOON, async || app.source(&warm).await.is_ok_and(|it| it == "hit"))
        .await?;

    let trace = Trace::begin(0);
    let body = format!(r#"{{"user":"{USER}"}}"#);
    let fields = [("Content-Type", "application/json"), ("traceparent", &*trace.header)];
    let answer = app.ask_with("POST", "/login", &fields, &body).await?;
    assert_eq!(answer.status, 201, "{answer:?}");
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let id = answer.json()["sessionId"].as_str().unwrap().to_owned();
    let alice = Login { id: id.clone(), cookie: String::new(), bearer: format!("Bearer {token}") };
    let logged_in = collector.trace(&trace.id, "POST /login").await;
    assert_eq!(
        tree(&logged_in),
        [
            "POST /login > session.begin_login",
            "POST /login > session.create",
            "client > POST /login",
            "session.begin_login > SELECT sessions",
            "session.create > INSERT sessions",
        ]
    );
    assert_eq!(named(&logged_in, "POST /login").kind, "server");
    assert_eq!(named(&logged_in, "POST /login").text("http.route"), Some("/login"));

    let missed = me_until(&app, &collector, &alice, 1..2, "miss").await;
    assert_eq!(
        tree(&missed),
        [
            "GET /me > session.validate",
            "client > GET /me",
            "session.cache.look_up > GET",
            "session.cache.look_up > SET",
            "session.store.read > SELECT sessions",
            "session.validate > session.cache.look_up",
            "session.validate > session.store.read",
        ]
    );
    let validate = named(&missed, "session.validate");
    assert_eq!(validate.text("session_layer.source"), Some("store"));
    assert_eq!(validate.text("session_layer.result"), Some("valid"));
    let read = named(&missed, "SELECT sessions");
    assert_eq!(read.text("db.system.name"), Some("postgresql"));
    assert_eq!(read.text("session_layer.operation"), Some("load"));
    // The fill came after the response, so it has a trace of its own and a link to the wait.
    let wait = &named(&missed, "session.store.read").id;
    let filled = collector.linked_to(wait).await;
    assert_eq!(
        tree(&filled),
        [
            "? > session.background",
            "session.background > session.cache.fill",
            "session.cache.fill > EVALSHA"
        ]
    );
    assert_eq!(named(&filled, "session.background").parent, "");

    let hit = me_until(&app, &collector, &alice, 10..40, "hit").await;
    assert_eq!(
        tree(&hit),
        [
            "GET /me > session.validate",
            "client > GET /me",
            "session.cache.look_up > GET",
            "session.validate > session.cache.look_up",
        ]
    );
    assert_eq!(named(&hit, "session.validate").text("session_layer.source"), Some("cache"));
    assert_eq!(named(&hit, "GET").text("db.operation.name"), Some("GET"));

    let trace = Trace::begin(50);
    assert_eq!(ask_in(&app, &trace, "POST", "/logout", &alice).await, 200);
    let revoked = collector.trace(&trace.id, "POST /logout").await;
    let changes: Vec<_> =
        tree(&revoked).into_iter().filter(|line| !line.contains("look_up")).collect();
    for line in [
        "POST /logout > session.revoke",
        "session.revoke > UPDATE sessions",
        "session.revoke > session.cache.fence",
        "session.cache.fence > SET",
        "session.revoke > session.cache.invalidate",
        "session.cache.invalidate > UNLINK",
    ] {
        assert!(changes.iter().any(|it| it == line), "{line}: {changes:#?}");
    }
    let result = named(&revoked, "session.revoke").text("session_layer.result");
    assert_eq!(result, Some("propagated"));

    servers.redis().kill().await?;
    let degraded = me_until(&app, &collector, &warm, 60..61, "error").await;
    let validate = named(&degraded, "session.validate");
    assert_eq!(validate.text("session_layer.source"), Some("store"));
    assert_eq!(validate.text("session_layer.degraded"), Some("true"));
    let look_up = named(&degraded, "session.cache.look_up");
    assert!(look_up.is_error && look_up.text("error.type").is_some(), "{look_up:?}");
    assert!(!validate.is_error, "Postgres answered: {validate:?}");

    // The last spans are exported at the stop.
    let trace = Trace::begin(70);
    assert_eq!(ask_in(&app, &trace, "GET", "/me", &warm).await, 200);
    let (status, ..) = app.stop().await?;
    assert!(status.success(), "{status}");
    assert!(collector.has(&trace.id), "the last trace was not flushed");

    let spans = collector.spans();
    for span in spans.iter().filter(|span| span.scope_is_ours) {
        assert_described(span);
    }
    let (bytes, heads) = collector.received();
    assert!(heads.contains("x-team: sessions"), "{heads}");
    assert!(contains(&bytes, b"shop"), "the service's name");
    let digest = TokenDigest::of(&token);
    let hex: String = digest.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    for secret in
        [token.as_bytes(), digest.as_bytes(), hex.as_bytes(), id.as_bytes(), USER.as_bytes()]
    {
        assert!(!contains(&bytes, secret), "{}", String::from_utf8_lossy(secret));
    }
    Ok(())
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_collector_harms_no_request() -> Outcome {
    // No server listens there any more.
    let nowhere = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{nowhere}")),
        ("OTEL_BSP_SCHEDULE_DELAY", "20".to_owned()),
    ];
    let app = App::start(TempDir::new()?, &env).await?;
    let alice = app.login("alice").await?;
    let lost = "traces are lost";
    wait::until("a failed export", SOON, async || app.log().contains(lost)).await?;
    for _ in 0..20 {
        assert_eq!(app.me(&alice).await?.status, 200);
    }
    assert_eq!(app.log().matches(lost).count(), 1, "{}", app.log());
    let (status, took, _) = app.stop().await?;
    assert!(status.success() && took.as_secs() < 8, "{status} after {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_settings_of_the_export_stop_the_start() -> Outcome {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318".to_owned());
    for (env, words) in [
        (
            vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:hunter2@collector".to_owned())],
            ["OTEL_EXPORTER_OTLP_ENDPOINT", "http://HOST:4318"],
        ),
        (
            vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hunter2@host:bad port".to_owned())],
            ["OTEL_EXPORTER_OTLP_ENDPOINT", "http://HOST:4318"],
        ),
        (
            vec![endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".to_owned())],
            ["OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"],
        ),
    ] {
        let (status, log) = App::start_in_vain(&env).await?;
        assert!(!status.success(), "{env:?}");
        assert!(words.iter().all(|word| log.contains(word)), "{log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
    Ok(())
}

// With one thread, the callers run until each waits. The first is alone, and the others share the
// next command.
#[tokio::test]
async fn shared_work_is_linked_to_its_callers_and_child_of_none() -> Outcome {
    let servers = Servers::own().await?;
    let (sessions, alice) = servers.cached().await?;
    until_hit(&sessions, &alice).await?;
    let recorder = Recorder::default();
    let recording = recorder.keep();
    join_all((0..8).map(|_| ask(&sessions, &alice))).await;
    drop(recording);
    assert_shared(&recorder, "MGET", "session.cache.look_up");

    let store = servers.store().await?;
    let sessions = Sessions::builder(NoCache, store).max_concurrent_reads(1).build()?;
    let bob = login(&sessions, "bob").await?;
    let recorder = Recorder::default();
    let recording = recorder.keep();
    join_all((0..8).map(|_| ask(&sessions, &bob))).await;
    drop(recording);
    assert_shared(&recorder, "SELECT sessions", "session.store.read");
    Ok(())
}

/// Asserts that a command with several callers is in a trace of its own, with links both ways.
fn assert_shared(recorder: &Recorder, command: &str, wait: &str) {
    let spans = recorder.spans();
    let shared: Vec<_> = spans.iter().filter(|it| it.name == "session.shared_read").collect();
    assert!(!shared.is_empty(), "{spans:#?}");
    let mut callers = BTreeSet::new();
    for shared in shared {
        assert_eq!(shared.parent, None);
        let children: Vec<_> = spans.iter().filter(|it| it.parent == Some(shared.id)).collect();
        assert!(children.iter().any(|it| it.otel_name == command), "{command}: {children:?}");
        assert!(shared.follows.len() > 1, "{shared:?}");
        for caller in &shared.follows {
            let caller = spans.iter().find(|it| it.id == *caller).unwrap();
            assert_eq!(caller.name, wait);
            assert!(caller.follows.contains(&shared.id), "{caller:?}");
            assert!(caller.parent.is_some(), "{caller:?}");
            callers.insert(caller.id);
        }
    }
    // The first caller is alone, so its command is its child.
    let alone = spans.iter().filter(|it| it.name == wait && !callers.contains(&it.id));
    for caller in alone {
        assert!(spans.iter().any(|it| it.parent == Some(caller.id)), "{caller:?} in {spans:#?}");
    }
}

// The work of loops is in no request's trace, and has a span only at the level TRACE.
#[tokio::test]
async fn loops_have_no_spans_by_default_and_then_their_own() -> Outcome {
    let servers = Servers::own().await?;
    let recorder = Recorder::default();
    let recording = recorder.keep();
    let (sessions, alice) = servers.cached().await?;
    until_hit(&sessions, &alice).await?;
    crate::support::until_journal_reads(&sessions, sessions.metrics().journal_reads + 3).await?;
    drop(recording);
    let spans = recorder.spans();
    let loops = |spans: &[recorder::Recorded]| {
        spans.iter().filter(|it| it.otel_name == "SELECT session_journal").count()
    };
    assert_eq!(loops(&spans), 0, "{spans:#?}");

    let recorder = Recorder::of_loops_too();
    let recording = recorder.keep();
    crate::support::until_journal_reads(&sessions, sessions.metrics().journal_reads + 3).await?;
    drop(recording);
    let spans = recorder.spans();
    assert!(loops(&spans) > 0, "{spans:#?}");
    for span in spans.iter().filter(|it| it.otel_name == "SELECT session_journal") {
        let parent = spans.iter().find(|it| Some(it.id) == span.parent).unwrap();
        assert_eq!((parent.name, parent.parent), ("session.background", None));
    }
    Ok(())
}
