//! Sessions that an operator revokes by direct SQL, without any node's knowledge.

use std::time::Duration;

use session_layer::defaults::DEFAULT_JOURNAL_INTERVAL;
use session_layer::{PartitionPolicy, TokenDigest, cache::LEASE_TTL};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::{
    backends::PostgresServer,
    deployment::Deployment,
    history::{Change, Entry, Nanos, Op, Operation, Touched},
    subject::{Failed, Visibility},
    workload::{Break, Failure, IssuedToken, Recorder, Tokens},
};

/// The maximum number of tokens drawn for one session.
const DRAWS: u64 = 8;
/// The number of most recently issued tokens to draw from, which are likely to be active.
const RECENT: usize = 500;
/// The number of sessions that a late commit revokes.
const AT_ONCE: u64 = 5;

/// An operator with direct SQL access.
#[derive(Clone)]
pub(super) struct Operator {
    postgres: PostgresServer,
    recorder: Recorder,
    tokens: Tokens,
    update: String,
    /// The visibility of a change by direct SQL.
    visibility: Visibility,
    seed: u64,
}

/// A session that was revoked, and when its revocation began.
struct Ended {
    of: IssuedToken,
    call: Nanos,
}

impl Operator {
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
        // Nodes learn of the change from the journal, within D. A partitioned node serves its
        // entries until their TTL is over. A fill in flight adds the time of its lease.
        let within = DEFAULT_JOURNAL_INTERVAL * 4;
        let at_most = match deployment.policy() {
            PartitionPolicy::FailClosed => within,
            _ => deployment.ttl().saturating_add(LEASE_TTL).max(within),
        };
        Self {
            postgres: deployment.backends().postgres().clone(),
            recorder: recorder.clone(),
            tokens: tokens.clone(),
            update,
            visibility: Visibility::Committed { within, at_most },
            seed,
        }
    }

    /// Revokes one session in its own transaction. Some of the tokens have no active session. With
    /// one draw per turn, an event of half a second would revoke none.
    pub(super) async fn revoke(self, turn: u64) -> Result<u64, Failure> {
        let mut connection = self.postgres.connect().await?;
        let mut ended = 0;
        for draw in 0..DRAWS {
            if let Some(one) = self.update(&mut connection, turn * DRAWS + draw).await? {
                self.record(&one, &Ok(self.visibility));
                ended = 1;
                break;
            }
        }
        // The result has arrived. The connection is closed for the server's sake.
        let _closed = connection.close().await;
        Ok(ended)
    }

    /// Returns `None` if the drawn token has no active session.
    async fn update(
        &self,
        connection: &mut PgConnection,
        turn: u64,
    ) -> Result<Option<Ended>, Failure> {
        let draw = self.seed.wrapping_add(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 16;
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
            // The update may have been executed.
            lost => {
                let why = match lost {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no reply".to_owned(),
                };
                self.record(&Ended { of, call }, &Err(Failed::unknown(&why)));
                Err(why.into())
            }
        }
    }

    fn record(&self, ended: &Ended, answer: &Result<Visibility, Failed>) {
        self.recorder.record(Entry::Op(Operation {
            // No node took part, but the history requires one.
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

pub(super) struct Late {
    operator: Operator,
    open: Option<(PgConnection, Vec<Ended>)>,
}

impl Late {
    pub(super) fn new(operator: Operator) -> Self {
        Self { operator, open: None }
    }
}

impl Break for Late {
    async fn cause(&mut self) -> Result<(), Failure> {
        let mut connection = self.operator.postgres.connect().await?;
        sqlx::raw_sql("BEGIN").execute(&mut connection).await?;
        let mut ended: Vec<Ended> = Vec::new();
        for turn in 0..10 * AT_ONCE {
            if ended.len() as u64 >= AT_ONCE {
                break;
            }
            ended.extend(self.operator.update(&mut connection, turn).await?);
        }
        self.open = Some((connection, ended));
        Ok(())
    }

    async fn heal(&mut self) -> Result<Option<Touched>, Failure> {
        let Some((mut connection, ended)) = self.open.take() else {
            return Ok(None);
        };
        let touched = Touched { connections: ended.len() as u64, bytes: 0 };
        let committed = sqlx::raw_sql("COMMIT").execute(&mut connection).await;
        for each in ended {
            let answer = match &committed {
                Ok(_) => Ok(self.operator.visibility),
                Err(error) => Err(Failed::unknown(error)),
            };
            self.operator.record(&each, &answer);
        }
        // Another fault may have closed the connection. The record then has an unknown result.
        let _closed = connection.close().await;
        Ok(Some(touched))
    }
}
