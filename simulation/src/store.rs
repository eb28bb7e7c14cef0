//! The port to the simulated Postgres, as `PostgresStore` is to a real one.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use session_layer::store::{
    Change, Creation, JournalPosition, JournalRead, Loaded, Revoked, SessionStore, Target,
};
use session_layer::{
    CheckedSession, ListedSession, LoginMoment, SessionId, StoreError, StoreErrorKind, TokenDigest,
};
use tokio::time::{sleep, timeout};

use crate::coverage::Event;
use crate::mutants::Mistake;
use crate::postgres::{Outcome, Postgres, Transaction, Wish};
use crate::world::{Call, Millis, State, Step, World, number};

/// As those of `PostgresStore`.
const READ_DEADLINE: Duration = session_layer::store::READ_DEADLINE;
const CHANGE_DEADLINE: Duration = session_layer::store::CHANGE_DEADLINE;
const LOOKS: u32 = 4;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// One node's.
pub(crate) struct SimulatedStore {
    pub(crate) world: Arc<World>,
    pub(crate) node: u32,
    pub(crate) life: u32,
    pub(crate) mistake: Option<Mistake>,
}

impl SimulatedStore {
    fn call(&self, what: &'static str, about: u64) -> Call {
        Call {
            node: self.node,
            life: self.life,
            what,
            about,
            lane: None,
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        about: u64,
        read: impl Fn(&Postgres, Millis) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut asked = None;
        let answer = self.world.ask(self.call(what, about), move |state| {
            let refused = *asked.get_or_insert_with(|| is_refused(state, what, about));
            let answer = match refused {
                true => Err(refusal()),
                false => read(&state.postgres, state.now),
            };
            Step::Done(answer.inspect_err(|_| state.coverage.saw(Event::StoreError)))
        });
        if self.mistake == Some(Mistake::NoDeadline) {
            return answer.await;
        }
        timeout(READ_DEADLINE, answer)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn change(
        &self,
        what: &'static str,
        about: u64,
        wish: Wish,
    ) -> Result<Outcome, StoreError> {
        let answer = self.world.ask(
            self.call(what, about),
            changing(what, about, Transaction::new(wish)),
        );
        timeout(CHANGE_DEADLINE, answer).await.unwrap_or_else(|_| {
            Err(StoreError::new(
                StoreErrorKind::Uncertain,
                "the answer to the change is lost",
            ))
        })
    }

    /// One statement of a touch. It is part of a validation, and has the deadline of a read.
    async fn touch_once(&self, wish: Wish) -> Result<Change, StoreError> {
        let touch = changing("touch", 0, Transaction::new(wish));
        let answer = self.world.ask(self.call("touch", 0), touch);
        timeout(READ_DEADLINE, answer)
            .await
            .unwrap_or_else(|_| Err(late()))
            .and_then(changed)
    }
}

/// Goes on with a change until it has come to something.
pub(crate) fn changing(
    what: &'static str,
    about: u64,
    mut transaction: Transaction,
) -> impl FnMut(&mut State) -> Step<Result<Outcome, StoreError>> {
    let login = transaction.login();
    let mut refused = None;
    move |state| {
        if let Some(digest) = login {
            state.hears_of(digest);
        }
        if *refused.get_or_insert_with(|| is_refused(state, what, about)) {
            state.coverage.saw(Event::StoreError);
            return Step::Done(Err(refusal()));
        }
        let now = state.now;
        let step = state.postgres.go_on(&mut transaction, now);
        if state.postgres.committed_late {
            state.coverage.saw(Event::LateCommit);
        }
        if state.postgres.superseded {
            state.coverage.saw(Event::SupersededLogin);
        }
        if state.postgres.passed_a_lock {
            state.coverage.saw(Event::LockedTouch);
        }
        if state.postgres.overtaken {
            state.coverage.saw(Event::OvertakenTouch);
        }
        step.map_or(Step::Again, Step::Done)
    }
}

fn is_refused(state: &mut State, what: &'static str, about: u64) -> bool {
    let mut dice = state.dice(u32::MAX, what, about);
    state.weather().refuses(&mut dice)
}

fn refusal() -> StoreError {
    StoreError::new(
        StoreErrorKind::Other,
        "Postgres refuses: too many connections",
    )
}

fn late() -> StoreError {
    StoreError::new(StoreErrorKind::TimedOut, "Postgres did not answer in time")
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
        // Ids are random: a seed must name its calls the same way each time.
        _ => 0,
    }
}

impl SessionStore for SimulatedStore {
    async fn load(&self, digests: &[TokenDigest]) -> Result<Loaded, StoreError> {
        let wanted = digests.to_vec();
        let about = digests.first().map_or(0, number);
        self.read("SELECT", about, move |postgres, now| {
            postgres.load(&wanted, now)
        })
        .await
    }

    async fn create(
        &self,
        digest: TokenDigest,
        new: &CheckedSession,
    ) -> Result<Creation, StoreError> {
        let digest = self.world.lock().alias(digest);
        let wish = Wish::Create(digest, new.clone());
        match self.change("INSERT", number(&digest), wish).await? {
            Outcome::Creation(creation) => Ok(creation),
            other => Err(unexpected(&other)),
        }
    }

    async fn digests(&self, target: &Target) -> Result<Vec<TokenDigest>, StoreError> {
        let wanted = target.clone();
        self.read("digests", about(target), move |postgres, now| {
            postgres.digests(&wanted, now)
        })
        .await
    }

    async fn revoke(&self, target: &Target, _reason: &str) -> Result<Revoked, StoreError> {
        let wish = Wish::Revoke(target.clone());
        match self.change("revoke", about(target), wish).await? {
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
        let wish = Wish::Update(id, version, data.to_owned());
        changed(self.change("update", version.cast_unsigned(), wish).await?)
    }

    async fn rotate(
        &self,
        old: TokenDigest,
        new: TokenDigest,
        grace: Duration,
    ) -> Result<Change, StoreError> {
        let new = self.world.lock().alias(new);
        let wish = Wish::Rotate(old, new, grace);
        changed(self.change("rotate", number(&old), wish).await?)
    }

    async fn touch(&self, id: SessionId, granularity: Duration) -> Result<Change, StoreError> {
        self.world.lock().coverage.saw(Event::Touch);
        for look in 0..LOOKS {
            if look > 0 {
                sleep(BETWEEN_LOOKS).await;
            }
            match self.touch_once(Wish::Touch(id, granularity)).await? {
                Change::Conflict => {}
                change => return Ok(change),
            }
        }
        self.world.lock().coverage.saw(Event::GivenUpTouch);
        Ok(Change::Conflict)
    }

    async fn list(&self, _user_id: &str) -> Result<Vec<ListedSession>, StoreError> {
        Ok(Vec::new())
    }

    async fn login_moment(&self) -> Result<LoginMoment, StoreError> {
        self.read("login", 0, |postgres, _| postgres.login_moment())
            .await
    }

    async fn journal_since(
        &self,
        position: Option<JournalPosition>,
    ) -> Result<JournalRead, StoreError> {
        let began = self.world.stamp();
        let by_time = self.mistake == Some(Mistake::JournalByTime);
        let read = self.read("journal", 0, move |postgres, now| match by_time {
            true => postgres.journal_since_a_time(position, now),
            false => postgres.journal_since(position, now),
        });
        let read = read.await;
        if read.is_err() {
            // For the checker: the node is not for certain in touch.
            self.world.lock().note_journal_in_doubt(self.node, began);
        }
        read
    }

    fn backend(&self) -> &'static str {
        "postgres"
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.load(&[]).await.map(drop)
    }

    async fn close(&self) {}
}
