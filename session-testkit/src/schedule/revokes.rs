//! Sessions that a person ends by plain SQL, behind every node's back.

use std::time::Duration;

use session_layer::{DEFAULT_JOURNAL_INTERVAL, Policy, TokenDigest, cache::LEASE};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::{
    backends::PostgresServer,
    deployment::Deployment,
    history::{Change, Entry, Nanos, Op, Operation, Touched},
    subject::{Failed, Reach},
    workload::{Break, Failure, GivenOut, Recorder, Tokens},
};

/// So many tokens are drawn for one session at most.
const DRAWS: u64 = 8;
/// Ended are sessions of the last tokens that were given out: those that are likely to be alive.
const RECENT: usize = 500;
/// How many a late commit ends.
const AT_ONCE: u64 = 5;

/// A person with psql.
#[derive(Clone)]
pub(super) struct ByHand {
    postgres: PostgresServer,
    recorder: Recorder,
    tokens: Tokens,
    update: String,
    /// How far a change by plain SQL reaches.
    reach: Reach,
    seed: u64,
}

/// A session that was ended, and when that was asked for.
struct Ended {
    of: GivenOut,
    call: Nanos,
}

impl ByHand {
    pub(super) fn new(
        deployment: &Deployment,
        recorder: &Recorder,
        tokens: &Tokens,
        seed: u64,
    ) -> Self {
        let update = format!(
            "UPDATE {}.sessions SET revoked_at = now() \
             WHERE token_digest = $1 AND revoked_at IS NULL AND expires_at > now()",
            deployment.schema()
        );
        // Nobody tells a node but the journal, within D. One that can't read it has its copies until their
        // TTL is over, and that of a fill under way for the time of its lease more.
        let within = DEFAULT_JOURNAL_INTERVAL * 4;
        let at_most = match deployment.policy() {
            Policy::FailClosed => within,
            _ => deployment.ttl().saturating_add(LEASE).max(within),
        };
        Self {
            postgres: deployment.backends().postgres().clone(),
            recorder: recorder.clone(),
            tokens: tokens.clone(),
            update,
            reach: Reach::Committed { within, at_most },
            seed,
        }
    }

    /// One session, in a transaction of its own. Of the tokens in use some have no session that is alive: an event
    /// of half a second would end none, if each turn drew but once.
    pub(super) async fn revoke(self, turn: u64) -> Result<u64, Failure> {
        let mut connection = self.postgres.connect().await?;
        let mut ended = 0;
        for draw in 0..DRAWS {
            if let Some(one) = self.update(&mut connection, turn * DRAWS + draw).await? {
                self.record(&one, &Ok(self.reach));
                ended = 1;
                break;
            }
        }
        // Its answer was had; the server sees it go.
        let _closed = connection.close().await;
        Ok(ended)
    }

    /// `None` if the token that was drawn has no session that is alive.
    async fn update(
        &self,
        connection: &mut PgConnection,
        turn: u64,
    ) -> Result<Option<Ended>, Failure> {
        let draw = self
            .seed
            .wrapping_add(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            >> 16;
        let draw = usize::try_from(draw).unwrap_or_default();
        let Some(of) = self.tokens.recent(RECENT, draw) else {
            return Ok(None);
        };
        let digest = TokenDigest::of(of.token.reveal());
        let call = self.recorder.clock().now();
        let update =
            sqlx::query(AssertSqlSafe(self.update.clone())).bind(digest.as_bytes().as_slice());
        let done = tokio::time::timeout(Duration::from_secs(2), update.execute(connection)).await;
        match done {
            Ok(Ok(done)) => Ok((done.rows_affected() > 0).then_some(Ended { of, call })),
            // It may have been carried out.
            lost => {
                let why = match lost {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer".to_owned(),
                };
                self.record(&Ended { of, call }, &Err(Failed::unknown(&why)));
                Err(why.into())
            }
        }
    }

    fn record(&self, ended: &Ended, answer: &Result<Reach, Failed>) {
        self.recorder.record(Entry::Op(Operation {
            // No node had a hand in it; the history wants one.
            node: 0,
            call: ended.call,
            ret: Some(self.recorder.clock().now()),
            dropped: None,
            op: Op::Revoke {
                session: ended.of.session,
                token: ended.of.number,
                answer: Change::of(answer),
            },
        }));
    }
}

/// A transaction that ends sessions and is committed late.
pub(super) struct Late {
    by_hand: ByHand,
    open: Option<(PgConnection, Vec<Ended>)>,
}

impl Late {
    pub(super) fn new(by_hand: ByHand) -> Self {
        Self {
            by_hand,
            open: None,
        }
    }
}

impl Break for Late {
    async fn cause(&mut self) -> Result<(), Failure> {
        let mut connection = self.by_hand.postgres.connect().await?;
        sqlx::raw_sql("BEGIN").execute(&mut connection).await?;
        let mut ended: Vec<Ended> = Vec::new();
        for turn in 0..10 * AT_ONCE {
            if ended.len() as u64 >= AT_ONCE {
                break;
            }
            ended.extend(self.by_hand.update(&mut connection, turn).await?);
        }
        self.open = Some((connection, ended));
        Ok(())
    }

    async fn heal(&mut self) -> Result<Option<Touched>, Failure> {
        let Some((mut connection, ended)) = self.open.take() else {
            return Ok(None);
        };
        let touched = Touched {
            connections: ended.len() as u64,
            bytes: 0,
        };
        let committed = sqlx::raw_sql("COMMIT").execute(&mut connection).await;
        for each in ended {
            let answer = match &committed {
                Ok(_) => Ok(self.by_hand.reach),
                Err(error) => Err(Failed::unknown(error)),
            };
            self.by_hand.record(&each, &answer);
        }
        // Another fault may have taken the connection; what became of it is unknown, as recorded.
        let _closed = connection.close().await;
        Ok(Some(touched))
    }
}
