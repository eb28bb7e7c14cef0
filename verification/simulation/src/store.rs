//! The port to the simulated Postgres, with the rules of `PostgresStore`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::cache::CacheId;
use session_layer::error::{StoreError, StoreErrorKind};
use session_layer::store::{
    Change, Creation, DEFAULT_CHANGE_DEADLINE, DEFAULT_READ_DEADLINE, JournalPosition, JournalRead,
    NodeRegistration, ReadResult, RegistrationId, RevocationNote, Revoked, SessionStore, StoreId,
    Target, ValidatedSession,
};
use session_layer::{ListCursor, LoginSnapshot, SessionId, SessionPage, TokenDigest};
use tokio::time::{sleep, timeout};

use crate::coverage::Event;
use crate::mutants::Mistake;
use crate::postgres::{Outcome, Postgres, Statement, Transaction};
use crate::world::{Call, Millis, State, Step, World, number};

/// How often a touch is sent while the row is locked, as by `PostgresStore`.
const TOUCHES: u32 = 4;
const BETWEEN_TOUCHES: Duration = Duration::from_millis(5);

/// The store of one node.
pub(crate) struct SimulatedStore {
    world: Arc<World>,
    node: u32,
    life: u32,
    mistake: Option<Mistake>,
}

impl SimulatedStore {
    pub(crate) fn new(world: &Arc<World>, node: u32, life: u32, mistake: Option<Mistake>) -> Self {
        Self { world: Arc::clone(world), node, life, mistake }
    }

    fn call(&self, what: &'static str, about: u64) -> Call {
        Call { node: self.node, life: self.life, what, about, lane: None }
    }

    async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        about: u64,
        read: impl Fn(&Postgres, Millis) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reply = self.world.ask(self.call(what, about), move |state| {
            let result = match state.is_refused(what, about) {
                true => Err(refused_error()),
                false => read(&state.postgres, state.now),
            };
            Step::Done(result.inspect_err(|_| state.coverage.saw(Event::StoreError)))
        });
        if self.mistake == Some(Mistake::NoDeadline) {
            return reply.await;
        }
        timeout(DEFAULT_READ_DEADLINE, reply).await.unwrap_or_else(|_| Err(late()))
    }

    async fn change(
        &self,
        what: &'static str,
        about: u64,
        statement: Statement,
    ) -> Result<Outcome, StoreError> {
        let changing = changing(what, about, Transaction::new(statement));
        let reply = self.world.ask(self.call(what, about), changing);
        timeout(DEFAULT_CHANGE_DEADLINE, reply).await.unwrap_or_else(|_| {
            Err(StoreError::new(StoreErrorKind::Uncertain, "the reply to the change is lost"))
        })
    }

    /// Sends one statement of a touch, with the deadline of a read.
    async fn touch_once(&self, statement: Statement) -> Result<Change, StoreError> {
        let touch = changing("touch", 0, Transaction::new(statement));
        let reply = self.world.ask(self.call("touch", 0), touch);
        changed(timeout(DEFAULT_READ_DEADLINE, reply).await.unwrap_or_else(|_| Err(late()))?)
    }
}

/// Continues a change until it ends.
pub(crate) fn changing(
    what: &'static str,
    about: u64,
    mut transaction: Transaction,
) -> impl FnMut(&mut State) -> Step<Result<Outcome, StoreError>> {
    let login = transaction.login();
    let mut refused = None;
    move |state| {
        if let Some(digest) = login {
            state.record_login(digest);
        }
        if *refused.get_or_insert_with(|| state.is_refused(what, about)) {
            state.coverage.saw(Event::StoreError);
            return Step::Done(Err(refused_error()));
        }
        let now = state.now;
        state.postgres.advance(&mut transaction, now).map_or(Step::Again, Step::Done)
    }
}

fn refused_error() -> StoreError {
    StoreError::new(StoreErrorKind::Other, "Postgres refuses: too many connections")
}

fn late() -> StoreError {
    StoreError::new(StoreErrorKind::TimedOut, "Postgres did not reply in time")
}

fn unexpected(outcome: &Outcome) -> StoreError {
    StoreError::new(StoreErrorKind::Other, format!("unexpected: {outcome:?}"))
}

fn changed(outcome: Outcome) -> Result<Change, StoreError> {
    match outcome {
        Outcome::Change(change) => Ok(change),
        other => Err(unexpected(&other)),
    }
}

fn about(target: &Target) -> u64 {
    match target {
        Target::Token(digest) => number(digest),
        Target::User { .. } => 1,
        // IDs are random, and a seed must give its calls the same names each time.
        _ => 0,
    }
}

impl SessionStore for SimulatedStore {
    async fn load(&self, digests: &[TokenDigest]) -> Result<ReadResult, StoreError> {
        let wanted = digests.to_vec();
        let about = digests.first().map_or(0, number);
        self.read("SELECT", about, move |postgres, now| postgres.load(&wanted, now)).await
    }

    async fn create(
        &self,
        digest: TokenDigest,
        new: &ValidatedSession,
    ) -> Result<Creation, StoreError> {
        let digest = self.world.lock().alias(digest);
        let statement = Statement::Create(digest, new.clone());
        match self.change("INSERT", number(&digest), statement).await? {
            Outcome::Creation(creation) => Ok(creation),
            other => Err(unexpected(&other)),
        }
    }

    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        let wanted = target.clone();
        self.read("digests", about(target), move |postgres, now| postgres.digests(&wanted, now))
            .await
    }

    async fn revoke(&self, target: &Target, _note: &RevocationNote) -> Result<Revoked, StoreError> {
        let statement = Statement::Revoke(target.clone());
        match self.change("revoke", about(target), statement).await? {
            Outcome::Revoked(revoked) => Ok(revoked),
            other => Err(unexpected(&other)),
        }
    }

    async fn update(
        &self,
        id: SessionId,
        version: i64,
        data: &RawValue,
    ) -> Result<Change, StoreError> {
        let statement = Statement::Update(id, version, data.to_owned());
        changed(self.change("update", version.cast_unsigned(), statement).await?)
    }

    async fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        let new = self.world.lock().alias(new);
        let statement = Statement::Rotate(old, new, grace);
        changed(self.change("rotate", number(&old), statement).await?)
    }

    async fn touch(&self, id: SessionId, granularity: Duration) -> Result<Change, StoreError> {
        self.world.lock().coverage.saw(Event::Touch);
        for touch in 0..TOUCHES {
            if touch > 0 {
                sleep(BETWEEN_TOUCHES).await;
            }
            match self.touch_once(Statement::Touch(id, granularity)).await? {
                Change::Conflict => {}
                change => return Ok(change),
            }
        }
        self.world.lock().coverage.saw(Event::CancelledTouch);
        Ok(Change::Conflict)
    }

    async fn list(
        &self,
        _user: &str,
        _after: Option<ListCursor>,
        _limit: usize,
    ) -> Result<SessionPage, StoreError> {
        Ok(SessionPage::default())
    }

    async fn login_snapshot(&self) -> Result<LoginSnapshot, StoreError> {
        self.read("login", 0, |postgres, _| postgres.login_snapshot()).await
    }

    async fn journal_since(
        &self,
        position: Option<&JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let began = self.world.stamp();
        let by_time = self.mistake == Some(Mistake::JournalByTime);
        let position = position.cloned();
        let read = self.read("journal", 0, move |postgres, now| match by_time {
            true => postgres.journal_since_a_time(position.as_ref(), now),
            false => postgres.journal_since(position.as_ref(), now),
        });
        let read = read.await;
        if read.is_err() {
            self.world.lock().record_failed_journal_read(self.node, began);
        }
        read
    }

    async fn register_node(&self, node: &NodeRegistration) -> Result<Option<StoreId>, StoreError> {
        let node = node.clone();
        let registering = self.world.ask(self.call("register", 0), move |state| {
            let now = state.now;
            Step::Done(state.postgres.register(&node, now))
        });
        timeout(DEFAULT_CHANGE_DEADLINE, registering).await.unwrap_or_else(|_| Err(late()))
    }

    async fn forget_node(&self, id: RegistrationId) -> Result<(), StoreError> {
        let forgetting = self
            .world
            .ask(self.call("forget", 0), move |state| Step::Done(state.postgres.forget(id)));
        timeout(DEFAULT_CHANGE_DEADLINE, forgetting).await.unwrap_or_else(|_| Err(late()))
    }

    /// Only a node that pauses calls it.
    async fn close_idle(&self) {
        self.world.lock().coverage.saw(Event::PausedNode);
    }

    async fn is_one_cache(&self, cache: &CacheId) -> Result<bool, StoreError> {
        let cache = *cache;
        self.read("nodes", 0, move |postgres, now| postgres.is_one_cache(&cache, now)).await
    }

    fn backend(&self) -> &'static str {
        "postgres"
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.load(&[]).await.map(drop)
    }

    async fn close(&self) {}
}
