//! Declares each test once and lists it once for each backend.
//!
//! A theme is a module with `pub(crate) fn tests(reg: &mut Registry)`, named in `main.rs`; there
//!
//! - `reg.plain("name", async || …)` needs no server;
//! - `reg.each_backend("name", async |backend| …)` starts servers of its own, to break them
//!   (`Backends::builder().backend(backend)`);
//! - `reg.shared("name", async |backends| …)` uses a pair that other tests use as well, in a sandbox
//!   of its own (`backends.sandbox()`).
//!
//! Names are `native::theme::name` and `docker::theme::name`. Where a backend is missing its tests
//! are listed as ignored, and the reason is printed; with `SESSION_TESTKIT_REQUIRE=docker,native`
//! they fail instead. Under `session-testkit run`, best with `--all-backends`, the shared tests use
//! the pairs that it started; servers given by somebody else get the tests as `given::theme::name`.
//!
//! A test panics to fail; `?` does that too ([`Failure`]), so that servers print their last log
//! lines while the stack unwinds, and the message names the line.

use std::{
    collections::HashMap,
    env,
    fmt::Display,
    future::Future,
    panic::{AssertUnwindSafe, Location, catch_unwind},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use session_testkit::backends::{Backend, Backends};
use tokio::{runtime::Runtime, sync::Mutex, time::timeout};

/// Everything a test does, servers' start included, on a busy machine of two cores.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a test answers.
pub(crate) type Outcome = Result<(), Failure>;

/// Never a value: made from an error by `?`, it panics there.
#[derive(Debug)]
pub(crate) enum Failure {}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        let error = error.into();
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}\n  because: {cause}");
            source = cause.source();
        }
        panic!("{text}\n  at {}", Location::caller())
    }
}

/// Where the servers of a test come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    Ours(Backend),
    Given,
}

impl Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ours(backend) => backend.fmt(f),
            Self::Given => f.write_str("given"),
        }
    }
}

/// Collects the tests.
pub(crate) struct Registry {
    theme: &'static str,
    trials: Vec<Trial>,
    missing: HashMap<Backend, String>,
    required: Vec<Backend>,
    /// Servers are given, and nothing says by which backend they were started.
    given: bool,
    pairs: Pairs,
}

/// Pairs that several tests of this process share, started when first needed.
type Pairs = Arc<Mutex<HashMap<Source, Arc<Backends>>>>;

impl Registry {
    /// Names the tests that follow.
    pub(crate) fn theme(&mut self, theme: &'static str, tests: impl FnOnce(&mut Self)) {
        self.theme = theme;
        tests(self);
    }

    /// A test that needs no server.
    pub(crate) fn plain<F, T>(&mut self, name: &str, test: F)
    where
        F: Fn() -> T + Send + 'static,
        T: Future<Output = Outcome>,
    {
        let name = format!("{}::{name}", self.theme);
        self.trials
            .push(Trial::test(name, move || run(&runtime(), test())));
    }

    /// A test with servers of its own.
    pub(crate) fn each_backend<F, T>(&mut self, name: &str, test: F)
    where
        F: Fn(Backend) -> T + Clone + Send + 'static,
        T: Future<Output = Outcome>,
    {
        for backend in Backend::ALL {
            let test = test.clone();
            self.add(name, Source::Ours(backend), move || {
                run(&runtime(), test(backend))
            });
        }
    }

    /// A test that shares its servers with others.
    pub(crate) fn shared<F, T>(&mut self, name: &str, test: F)
    where
        F: Fn(Arc<Backends>) -> T + Clone + Send + 'static,
        T: Future<Output = Outcome>,
    {
        let ours = Backend::ALL.into_iter().map(Source::Ours);
        let given = self.given.then_some(Source::Given);
        for source in ours.chain(given) {
            let test = test.clone();
            let pairs = Arc::clone(&self.pairs);
            self.add(name, source, move || {
                let runtime = runtime();
                let result = run(&runtime, async {
                    let backends = pair(&pairs, source).await?;
                    test(backends).await
                });
                if result.is_err() {
                    // Servers that live on do not print their logs by themselves.
                    runtime.block_on(print_logs(&pairs, source));
                }
                result
            });
        }
    }

    fn add(
        &mut self,
        name: &str,
        source: Source,
        runner: impl FnOnce() -> Result<(), Failed> + Send + 'static,
    ) {
        let name = format!("{source}::{}::{name}", self.theme);
        let missing = match source {
            Source::Ours(backend) => self
                .missing
                .get(&backend)
                .cloned()
                .map(|why| (backend, why)),
            Source::Given => None,
        };
        self.trials.push(match missing {
            None => Trial::test(name, runner),
            Some((backend, why)) if self.required.contains(&backend) => {
                Trial::test(name, move || Err(why.into()))
            }
            // Ignored in a listing, and said to be so with the reason where it is run all the same.
            Some((_, why)) => {
                Trial::ignorable_test(name, move || Ok(Completion::ignored_with(why)))
                    .with_ignored_flag(true)
            }
        });
    }
}

/// Runs the tests of all themes.
pub(crate) fn main(themes: impl FnOnce(&mut Registry)) -> ExitCode {
    let arguments = Arguments::from_args();
    let missing = runtime().block_on(async {
        let mut missing = HashMap::new();
        for backend in Backend::ALL {
            if let Some(why) = backend.missing().await {
                missing.insert(backend, why);
            }
        }
        missing
    });
    let required: Vec<Backend> = env::var("SESSION_TESTKIT_REQUIRE")
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| {
            name.parse()
                .unwrap_or_else(|error| panic!("SESSION_TESTKIT_REQUIRE: {error}"))
        })
        .collect();
    let set = |name| env::var(name).is_ok_and(|value| !value.is_empty());
    let urls = set("SESSION_TESTKIT_REDIS_URL") && set("SESSION_TESTKIT_DATABASE_URL");
    let forced = Backend::from_env().unwrap_or_else(|error| panic!("{error}"));
    let started_by_run =
        forced.is_some() || Backend::ALL.iter().any(|it| set(it.url_variables().0));
    let mut registry = Registry {
        theme: "",
        trials: Vec::new(),
        given: urls && !started_by_run,
        missing,
        required,
        pairs: Pairs::default(),
    };
    themes(&mut registry);
    if !arguments.list {
        for (backend, why) in &registry.missing {
            eprintln!("no tests with {backend}: {why}");
        }
    }
    let conclusion = libtest_mimic::run(&arguments, registry.trials);
    // What the tests shared is stopped here; a static would never be dropped.
    drop(registry.pairs);
    conclusion.exit_code()
}

async fn pair(pairs: &Pairs, source: Source) -> Result<Arc<Backends>, Failure> {
    let mut pairs = pairs.lock().await;
    if let Some(pair) = pairs.get(&source) {
        return Ok(Arc::clone(pair));
    }
    let pair = Arc::new(match source {
        Source::Ours(backend) => Backends::shared(backend).await?,
        Source::Given => Backends::start().await?,
    });
    pairs.insert(source, Arc::clone(&pair));
    Ok(pair)
}

async fn print_logs(pairs: &Pairs, source: Source) {
    let Some(pair) = pairs.lock().await.get(&source).cloned() else {
        return;
    };
    let logs = [
        ("Redis", pair.redis().logs().await),
        ("Postgres", pair.postgres().logs().await),
    ];
    for (name, lines) in logs.iter().filter(|(_, lines)| !lines.is_empty()) {
        eprintln!("--- last lines of {name}, shared by tests:");
        for line in lines {
            eprintln!("    {line}");
        }
    }
}

/// Each test has its own, of several threads, as the services under test have.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn run(runtime: &Runtime, test: impl Future<Output = Outcome>) -> Result<(), Failed> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            match timeout(DEADLINE, test).await {
                Ok(outcome) => outcome,
                Err(_) => panic!("the test did not end within {DEADLINE:?}"),
            }
        })
    }));
    match outcome {
        Ok(Ok(())) => Ok(()),
        // The panic's message was printed when it happened.
        Err(_) => Err("panicked, see above".into()),
    }
}
