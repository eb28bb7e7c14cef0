//! The cookie of a session that is remembered: how long it is kept, and when it is sent again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, SET_COOKIE};
use http::{HeaderName, Request, Response};
use session_layer::store::PostgresStore;
use session_layer::{Created, Error, NewSession, SessionCacheLayer, SessionCookie, Sessions};
use session_testkit::backends::{Backend, Backends, Sandbox};
use session_testkit::wait;
use sqlx::{AssertSqlSafe, PgPool};
use tower::{Layer as _, ServiceExt as _};

use crate::harness::{Failure, Outcome, Registry};
use crate::support::{SOON, built, cache, sessions, store};

const IDLE: Duration = Duration::from_secs(1_000);

pub(crate) fn tests(reg: &mut Registry) {
    reg.shared("a_touch_sends_a_persistent_one_again", sent_again);
    reg.shared("nothing_else_sends_it", not_sent);
    reg.shared("of_a_token_that_was_rotated_away_it_is_not_sent", rotated);
    reg.each_backend("a_touch_waits_for_no_disk_and_no_standby", unhurried);
}

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
        Self {
            sessions,
            cookie: SessionCookie::host_prefixed(),
            sandbox,
            backends,
        }
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
        let mut admin = self.backends.postgres().connect().await?;
        let (schema, id) = (self.sandbox.schema(), created.session.id());
        let age = format!(
            "UPDATE {schema}.sessions SET last_seen_at = now() - interval '2 minutes' WHERE id = '{id}'"
        );
        sqlx::raw_sql(AssertSqlSafe(age))
            .execute(&mut admin)
            .await?;
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

async fn sent_again(backends: Arc<Backends>) -> Outcome {
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
    assert_eq!(
        rig.set_by(rig.carried(&created), nothing).await?,
        [expected]
    );
    // Noted now.
    assert_eq!(rig.set_by(rig.carried(&created), nothing).await?, [""; 0]);
    Ok(())
}

/// Where every commit waits, here for a standby that never comes, a touch is made all the same and the cookie sent
/// again; over the application's own pool as well, to which we can give no settings.
async fn unhurried(backend: Backend) -> Outcome {
    let backends = Arc::new(Backends::builder().backend(backend).start().await?);
    for pooled in [false, true] {
        let sandbox = backends.sandbox();
        store(&sandbox).await?;
        let pool = PgPool::connect(sandbox.database_url()).await?;
        let theirs = PostgresStore::from_pool(pool)
            .schema(sandbox.schema())?
            .pooled(pooled);
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

async fn not_sent(backends: Arc<Backends>) -> Outcome {
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
        SessionCookie::host_prefixed()
            .clear()
            .append_to(response.headers_mut());
    };
    let set = rig.set_by(rig.carried(&created), logs_out).await?;
    assert!(set.len() == 1 && set[0].contains("Max-Age=0"), "{set:?}");
    let created = rig.login(true, Some(IDLE)).await?;
    rig.unused_for_a_while(&created).await?;
    let public = |response: &mut Response<String>| {
        let everybody = http::HeaderValue::from_static("public, max-age=60");
        response.headers_mut().insert(CACHE_CONTROL, everybody);
    };
    assert_eq!(rig.set_by(rig.carried(&created), public).await?, [""; 0]);
    Ok(())
}

/// Sent after the new one it would replace it, and the browser would be logged out with the grace's end.
async fn rotated(backends: Arc<Backends>) -> Outcome {
    let rig = Rig::start(backends).await?;
    let created = rig.login(true, Some(IDLE)).await?;
    let rotated = rig
        .sessions
        .rotate(created.token.reveal(), Duration::from_secs(600))
        .await?
        .value;
    rig.unused_for_a_while(&created).await?;
    assert_eq!(rig.set_by(rig.carried(&created), nothing).await?, [""; 0]);
    let issued = rig.cookie.issue(&rotated.token, &rotated.session);
    let issued = issued.header_value();
    assert!(issued.to_str()?.ends_with("Max-Age=1000"), "{issued:?}");
    Ok(())
}
