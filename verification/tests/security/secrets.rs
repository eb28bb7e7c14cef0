//! Neither the application nor the testkit prints a password of a URL, wherever in the URL it is.

use std::process::{Output, Stdio};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use session_layer::Sessions;
use session_layer::cache::RedisCache;
use session_layer::server_url::ServerUrl;
use session_layer::store::PostgresStore;
use session_testkit::backends::Backends;
use session_testkit::observe::Logs;
use tokio::process::Command;
use tracing_subscriber::{fmt, layer::SubscriberExt as _};

use crate::binaries::binary;
use crate::harness::{Outcome, shared};

/// The forms of URLs with a password: `{}` is the password, `{r}` and `{p}` are the addresses of
/// Redis and Postgres.
const REDIS: [&str; 10] = [
    "{}",
    ":{}@{r}",
    "redis:{}@{r}",
    "redis://{}@{r}",
    "redis://:{}@{r}",
    "redis://:{}/x@{r}",
    "redis://u:1{}@{r}/0",
    "redis://{r}/{}",
    "redis://{r}?protocol={}",
    "rediss://u:{}@{r}",
];
const POSTGRES: [&str; 12] = [
    "{}",
    "u:{}@{p}/postgres",
    "postgres://{}@{p}/postgres",
    "postgres://postgres:{}@{p}/postgres",
    "postgresql://postgres:1{}@{p}/postgres",
    "postgres://postgres:{}/x@{p}/postgres",
    "postgres://postgres@{p}/postgres?password={}",
    "postgres://postgres@{p}/postgres?pasword={}",
    "postgres://postgres@{p}/postgres?{}",
    "postgres://postgres@{p}/postgres?sslmode={}",
    "postgres://postgres@{p}/postgres?options=-c%20{}=1",
    "postgres://postgres@{p}/postgres?user={}",
];

/// Generates a password with reserved characters, raw and percent-encoded. No other text contains
/// `QXZJ`.
fn passwords() -> impl Strategy<Value = String> {
    let reserved = prop::sample::select(vec![
        "", "/", "?", "#", "@", ":", "[", "%", "&", "=", "+", " ", "%2F", "%3F", "%23", "%40",
        "%3A", "%25",
    ]);
    prop::collection::vec(reserved, 1..4).prop_map(|parts| {
        let parts = parts.iter().map(|part| format!("{part}QXZJ"));
        format!("QXZJ{}", parts.collect::<String>())
    })
}

fn assert_hidden(shown: &str, from: &str) {
    assert!(!shown.contains("QXZJ"), "{from}: {shown}");
}

/// Runs the test for some passwords in some forms. It prints the seed, and a failure its input.
async fn for_some_urls(
    cases: u32,
    backends: Arc<Backends>,
    test: impl Fn(&tokio::runtime::Handle, &Backends, &str, &str) + Send + 'static,
) -> Outcome {
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let default = Config::default();
        let seed = match default.rng_seed {
            RngSeed::Fixed(seed) => seed,
            RngSeed::Random => uuid::Uuid::new_v4().as_u64_pair().0,
        };
        eprintln!("seed {seed} (PROPTEST_RNG_SEED={seed} replays this run)");
        let config =
            Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..default };
        let forms = (prop::sample::select(&REDIS[..]), prop::sample::select(&POSTGRES[..]));
        TestRunner::new(config)
            .run(&(forms, passwords()), |((redis, postgres), password)| {
                let filled = |form: &str| {
                    form.replace("{r}", backends.redis().address())
                        .replace("{p}", backends.postgres().address())
                        .replace("{}", &password)
                };
                test(&handle, &backends, &filled(redis), &filled(postgres));
                Ok(())
            })
            .map_err(|failure| failure.to_string())
    })
    .await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_in_any_url_is_printed_by_no_command() -> Outcome {
    let backends = shared().await?;
    for_some_urls(24, backends, |handle, backends, redis, postgres| {
        let run_all = async {
            for arguments in [&["check"][..], &["check", "--json"]] {
                let mut check = testkit().await;
                check.args(arguments).args(["--redis-url", redis]);
                check.args(["--database-url", postgres]);
                printed(&mut check, redis).await;
            }
            let mut run = testkit().await;
            run.args(["run", "--", "true"])
                .env("SESSION_TESTKIT_DATABASE_URL", postgres)
                .env("SESSION_TESTKIT_REDIS_URL", backends.redis().url());
            // `run` waits for a server that rejects connections, and prints nothing else than
            // `check`.
            if redis.parse::<ServerUrl>().is_err() {
                run.env("SESSION_TESTKIT_REDIS_URL", redis);
                printed(&mut run, redis).await;
            } else if postgres.parse::<ServerUrl>().is_err() {
                printed(&mut run, postgres).await;
            }
        };
        handle.block_on(run_all);
    })
    .await
}

/// Returns the command `session-testkit` without the variables of the environment.
async fn testkit() -> Command {
    let path = binary("session-testkit").await.expect("the command is built");
    let mut command = Command::new(path);
    for name in
        ["SESSION_TESTKIT_REDIS_URL", "SESSION_TESTKIT_DATABASE_URL", "SESSION_TESTKIT_BACKEND"]
    {
        command.env_remove(name);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Runs a command with every log line of the libraries.
async fn printed(command: &mut Command, url: &str) -> Output {
    let ran = command.env("RUST_LOG", "trace").output().await;
    let ran = ran.expect("the command runs");
    assert_hidden(&String::from_utf8_lossy(&ran.stdout), url);
    assert_hidden(&String::from_utf8_lossy(&ran.stderr), url);
    ran
}

// Each case runs on a thread whose log is kept, at the finest level.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_in_any_url_is_printed_by_no_node() -> Outcome {
    let backends = shared().await?;
    for_some_urls(8, backends, |_, backends, redis, postgres| {
        let logs = Logs::default();
        let layer = fmt::layer().with_ansi(false).with_writer(logs.clone());
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let shown = runtime.block_on(node(backends, redis, postgres));
        assert_hidden(&shown, &format!("{redis} {postgres}"));
        assert_hidden(&String::from_utf8_lossy(&logs.text()), "the log");
    })
    .await
}

/// Returns everything that a node prints with one of these URLs and a correct one.
async fn node(backends: &Backends, redis: &str, postgres: &str) -> String {
    let sandbox = backends.sandbox();
    let mut shown = String::new();
    let mut say = |text: String| shown += &text;
    let pairs = [(redis, backends.postgres().url()), (backends.redis().url(), postgres)];
    for (redis, postgres) in pairs {
        let cache = RedisCache::builder(redis).namespace(sandbox.namespace()).build();
        let store = PostgresStore::builder(postgres).schema(sandbox.schema()).build();
        let (cache, store) = match (cache, store) {
            (Ok(cache), Ok(store)) => (cache, store),
            (cache, store) => {
                say(format!("{cache:?} {store:?}"));
                let errors = [
                    cache.err().map(|error| format!("{error}")),
                    store.err().map(|error| format!("{error}")),
                ];
                say(format!("{errors:?}"));
                continue;
            }
        };
        if let Err(error) = store.migrate().await {
            say(format!("{error} {error:#?}"));
        }
        let sessions = Sessions::builder(cache, store).build().expect("the defaults");
        let answer = sessions.validate(&"A".repeat(43)).await;
        let revoked = sessions.revoke(&"A".repeat(43)).await;
        let health = sessions.health().await;
        say(format!("{answer:?} {revoked:?} {:?} {sessions:?}", sessions.recent_errors()));
        say(serde_json::to_string(&health).expect("a document"));
        let _ended = sessions.shutdown(crate::support::SOON).await;
    }
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn url_in_a_wrong_argument_is_not_repeated() -> Outcome {
    let url = "redis://:QXZJ@h";
    for arguments in [
        &["check", url][..],
        &[url],
        &["faults", "--policy", url],
        &["check", "--pool-size", url],
        &["run", "--json", "--", url],
    ] {
        let ran =
            printed(testkit().await.args(arguments).env("DOCKER_HOST", "unix:///no"), url).await;
        assert_eq!(ran.status.code(), Some(2), "{arguments:?}");
        assert!(!ran.stderr.is_empty(), "{arguments:?}");
    }
    let ran = printed(testkit().await.args(["run", "--json", "--", "true", url]), url).await;
    let document = String::from_utf8(ran.stdout)?;
    assert!(document.contains("not repeated"), "{document}");
    Ok(())
}
