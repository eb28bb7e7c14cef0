//! How long can a revoked session live on? The table of `docs/failure-modes.md`, "The answer of `revoke` against
//! the state of the node that reads", cell by cell.
//!
//! A bound counts from the answer, and is about validations that *begin*: none that begins after it may be
//! valid. Nothing is added for a slow machine.
//!
//! No cell is proved by a Redis that is empty: it loses the removal, and each test looks for the copy that it
//! kept.
//!
//! - *One server* acknowledges the UNLINK and does not carry it out ([`Forgetful`](crate::forgetful::Forgetful)).
//! - *With a replica* a real one takes over that never got the UNLINK. The reader is one that may not ask INFO, as
//!   with some managed services: any other sees that the copies are another incarnation's, and serves none from
//!   the start (`incarnation.rs`). Here all rests on the journal and on the TTL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use session_layer::{Created, Error, Policy, Reach, Sessions};
use session_testkit::backends::{Backends, RedisServer, Sandbox};
use session_testkit::proxy::{Network, Peer, Toxic};
use session_testkit::wait;
use tokio::time::Instant;

use self::Answer::{Committed, PlainSql, Propagated, Unknown};
use self::Reader::{CutOff, InTouch};
use self::Redis::{OneServer, WithReplica};
use crate::forgetful::{AT_MOST, D, lives_on, node, store_on};
use crate::harness::{Failure, Outcome, Registry};
use crate::support::{OwnRedis, SOON, ask, key, login, until_connected, until_hit};

const AVAILABLE: Reader = CutOff(Policy::Available);
const FAIL_CLOSED: Reader = CutOff(Policy::FailClosed);
const AT_ONCE: Duration = Duration::ZERO;

/// With a replica nothing is `Propagated`: that is part of what the cells of `Committed` say.
#[rustfmt::skip]
const CELLS: &[Cell] = &[
    //   the test                                              the answer  the reader   Redis        bound
    cell("bound_propagated_in_touch",                          Propagated, InTouch,     OneServer,   AT_ONCE),
    cell("bound_propagated_cut_off_available",                 Propagated, AVAILABLE,   OneServer,   AT_ONCE),
    cell("bound_propagated_cut_off_fail_closed",               Propagated, FAIL_CLOSED, OneServer,   AT_ONCE),

    cell("bound_committed_in_touch",                           Committed,  InTouch,     OneServer,   D),
    cell("bound_committed_cut_off_available",                  Committed,  AVAILABLE,   OneServer,   AT_MOST),
    cell("bound_committed_cut_off_fail_closed",                Committed,  FAIL_CLOSED, OneServer,   D),
    cell("bound_committed_in_touch_with_a_replica",            Committed,  InTouch,     WithReplica, D),
    cell("bound_committed_cut_off_available_with_a_replica",   Committed,  AVAILABLE,   WithReplica, AT_MOST),
    cell("bound_committed_cut_off_fail_closed_with_a_replica", Committed,  FAIL_CLOSED, WithReplica, D),

    cell("bound_unknown_in_touch",                             Unknown,    InTouch,     OneServer,   D),
    cell("bound_unknown_cut_off_available",                    Unknown,    AVAILABLE,   OneServer,   AT_MOST),
    cell("bound_unknown_cut_off_fail_closed",                  Unknown,    FAIL_CLOSED, OneServer,   D),
    cell("bound_unknown_in_touch_with_a_replica",              Unknown,    InTouch,     WithReplica, D),
    cell("bound_unknown_cut_off_available_with_a_replica",     Unknown,    AVAILABLE,   WithReplica, AT_MOST),
    cell("bound_unknown_cut_off_fail_closed_with_a_replica",   Unknown,    FAIL_CLOSED, WithReplica, D),

    cell("bound_sql_in_touch",                                 PlainSql,   InTouch,     OneServer,   D),
    cell("bound_sql_cut_off_available",                        PlainSql,   AVAILABLE,   OneServer,   AT_MOST),
    cell("bound_sql_cut_off_fail_closed",                      PlainSql,   FAIL_CLOSED, OneServer,   D),
    cell("bound_sql_in_touch_with_a_replica",                  PlainSql,   InTouch,     WithReplica, D),
    cell("bound_sql_cut_off_available_with_a_replica",         PlainSql,   AVAILABLE,   WithReplica, AT_MOST),
    cell("bound_sql_cut_off_fail_closed_with_a_replica",       PlainSql,   FAIL_CLOSED, WithReplica, D),
];

pub(crate) fn tests(reg: &mut Registry) {
    for cell in CELLS {
        reg.shared(cell.test, |backends| cell.test(backends));
    }
}

struct Cell {
    test: &'static str,
    answer: Answer,
    reader: Reader,
    redis: Redis,
    bound: Duration,
}

/// What came of ending the session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Propagated,
    Committed,
    /// The change was made, but Postgres' answer was lost.
    Unknown,
    /// Nobody was asked: neither cache nor any node knows.
    PlainSql,
}

/// The state of the node that reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// With Postgres, under either policy.
    InTouch,
    /// From Postgres, before the session ends.
    CutOff(Policy),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Redis {
    OneServer,
    WithReplica,
}

const fn cell(
    test: &'static str,
    answer: Answer,
    reader: Reader,
    redis: Redis,
    bound: Duration,
) -> Cell {
    Cell {
        test,
        answer,
        reader,
        redis,
        bound,
    }
}

impl Cell {
    async fn test(&self, backends: Arc<Backends>) -> Outcome {
        match self.reader {
            InTouch => {
                self.holds(&backends, Policy::Available).await?;
                self.holds(&backends, Policy::FailClosed).await
            }
            CutOff(policy) => self.holds(&backends, policy).await,
        }
    }

    async fn holds(&self, backends: &Backends, policy: Policy) -> Outcome {
        let sandbox = backends.sandbox();
        let scene = Scene::start(backends, &sandbox, policy, self.redis).await?;
        let alice = scene.cached().await?;
        let line = scene.network.proxy(READER, Peer::Postgres);
        let cut = (self.reader != InTouch).then(|| line.inject(Toxic::down()));
        let lost = self.answer != Propagated;
        if lost {
            scene.lose_removals().await?;
        }
        let ended = self.end(&scene, &alice, policy).await?;
        // Nor is there a fence, which would keep a copy away for 5 s.
        assert_eq!(scene.there(&alice).await?, lost.then_some(COPY));

        let (lived, led_over) = tokio::join!(
            lives_on(&scene.reader, &alice, ended, self.bound),
            scene.fail_over()
        );
        let lived = lived?;
        led_over?;
        eprintln!("{}, {policy:?}: {lived:?}", self.test);
        assert!(lived.is_within(self.bound), "{lived:?}");
        let afterwards = if cut.is_some() {
            "unavailable"
        } else {
            "invalid"
        };
        assert_eq!(lived.answer, afterwards);
        // Not because there was nothing to serve.
        match self.reader {
            AVAILABLE if lost => assert!(!lived.is_within(D), "it ended too soon: {lived:?}"),
            FAIL_CLOSED if lost => assert_eq!(scene.there(&alice).await?, Some(COPY)),
            _ => {}
        }

        drop(cut);
        wait::until("Postgres to be asked again", SOON, async || {
            ask(&scene.reader, &alice).await == "invalid"
        })
        .await?;
        // To call again is safe, above all where the answer was lost.
        let again = scene.revoker.revoke(alice.token.reveal()).await?;
        assert_eq!(again.value, 0, "{again:?}");
        Ok(())
    }

    /// Ends the session; the answer is as the cell says, and came at this moment.
    async fn end(
        &self,
        scene: &Scene<'_>,
        alice: &Created,
        policy: Policy,
    ) -> Result<Instant, Failure> {
        let revoking = scene.revoker.revoke(alice.token.reveal());
        match self.answer {
            Propagated => assert_eq!(revoking.await?.reach, Reach::Propagated),
            Committed => {
                let at_most = match policy {
                    Policy::FailClosed => D,
                    _ => AT_MOST,
                };
                let within = D;
                let reach = Reach::Committed { within, at_most };
                assert_eq!(revoking.await?.reach, reach);
            }
            Unknown => {
                // A parameter of the statement that revokes: its length, and the reason.
                let revocation = b"\0\0\0\x07revoked";
                let line = scene.network.proxy(REVOKER, Peer::Postgres);
                let lost = line.inject(Toxic::lose_reply(revocation));
                let error = revoking.await.expect_err("its answer was lost");
                assert!(matches!(error, Error::Unknown(_)), "{error:?}");
                assert!(lost.heal().touched_something());
                wait::until("the change, which was made", SOON, async || {
                    scene.has_ended(alice).await.expect("Postgres is up")
                })
                .await?;
            }
            // Both statements count alike; each policy gets one.
            PlainSql => {
                let change = match policy {
                    Policy::FailClosed => "DELETE FROM {}.sessions",
                    _ => "UPDATE {}.sessions SET revoked_at = now()",
                };
                scene.run(change, alice).await?;
            }
        }
        Ok(Instant::now())
    }
}

const REVOKER: usize = 0;
const READER: usize = 1;

/// Two nodes on one Redis, and the lines between them and their servers.
struct Scene<'a> {
    backends: &'a Backends,
    sandbox: &'a Sandbox,
    revoker: Sessions,
    reader: Sessions,
    network: Network,
    redis: RedisServer,
    /// Takes over from it.
    replica: Option<RedisServer>,
    /// The revoker's removals are acknowledged and lost; the reader's as well, for it would end the copy itself
    /// as soon as it reads of it.
    revoker_loses: Arc<AtomicBool>,
    reader_loses: Arc<AtomicBool>,
}

impl<'a> Scene<'a> {
    async fn start(
        backends: &'a Backends,
        sandbox: &'a Sandbox,
        policy: Policy,
        redis: Redis,
    ) -> Result<Self, Failure> {
        let (redis, replica) = match redis {
            OneServer => (backends.redis().clone(), None),
            WithReplica => {
                let (master, replica) = pair(backends).await?;
                (master, Some(replica))
            }
        };
        let network = Network::start(2, redis.address(), backends.postgres().address()).await?;
        let (revoker_loses, reader_loses) = (Arc::default(), Arc::default());
        let node = async |number, loses| {
            let url = network.proxy(number, Peer::Postgres);
            let store = store_on(&url.url(sandbox.database_url()), sandbox).await?;
            let mut url = network.proxy(number, Peer::Redis).url(redis.url());
            if replica.is_some() && number == READER {
                url = url.replacen("redis://", &format!("redis://{WITHOUT_INFO}:secret@"), 1);
            }
            node(&url, store, sandbox, policy, loses)
        };
        Ok(Self {
            backends,
            sandbox,
            revoker: node(REVOKER, &revoker_loses).await?,
            reader: node(READER, &reader_loses).await?,
            network,
            redis,
            replica,
            revoker_loses,
            reader_loses,
        })
    }

    /// A session that the reader serves from Redis, all Redis there is.
    async fn cached(&self) -> Result<Created, Failure> {
        until_connected(&self.revoker).await?;
        let alice = login(&self.revoker, "alice").await?;
        until_hit(&self.reader, &alice).await?;
        if let Some(replica) = &self.replica {
            wait::until("the copy on the replica", SOON, async || {
                there(replica, self.sandbox, &alice)
                    .await
                    .is_ok_and(|it| it == Some(COPY))
            })
            .await?;
        }
        Ok(alice)
    }

    /// From now on removals do not reach the Redis that the reader will ask.
    async fn lose_removals(&self) -> Outcome {
        self.reader_loses.store(true, Ordering::SeqCst);
        match &self.replica {
            // It lags behind: promoted, it takes nothing from its master any more.
            Some(replica) => replica.replica_of(None).await?,
            None => self.revoker_loses.store(true, Ordering::SeqCst),
        }
        Ok(())
    }

    /// The replica, if there is one, takes over. Only the reader is led there: the revoker would remove the copy,
    /// for it too reads the journal.
    async fn fail_over(&self) -> Outcome {
        let Some(replica) = &self.replica else {
            return Ok(());
        };
        let line = self.network.proxy(READER, Peer::Redis);
        line.set_target(replica.address());
        drop(line.inject(Toxic::down().established()));
        self.redis.replica_of(Some(replica)).await?;
        let mut admin = replica.connect().await?;
        wait::until("the reader at the promoted server", SOON, async || {
            let clients: Result<String, _> = redis::cmd("CLIENT")
                .arg("LIST")
                .query_async(&mut admin)
                .await;
            clients.is_ok_and(|clients| clients.contains(&format!("user={WITHOUT_INFO}")))
        })
        .await?;
        Ok(())
    }

    /// What the reader will find.
    async fn there(&self, created: &Created) -> Result<Option<u8>, Failure> {
        let redis = self.replica.as_ref().unwrap_or(&self.redis);
        there(redis, self.sandbox, created).await
    }

    async fn has_ended(&self, created: &Created) -> Result<bool, Failure> {
        let ended = format!(
            "SELECT revoked_at IS NOT NULL FROM {}.sessions WHERE id = '{}'",
            self.sandbox.schema(),
            created.session.id()
        );
        let mut person = self.backends.postgres().connect().await?;
        let ended = sqlx::query_scalar(sqlx::AssertSqlSafe(ended));
        Ok(ended.fetch_one(&mut person).await?)
    }

    async fn run(&self, change: &str, of: &Created) -> Outcome {
        let change = change.replace("{}", self.sandbox.schema());
        let change = format!("{change} WHERE id = '{}'", of.session.id());
        sqlx::raw_sql(sqlx::AssertSqlSafe(change))
            .execute(&mut self.backends.postgres().connect().await?)
            .await?;
        Ok(())
    }
}

/// A Redis user.
const WITHOUT_INFO: &str = "poor";

/// A master and its replica, of the test's own.
async fn pair(backends: &Backends) -> Result<(RedisServer, RedisServer), Failure> {
    let master = OwnRedis::start(backends).await?.redis;
    let replica = OwnRedis::start(backends).await?.redis;
    replica.replica_of(Some(&master)).await?;
    for server in [&master, &replica] {
        let rights = [
            "SETUSER",
            WITHOUT_INFO,
            "on",
            ">secret",
            "~*",
            "+@all",
            "-info",
        ];
        let mut redis = server.connect().await?;
        let () = redis::cmd("ACL")
            .arg(&rights)
            .query_async(&mut redis)
            .await?;
    }
    Ok((master, replica))
}

/// What a copy begins with; a lease begins with `L`, and a fence is a `T`.
const COPY: u8 = b'V';

/// What the value under the session's key begins with, if there is one.
async fn there(
    redis: &RedisServer,
    sandbox: &Sandbox,
    created: &Created,
) -> Result<Option<u8>, Failure> {
    let value: Option<Vec<u8>> = redis::cmd("GET")
        .arg(key(sandbox, created))
        .query_async(&mut redis.connect().await?)
        .await?;
    Ok(value.and_then(|value| value.first().copied()))
}
