//! The cookie of a session that is remembered: how long a browser keeps it, and when the layer
//! renews it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, SET_COOKIE};
use http::{HeaderName, Request, Response};
use session_layer::store::PostgresStore;
use session_layer::{Created, Error, NewSession, SessionCacheLayer, SessionCookie, Sessions};
use session_testkit::backends::{Backends, Sandbox};
use session_testkit::wait;
use sqlx::{AssertSqlSafe, PgPool};
use tower::{Layer as _, ServiceExt as _};

use crate::harness::{Failure, Outcome, default_backend, shared};
use crate::support::{SOON, built, cache, sessions, store};

const IDLE: Duration = Duration::from_secs(1_000);

/// A service, its sessions, and a way to let time pass for one of them.
struct Rig {
    backends: Arc<Backends>,
    sandbox: Sandbox,
    sessions: Sessions,
    cookie: SessionCookie,
}

impl Rig {
    async fn start(backends: Arc<Backends>) -> Result<Self, Failure> {
        let sandbox = backends.sandbox();
        let sessions = sessions(&sandbox).await?;
        Ok(Self::of(backends, sandbox, sessions))
    }

    fn of(backends: Arc<Backends>, sandbox: Sandbox, sessions: Sessions) -> Self {
        Self { sessions, cookie: SessionCookie::host_prefixed(), sandbox, backends }
    }

    async fn login(&self, persistent: bool, idle: Option<Duration>) -> Result<Created, Failure> {
        let mut new = NewSession::new("alice").persistent(persistent);
        if let Some(idle) = idle {
            new = new.idle_timeout(idle);
        }
        Ok(self.sessions.create(new).await?)
    }

    /// It was used last two minutes ago, so that the next use is noted.
    async fn unused_for_a_while(&self, created: &Created) -> Outcome {
        self.unused_for(created, "2 minutes").await
    }

    /// It was last seen in use so long ago.
    async fn unused_for(&self, created: &Created, span: &str) -> Outcome {
        let mut admin = self.backends.postgres().connect().await?;
        let (schema, id) = (self.sandbox.schema(), created.session.id());
        let age = format!(
            "UPDATE {schema}.sessions SET last_seen_at = now() - interval '{span}' WHERE id = \
             '{id}'"
        );
        sqlx::raw_sql(AssertSqlSafe(age)).execute(&mut admin).await?;
        // A copy, if there is one, says otherwise until that was read in the journal.
        wait::until("the journal to be read", SOON, async || {
            self.sessions.metrics().changed_sessions > 0
        })
        .await?;
        Ok(())
    }

    async fn standby_to_wait_for(&self, name: &str) -> Outcome {
        let mut admin = self.backends.postgres().connect().await?;
        // One statement each: it can't be set in a transaction.
        for statement in [
            format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"),
            "SELECT pg_reload_conf()".to_owned(),
        ] {
            let statement = AssertSqlSafe(statement);
            sqlx::raw_sql(statement).execute(&mut admin).await?;
        }
        wait::until("the setting to be read", SOON, async || {
            let now = "SELECT current_setting('synchronous_standby_names')";
            let now: Result<String, _> = sqlx::query_scalar(now).fetch_one(&mut admin).await;
            now.is_ok_and(|now| now == name)
        })
        .await?;
        Ok(())
    }

    /// The `Set-Cookie` fields of an answer to a request with this field.
    async fn set_by(
        &self,
        (name, value): (HeaderName, String),
        handler: fn(&mut Response<String>),
    ) -> Result<Vec<String>, Failure> {
        let layer = SessionCacheLayer::new(self.sessions.clone()).cookie(&self.cookie);
        let service = tower::service_fn(move |_: Request<()>| {
            let mut response = Response::new(String::new());
            handler(&mut response);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let request = Request::get("/").header(name, value).body(())?;
        let response = layer.layer(service).oneshot(request).await?;
        assert_eq!(response.status(), 200);
        let fields = response.headers().get_all(SET_COOKIE);
        let text = |field: &http::HeaderValue| field.to_str().map(str::to_owned);
        Ok(fields.iter().map(text).collect::<Result<_, _>>()?)
    }

    fn carried(&self, created: &Created) -> (HeaderName, String) {
        let value = format!("{}={}", self.cookie.name(), created.token.reveal());
        (COOKIE, format!("theme=dark; {value}"))
    }
}

fn nothing(_: &mut Response<String>) {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_renewed_with_each_touch_and_shortly_after() -> Outcome {
    let backends = shared().await?;
    let rig = Rig::start(backends).await?;
    let created = rig.login(true, Some(IDLE)).await?;
    let expected = format!(
        "__Host-session={}; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=1000",
        created.token.reveal()
    );
    let issued = rig.cookie.issue(&created.token, &created.session);
    assert_eq!(issued.header_value(), expected.as_str(), "at the login");
    // Just seen: nothing has moved.
    assert_eq!(rig.set_by(rig.carried(&created), nothing).await?, [""; 0]);
    rig.unused_for_a_while(&created).await?;
    // The request that makes the touch, and those that follow: its response may have been lost.
    for _ in 0..4 {
        let sent = rig.set_by(rig.carried(&created), nothing).await?;
        assert_eq!(sent, std::slice::from_ref(&expected));
    }
    // Not all of them. (Until the journal was read, a copy says that it was used just now.)
    rig.unused_for(&created, "20 s").await?;
    wait::until("the cookie to be sent no more", SOON, async || {
        let sent = rig.set_by(rig.carried(&created), nothing).await;
        sent.is_ok_and(|sent| sent.is_empty())
    })
    .await?;
    Ok(())
}

fn cached_by_all(response: &mut Response<String>) {
    let everybody = http::HeaderValue::from_static("public, max-age=60");
    response.headers_mut().insert(CACHE_CONTROL, everybody);
}

fn not_cached(response: &mut Response<String>) {
    let no_cache = http::HeaderValue::from_static("no-cache");
    response.headers_mut().insert(CACHE_CONTROL, no_cache);
}

/// The response to the request that made the touch cannot carry it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_renewal_stays_due_until_carried() -> Outcome {
    let backends = shared().await?;
    let rig = Rig::start(backends).await?;
    let created = rig.login(true, Some(IDLE)).await?;
    rig.unused_for_a_while(&created).await?;
    for _ in 0..3 {
        let sent = rig.set_by(rig.carried(&created), cached_by_all).await?;
        assert_eq!(sent, [""; 0]);
    }
    let sent = rig.set_by(rig.carried(&created), nothing).await?;
    assert!(sent.len() == 1 && sent[0].contains("Max-Age=1000"), "{sent:?}");
    // Another node, which made no touch, knows it too.
    let rig = Rig { sessions: sessions(&rig.sandbox).await?, ..rig };
    let sent = rig.set_by(rig.carried(&created), nothing).await?;
    assert!(sent.len() == 1 && sent[0].contains("Max-Age=1000"), "{sent:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_survives_pages_that_send_no_cache() -> Outcome {
    let backends = shared().await?;
    let rig = Rig::start(backends).await?;
    let created = rig.login(true, Some(IDLE)).await?;
    rig.unused_for_a_while(&created).await?;
    let sent = rig.set_by(rig.carried(&created), not_cached).await?;
    assert!(sent.len() == 1 && sent[0].contains("Max-Age=1000"), "{sent:?}");
    Ok(())
}

/// Where every commit waits, here for a standby that never comes, a touch is made all the same and
/// the cookie sent again; over the application's own pool as well, to which we can give no
/// settings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_touch_waits_for_no_disk_and_no_standby() -> Outcome {
    let backend = default_backend().await?;
    let backends = Arc::new(Backends::builder().backend(backend).start().await?);
    for pooled in [false, true] {
        let sandbox = backends.sandbox();
        store(&sandbox).await?;
        let pool = PgPool::connect(sandbox.database_url()).await?;
        let theirs =
            PostgresStore::from_pool(pool).schema(sandbox.schema()).pooled(pooled).build()?;
        let sessions = built(cache(sandbox.redis_url(), &sandbox)?, theirs);
        let rig = Rig::of(Arc::clone(&backends), sandbox, sessions);
        let created = rig.login(true, Some(IDLE)).await?;
        rig.unused_for_a_while(&created).await?;
        rig.standby_to_wait_for("nobody").await?;
        let bob = rig.sessions.create(NewSession::new("bob")).await;
        assert!(bob.as_ref().is_err_and(Error::is_outage), "{bob:?}");
        let set = rig.set_by(rig.carried(&created), nothing).await?;
        assert!(set.len() == 1 && set[0].contains("Max-Age=1000"), "{set:?}");
        rig.standby_to_wait_for("").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_else_sends_it() -> Outcome {
    let backends = shared().await?;
    let rig = Rig::start(backends).await?;
    for (persistent, idle) in [(false, Some(IDLE)), (true, None)] {
        let created = rig.login(persistent, idle).await?;
        rig.unused_for_a_while(&created).await?;
        let set = rig.set_by(rig.carried(&created), nothing).await?;
        assert_eq!(set, [""; 0], "{persistent} {idle:?}");
    }
    let created = rig.login(true, Some(IDLE)).await?;
    rig.unused_for_a_while(&created).await?;
    let bearer = (AUTHORIZATION, format!("Bearer {}", created.token.reveal()));
    assert_eq!(rig.set_by(bearer, nothing).await?, [""; 0]);
    let created = rig.login(true, Some(IDLE)).await?;
    rig.unused_for_a_while(&created).await?;
    let logs_out = |response: &mut Response<String>| {
        SessionCookie::host_prefixed().clear().append_to(response.headers_mut());
    };
    let set = rig.set_by(rig.carried(&created), logs_out).await?;
    assert!(set.len() == 1 && set[0].contains("Max-Age=0"), "{set:?}");
    let created = rig.login(true, Some(IDLE)).await?;
    rig.unused_for_a_while(&created).await?;
    let sent = rig.set_by(rig.carried(&created), cached_by_all).await?;
    assert_eq!(sent, [""; 0]);
    Ok(())
}

/// Sent after the new one it would replace it, and the browser would be logged out with the grace's
/// end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_token_that_was_rotated_away_it_is_not_sent() -> Outcome {
    let backends = shared().await?;
    let rig = Rig::start(backends).await?;
    let created = rig.login(true, Some(IDLE)).await?;
    let rotated =
        rig.sessions.rotate(created.token.reveal(), Duration::from_secs(600)).await?.value;
    rig.unused_for_a_while(&created).await?;
    // The first makes the touch, and the others follow it.
    for _ in 0..3 {
        assert_eq!(rig.set_by(rig.carried(&created), nothing).await?, [""; 0]);
    }
    let issued = rig.cookie.issue(&rotated.token, &rotated.session);
    let issued = issued.header_value();
    assert!(issued.to_str()?.ends_with("Max-Age=1000"), "{issued:?}");
    Ok(())
}
