//! The cookie of a persistent session: how long a browser keeps it, and when the layer renews it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, SET_COOKIE};
use http::{HeaderName, HeaderValue, Request, Response};
use session_layer::store::PostgresStore;
use session_layer::{Created, Error, NewSession, SessionCacheLayer, SessionCookie, Sessions};
use session_testkit::wait;
use sqlx::PgPool;
use tower::{Layer as _, ServiceExt as _};

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, built, execute};

const IDLE: Duration = Duration::from_secs(1_000);

/// A service whose sessions can be made to look unused.
struct Service {
    servers: Servers,
    sessions: Sessions,
    cookie: SessionCookie,
}

impl Service {
    async fn start() -> Result<Self, Failure> {
        let servers = Servers::shared().await?;
        Ok(Self { sessions: servers.sessions().await?, servers, cookie: cookie() })
    }

    /// Creates a session, and makes it due for a touch.
    async fn due(&self, persistent: bool, idle: Option<Duration>) -> Result<Created, Failure> {
        let mut new = NewSession::new("alice").persistent(persistent);
        if let Some(idle) = idle {
            new = new.idle_timeout(idle);
        }
        let created = self.sessions.create(new).await?;
        self.unused_for(&created, "2 minutes").await?;
        Ok(created)
    }

    async fn persistent(&self) -> Result<Created, Failure> {
        self.due(true, Some(IDLE)).await
    }

    /// Sets the last use of a session to this long ago.
    async fn unused_for(&self, created: &Created, span: &str) -> Outcome {
        let id = created.session.id();
        self.servers
            .sql(format!(
                "UPDATE sessions SET last_seen_at = now() - interval '{span}' WHERE id = '{id}'"
            ))
            .await?;
        // An entry has the previous use until the node has read the journal.
        wait::until("the journal to be read", SOON, async || {
            self.sessions.metrics().changed_sessions > 0
        })
        .await?;
        Ok(())
    }

    /// Makes commits wait for a standby of this name, or for none.
    async fn wait_for_standby(&self, name: &str) -> Outcome {
        let postgres = self.servers.postgres();
        // ALTER SYSTEM cannot share a transaction with another statement.
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
        execute(postgres, set).await?;
        execute(postgres, "SELECT pg_reload_conf()".to_owned()).await?;
        let mut operator = self.servers.operator().await?;
        wait::until("the setting to be read", SOON, async || {
            let now = "SELECT current_setting('synchronous_standby_names')";
            let now: Result<String, _> = sqlx::query_scalar(now).fetch_one(&mut operator).await;
            now.is_ok_and(|now| now == name)
        })
        .await?;
        Ok(())
    }

    /// Returns the `Set-Cookie` fields of the response to a request with this field.
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
        let text = |field: &HeaderValue| field.to_str().map(str::to_owned);
        Ok(fields.iter().map(text).collect::<Result<_, _>>()?)
    }

    /// Returns those of a request that sends the session's cookie.
    async fn set(
        &self,
        created: &Created,
        handler: fn(&mut Response<String>),
    ) -> Result<Vec<String>, Failure> {
        let value = format!("theme=dark; {}={}", self.cookie.name(), created.token.reveal());
        self.set_by((COOKIE, value), handler).await
    }
}

fn cookie() -> SessionCookie {
    SessionCookie::host_prefixed()
}

fn unchanged(_: &mut Response<String>) {}

fn public(response: &mut Response<String>) {
    let public = HeaderValue::from_static("public, max-age=60");
    response.headers_mut().insert(CACHE_CONTROL, public);
}

fn no_cache(response: &mut Response<String>) {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
}

fn logout(response: &mut Response<String>) {
    cookie().clear().append_to(response.headers_mut());
}

#[track_caller]
fn assert_renewed(set: &[String]) {
    assert!(set.len() == 1 && set[0].contains("Max-Age=1000"), "{set:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_renewed_with_each_touch_and_shortly_after() -> Outcome {
    let service = Service::start().await?;
    let new = NewSession::new("alice").persistent(true).idle_timeout(IDLE);
    let created = service.sessions.create(new).await?;
    let expected = format!(
        "__Host-session={}; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=1000",
        created.token.reveal()
    );
    let issued = service.cookie.issue(&created.token, &created.session);
    assert_eq!(issued.header_value(), expected.as_str(), "at the login");
    assert_eq!(service.set(&created, unchanged).await?, [""; 0], "the session was just used");
    service.unused_for(&created, "2 minutes").await?;
    // The response to the request that makes the touch may be lost, therefore others carry it too.
    for _ in 0..4 {
        assert_eq!(service.set(&created, unchanged).await?, std::slice::from_ref(&expected));
    }
    service.unused_for(&created, "20 s").await?;
    wait::until("the cookie to be sent no more", SOON, async || {
        service.set(&created, unchanged).await.is_ok_and(|set| set.is_empty())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_renewal_stays_due_until_carried() -> Outcome {
    let service = Service::start().await?;
    let created = service.persistent().await?;
    // The response to the request that makes the touch cannot carry the cookie.
    for _ in 0..3 {
        assert_eq!(service.set(&created, public).await?, [""; 0]);
    }
    assert_renewed(&service.set(&created, unchanged).await?);
    // The same holds for a node that made no touch.
    let service = Service { sessions: service.servers.sessions().await?, ..service };
    assert_renewed(&service.set(&created, unchanged).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_survives_pages_that_send_no_cache() -> Outcome {
    let service = Service::start().await?;
    let created = service.persistent().await?;
    assert_renewed(&service.set(&created, no_cache).await?);
    Ok(())
}

// Every commit waits for a standby that never comes. A touch does not, also over the application's
// pool, which the store cannot configure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn touch_does_not_wait_for_disk_or_standby() -> Outcome {
    let own = Servers::own().await?;
    for pooled in [false, true] {
        let servers = Servers::on(Arc::clone(&own.backends));
        servers.store().await?;
        let pool = PgPool::connect(servers.database_url()).await?;
        let store = PostgresStore::from_pool(pool).schema(servers.schema()).pooled(pooled);
        let sessions = built(servers.cache()?, store.build()?);
        let service = Service { servers, sessions, cookie: cookie() };
        let created = service.persistent().await?;
        service.wait_for_standby("missing").await?;
        // A connection reads the setting when its next statement begins.
        wait::until("a login that waits for the standby", SOON, async || {
            let bob = service.sessions.create(NewSession::new("bob")).await;
            bob.as_ref().is_err_and(Error::is_outage)
        })
        .await?;
        assert_renewed(&service.set(&created, unchanged).await?);
        service.wait_for_standby("").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_is_not_renewed_in_other_cases() -> Outcome {
    let service = Service::start().await?;
    for (persistent, idle) in [(false, Some(IDLE)), (true, None)] {
        let created = service.due(persistent, idle).await?;
        let set = service.set(&created, unchanged).await?;
        assert_eq!(set, [""; 0], "{persistent} {idle:?}");
    }
    let created = service.persistent().await?;
    let bearer = (AUTHORIZATION, format!("Bearer {}", created.token.reveal()));
    assert_eq!(service.set_by(bearer, unchanged).await?, [""; 0]);
    let created = service.persistent().await?;
    let set = service.set(&created, logout).await?;
    assert!(set.len() == 1 && set[0].contains("Max-Age=0"), "{set:?}");
    let created = service.persistent().await?;
    assert_eq!(service.set(&created, public).await?, [""; 0]);
    Ok(())
}

// The old token would replace the new one in the browser, and expire with the grace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookie_of_a_rotated_token_is_not_renewed() -> Outcome {
    let service = Service::start().await?;
    let created = service.persistent().await?;
    let grace = Duration::from_secs(600);
    let rotated = service.sessions.rotate(created.token.reveal(), grace).await?.value;
    service.unused_for(&created, "2 minutes").await?;
    // The first request makes the touch.
    for _ in 0..3 {
        assert_eq!(service.set(&created, unchanged).await?, [""; 0]);
    }
    let issued = service.cookie.issue(&rotated.token, &rotated.session);
    let issued = issued.header_value();
    assert!(issued.to_str()?.ends_with("Max-Age=1000"), "{issued:?}");
    Ok(())
}
