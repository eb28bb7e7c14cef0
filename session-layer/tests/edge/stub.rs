//! A configurable cache and store that count their queries.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderName, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::value::RawValue;
use session_layer::cache::{
    CacheProbe, CacheStatus, Entry, EntryVerdict, Filled, Invalidated, Lookup, SessionCache,
};
use session_layer::error::{CacheError, CacheErrorKind, StoreError, StoreErrorKind};
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, ReadResult, Revoked, Row, SessionStore,
    StoreId, Target,
};
use session_layer::store::{SessionParts, ValidatedSession};
use session_layer::{
    ListCursor, LoginSnapshot, Session, SessionCacheLayer, SessionId, SessionPage, Sessions,
    Timestamp, TokenDigest,
};
use tower::{Layer as _, ServiceExt as _};

const STORE_ID: StoreId = [7; 16];

/// Returns well-formed token number `n`: 43 characters that encode 32 bytes.
pub fn token(n: u8) -> String {
    assert!(n < 26);
    format!("{:A<43}", char::from(b'A' + n))
}

/// The shared state of the cache and the store. Clones share it.
#[derive(Clone, Default)]
pub struct Stub(Arc<State>);

#[derive(Default)]
struct State {
    active: Mutex<HashMap<TokenDigest, String>>,
    revoked: Mutex<Vec<TokenDigest>>,
    cached: Mutex<HashMap<TokenDigest, Entry>>,
    store_down: AtomicBool,
    store_hangs: AtomicBool,
    cache_down: AtomicBool,
    probe_hangs: AtomicBool,
    loads: AtomicUsize,
    gets: AtomicUsize,
    probes: AtomicUsize,
    asked: Mutex<VecDeque<Vec<TokenDigest>>>,
}

impl Stub {
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a handle over this cache and store. The budget is short, for tests that exhaust it.
    pub fn sessions(&self) -> Sessions {
        Sessions::builder(StubCache(self.clone()), StubStore(self.clone()))
            .validation_timeout(Duration::from_millis(50))
            .build()
            .unwrap()
    }

    pub fn layer(&self) -> SessionCacheLayer {
        SessionCacheLayer::new(self.sessions())
    }

    /// Returns a layer with a budget that is long enough for a busy machine.
    pub fn patient_layer(&self) -> SessionCacheLayer {
        let sessions = Sessions::builder(StubCache(self.clone()), StubStore(self.clone()))
            .validation_timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        SessionCacheLayer::new(sessions)
    }

    /// Makes token `n` an active session of this user.
    pub fn active(self, n: u8, user: &str) -> Self {
        let digest = TokenDigest::of(&token(n));
        self.0.active.lock().unwrap().insert(digest, user.to_owned());
        self
    }

    pub fn revoked(self, n: u8) -> Self {
        let digest = TokenDigest::of(&token(n));
        self.0.revoked.lock().unwrap().push(digest);
        self
    }

    /// Caches token `n` as a session of this user.
    pub fn cached(self, n: u8, user: &str) -> Self {
        let digest = TokenDigest::of(&token(n));
        let entry = Entry {
            session: session(digest, user),
            user_epoch: 0,
            store_id: STORE_ID,
            xmin: 0,
            read_at: Timestamp::now(),
            not_after: Timestamp::now().after(Duration::from_secs(60)),
        };
        self.0.cached.lock().unwrap().insert(digest, entry);
        self
    }

    pub fn store_down(self, down: bool) -> Self {
        self.0.store_down.store(down, Ordering::SeqCst);
        self
    }

    pub fn store_hangs(self) -> Self {
        self.0.store_hangs.store(true, Ordering::SeqCst);
        self
    }

    pub fn cache_down(self) -> Self {
        self.0.cache_down.store(true, Ordering::SeqCst);
        self
    }

    pub fn probe_hangs(self) -> Self {
        self.0.probe_hangs.store(true, Ordering::SeqCst);
        self
    }

    pub fn loads(&self) -> usize {
        self.0.loads.load(Ordering::SeqCst)
    }

    /// Returns the number of queries to the cache or the store.
    pub fn asked(&self) -> usize {
        self.loads() + self.0.gets.load(Ordering::SeqCst)
    }

    pub fn probes(&self) -> usize {
        self.0.probes.load(Ordering::SeqCst)
    }

    pub fn look_ups(&self) -> Vec<Vec<TokenDigest>> {
        self.0.asked.lock().unwrap().iter().cloned().collect()
    }
}

fn is(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst)
}

fn session(digest: TokenDigest, user: &str) -> Session {
    let now = Timestamp::now();
    let [id, ..] = *digest.as_bytes();
    SessionParts {
        id: SessionId::from_bytes([id; 16]),
        user_id: user.to_owned(),
        version: 1,
        created_at: now,
        authenticated_at: now,
        last_seen_at: now,
        expires_at: now.after(Duration::from_secs(3600)),
        idle_timeout: None,
        persistent: false,
        data: RawValue::from_string("{}".to_owned()).unwrap(),
    }
    .into()
}

struct StubCache(Stub);

impl SessionCache for StubCache {
    type Lease = TokenDigest;

    async fn get(
        &self,
        digests: &[TokenDigest],
        judge: &(dyn Fn(&Entry) -> EntryVerdict + Send + Sync),
    ) -> Vec<Lookup<TokenDigest>> {
        let state = &self.0.0;
        state.gets.fetch_add(1, Ordering::SeqCst);
        state.asked.lock().unwrap().push_back(digests.to_vec());
        // A real cache is never ready at once.
        tokio::task::yield_now().await;
        let cached = state.cached.lock().unwrap();
        let answer = |digest: &TokenDigest| match cached.get(digest) {
            _ if is(&state.cache_down) => Lookup::Failed(no_cache()),
            Some(entry) if judge(entry) == EntryVerdict::Fresh => Lookup::Hit(entry.clone()),
            _ => Lookup::Leased(*digest),
        };
        digests.iter().map(answer).collect()
    }

    async fn fill(
        &self,
        lease: TokenDigest,
        entry: &Entry,
        _: Duration,
    ) -> Result<Filled, CacheError> {
        self.0.0.cached.lock().unwrap().insert(lease, entry.clone());
        Ok(Filled::Stored)
    }

    async fn fence(&self, _: &[TokenDigest]) -> Result<(), CacheError> {
        Ok(())
    }

    async fn invalidate(&self, digests: &[TokenDigest]) -> Result<Invalidated, CacheError> {
        if is(&self.0.0.cache_down) {
            return Err(CacheError::new(CacheErrorKind::Unreachable, "the stub's cache is down"));
        }
        let mut cached = self.0.0.cached.lock().unwrap();
        cached.retain(|digest, _| !digests.contains(digest));
        Ok(Invalidated::Everywhere)
    }

    fn status(&self) -> CacheStatus {
        let mut status = CacheStatus::new("redis");
        (status.connected, status.size, status.available) = (!is(&self.0.0.cache_down), 10, 10);
        status
    }

    async fn probe(&self) -> CacheProbe {
        let state = &self.0.0;
        state.probes.fetch_add(1, Ordering::SeqCst);
        if is(&state.probe_hangs) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut probe = CacheProbe::default();
        if is(&state.cache_down) {
            probe.errors.push(no_cache().to_string());
        } else {
            let quick = Some(Duration::from_micros(200));
            probe.connected = true;
            (probe.ping, probe.set, probe.get) = (quick, quick, quick);
        }
        probe
    }

    async fn close(&self) {}
}

fn no_cache() -> CacheError {
    CacheError::new(CacheErrorKind::Unreachable, "the stub's cache is down")
}

fn no_store() -> StoreError {
    StoreError::new(StoreErrorKind::Unreachable, "the stub's store is down")
}

struct StubStore(Stub);

impl SessionStore for StubStore {
    async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        let state = &self.0.0;
        // A read without digests only identifies the store.
        if !digests.is_empty() {
            state.loads.fetch_add(1, Ordering::SeqCst);
        }
        if is(&state.store_hangs) {
            std::future::pending::<()>().await;
        }
        if is(&state.store_down) {
            return Err(no_store());
        }
        let (active, revoked) = (state.active.lock().unwrap(), state.revoked.lock().unwrap());
        let row = |digest: &TokenDigest| match active.get(digest) {
            Some(user) => {
                Row::Alive { session: session(*digest, user), user_epoch: 0, previous_until: None }
            }
            None if revoked.contains(digest) => Row::Revoked,
            None => Row::Absent,
        };
        Ok(ReadResult {
            now: Timestamp::now(),
            store_id: STORE_ID,
            xmin: 0,
            rows: digests.iter().map(row).collect(),
        })
    }

    async fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        Err(no_store())
    }

    async fn create(&self, _: TokenDigest, _: &ValidatedSession) -> Result<Creation, StoreError> {
        Err(no_store())
    }
    async fn digests(&self, _: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        Ok(Vec::new())
    }
    async fn revoke(&self, _: &Target, _: &str) -> Result<Revoked, StoreError> {
        Ok(Revoked::nothing())
    }
    async fn update(&self, _: SessionId, _: i64, _: &RawValue) -> Result<Change, StoreError> {
        Ok(Change::NoSession)
    }
    async fn rotate(
        &self,
        _: TokenDigest,
        _: TokenDigest,
        _: Duration,
    ) -> Result<Change, StoreError> {
        Ok(Change::NoSession)
    }
    async fn touch(&self, _: SessionId, _: Duration) -> Result<Change, StoreError> {
        Ok(Change::NoSession)
    }
    async fn list(
        &self,
        _: &str,
        _: Option<ListCursor>,
        _: usize,
    ) -> Result<SessionPage, StoreError> {
        Ok(SessionPage::default())
    }
    async fn journal_since(&self, _: Option<&JournalPosition>) -> Result<JournalRead, StoreError> {
        Err(no_store())
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn backend(&self) -> &'static str {
        "postgres"
    }

    async fn probe(&self) -> Result<(), StoreError> {
        if is(&self.0.0.probe_hangs) {
            std::future::pending::<()>().await;
        }
        if is(&self.0.0.store_down) {
            return Err(no_store());
        }
        Ok(())
    }

    async fn close(&self) {}
}

/// Creates a GET with these fields. `{0}`, `{1}` and so on in a value are replaced by tokens.
pub fn get(fields: &[(HeaderName, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    for (name, value) in fields {
        let value = (0..8)
            .fold((*value).to_owned(), |value, n| value.replace(&format!("{{{n}}}"), &token(n)));
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

pub fn preflight() -> Request<Full<Bytes>> {
    let mut request =
        get(&[(ORIGIN, "https://example.com"), (ACCESS_CONTROL_REQUEST_METHOD, "PUT")]);
    *request.method_mut() = Method::OPTIONS;
    request
}

/// Returns the user of the request's session, such as `alice`, or `anonymous`.
pub async fn echo_user<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let session = request.extensions().get::<Session>();
    let user = session.map_or("anonymous", Session::user_id);
    Ok(Response::new(Full::from(user.to_owned())))
}

/// Returns the response of the layer over [`echo_user`].
pub async fn answer(layer: SessionCacheLayer, request: Request<Full<Bytes>>) -> Response<String> {
    let service = layer.layer(tower::service_fn(echo_user::<Full<Bytes>>));
    let (parts, body) = service.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(parts, String::from_utf8(body.to_vec()).unwrap())
}

/// Returns the status, and the user if the inner service was reached.
pub async fn outcome(layer: SessionCacheLayer, request: Request<Full<Bytes>>) -> (u16, String) {
    let response = answer(layer, request).await;
    let status = response.status().as_u16();
    let reached = if status == 200 { response.into_body() } else { String::new() };
    (status, reached)
}
