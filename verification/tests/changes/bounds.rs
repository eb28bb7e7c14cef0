//! How long a revoked session remains valid: the table of `docs/failure-modes.md`, "Bounds by
//! visibility and node", cell by cell.
//!
//! A bound counts from the reply. No validation that *begins* after it may be valid, and no margin
//! is added for a slow machine. If the machine stalled for so long that a cell was not tested (the
//! entry was too old, or a connected node reports that it was not), the test is repeated.
//!
//! Redis loses the removal, and each test checks that the entry remained.
//!
//! - *One server* acknowledges the UNLINK and does not execute it
//!   ([`Forgetful`](crate::changes::lost_invalidations::Forgetful)).
//! - *With a replica*, a real replica without the UNLINK takes over. The reader may not execute
//!   INFO, as with some managed services. Any other node observes another incarnation and serves
//!   none of its entries (`redis_down/old_data.rs`). Here only the journal and the TTL remain.

mod scene;

use std::time::Duration;

use session_layer::{Created, Error, PartitionPolicy, Visibility};
use session_testkit::proxy::{Peer, Toxic};
use session_testkit::wait;
use tokio::time::Instant;

use self::Answer::{Committed, PlainSql, Propagated, Unknown};
use self::Reader::{CutOff, InTouch};
use self::Redis::{OneServer, WithReplica};
use self::scene::{ENTRY, READER, REVOKER, Scene};
use crate::changes::lost_invalidations::{AT_MOST, D, lives_on};
use crate::harness::{Failure, Outcome};
use crate::support::{SOON, until};

const AVAILABLE: Reader = CutOff(PartitionPolicy::Available);
const FAIL_CLOSED: Reader = CutOff(PartitionPolicy::FailClosed);
const AT_ONCE: Duration = Duration::ZERO;
/// An entry with this remaining TTL outlives D, also on a machine that stalls for seconds.
const YOUNG: Duration = Duration::from_secs(4);

/// Makes a test of each cell: the result of the change, the reader, Redis, and the bound. With a
/// replica, no result is `Propagated`.
macro_rules! cells {
    ($($test:ident: $answer:expr, $reader:expr, $redis:expr, $bound:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() -> Outcome {
            let cell = Cell { answer: $answer, reader: $reader, redis: $redis, bound: $bound };
            cell.test().await
        }
    )*};
}

#[rustfmt::skip]
cells! {
    bound_propagated_in_touch:                      Propagated, InTouch, OneServer, AT_ONCE;
    bound_propagated_cut_off_available:             Propagated, AVAILABLE, OneServer, AT_ONCE;
    bound_propagated_cut_off_fail_closed:           Propagated, FAIL_CLOSED, OneServer, AT_ONCE;

    bound_committed_in_touch:                       Committed, InTouch, OneServer, D;
    bound_committed_cut_off_available:              Committed, AVAILABLE, OneServer, AT_MOST;
    bound_committed_cut_off_fail_closed:            Committed, FAIL_CLOSED, OneServer, D;
    bound_committed_in_touch_with_a_replica:        Committed, InTouch, WithReplica, D;
    bound_committed_cut_off_available_with_a_replica: Committed, AVAILABLE, WithReplica, AT_MOST;
    bound_committed_cut_off_fail_closed_with_a_replica: Committed, FAIL_CLOSED, WithReplica, D;

    bound_unknown_in_touch:                         Unknown, InTouch, OneServer, D;
    bound_unknown_cut_off_available:                Unknown, AVAILABLE, OneServer, AT_MOST;
    bound_unknown_cut_off_fail_closed:              Unknown, FAIL_CLOSED, OneServer, D;
    bound_unknown_in_touch_with_a_replica:          Unknown, InTouch, WithReplica, D;
    bound_unknown_cut_off_available_with_a_replica: Unknown, AVAILABLE, WithReplica, AT_MOST;
    bound_unknown_cut_off_fail_closed_with_a_replica: Unknown, FAIL_CLOSED, WithReplica, D;

    bound_sql_in_touch:                             PlainSql, InTouch, OneServer, D;
    bound_sql_cut_off_available:                    PlainSql, AVAILABLE, OneServer, AT_MOST;
    bound_sql_cut_off_fail_closed:                  PlainSql, FAIL_CLOSED, OneServer, D;
    bound_sql_in_touch_with_a_replica:              PlainSql, InTouch, WithReplica, D;
    bound_sql_cut_off_available_with_a_replica:     PlainSql, AVAILABLE, WithReplica, AT_MOST;
    bound_sql_cut_off_fail_closed_with_a_replica:   PlainSql, FAIL_CLOSED, WithReplica, D;
}

struct Cell {
    answer: Answer,
    reader: Reader,
    redis: Redis,
    bound: Duration,
}

/// The result of the change that ends the session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Propagated,
    Committed,
    /// The change was made, but Postgres' reply was lost.
    Unknown,
    /// Direct SQL, which neither the cache nor a node observes.
    PlainSql,
}

/// The state of the node that reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Connected to Postgres, under either policy.
    InTouch,
    /// Partitioned from Postgres before the session ends.
    CutOff(PartitionPolicy),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Redis {
    OneServer,
    WithReplica,
}

impl Cell {
    async fn test(&self) -> Outcome {
        let policies = match self.reader {
            InTouch => vec![PartitionPolicy::Available, PartitionPolicy::FailClosed],
            CutOff(policy) => vec![policy],
        };
        for policy in policies {
            while !self.is_tested(policy).await? {}
        }
        Ok(())
    }

    /// Tests the bound. Returns `false` if the machine stalled, and nothing was tested.
    async fn is_tested(&self, policy: PartitionPolicy) -> Result<bool, Failure> {
        let scene = Scene::start(policy, self.redis).await?;
        let alice = scene.cached().await?;
        let line = scene.network.proxy(READER, Peer::Postgres);
        let cut = (self.reader != InTouch).then(|| line.inject(Toxic::down()));
        let lost = self.answer != Propagated;
        if lost {
            scene.lose_removals().await?;
        }
        let ended = self.end(&scene, &alice, policy).await?;
        // A fence would replace the entry for 5 s.
        match scene.there(&alice).await? {
            Some((ENTRY, left)) if lost && left < YOUNG => return Ok(false),
            Some((ENTRY, _)) if lost => {}
            None if !lost => {}
            other => panic!("{other:?}"),
        }

        let (lived, led_over) =
            tokio::join!(lives_on(&scene.reader, &alice, ended, self.bound), scene.fail_over());
        let lived = lived?;
        led_over?;
        eprintln!("{policy:?}: {lived:?}");
        if self.reader == InTouch && lost && lived.out_of_touch {
            return Ok(false);
        }
        assert!(lived.is_within(self.bound), "{lived:?}");
        let afterwards = if cut.is_some() { "unavailable" } else { "invalid" };
        assert_eq!(lived.answer, afterwards);
        // The entry remained, and was served if the policy allows it.
        match self.reader {
            AVAILABLE if lost => {
                assert!(!lived.is_within(D), "the entry was not served: {lived:?}");
            }
            FAIL_CLOSED if lost => {
                let there = scene.there(&alice).await?;
                assert!(matches!(there, Some((ENTRY, _))), "{there:?}");
                let health = serde_json::to_value(scene.reader.health().await)?;
                let journal = &health["journal"];
                assert!(journal["ageMs"].as_u64() > journal["withinMs"].as_u64(), "{health}");
            }
            _ => {}
        }

        drop(cut);
        until(&scene.reader, &alice, "invalid").await?;
        // A second call is safe, also after a lost reply.
        let again = scene.revoker.revoke(alice.token.reveal()).await?;
        assert_eq!(again.value, 0, "{again:?}");
        Ok(true)
    }

    /// Ends the session with the result of the cell. Returns the moment of the reply.
    async fn end(
        &self,
        scene: &Scene,
        alice: &Created,
        policy: PartitionPolicy,
    ) -> Result<Instant, Failure> {
        let revoking = scene.revoker.revoke(alice.token.reveal());
        match self.answer {
            Propagated => assert_eq!(revoking.await?.visibility, Visibility::Propagated),
            Committed => {
                let at_most = match policy {
                    PartitionPolicy::FailClosed => D,
                    _ => AT_MOST,
                };
                let within = D;
                let visibility = Visibility::Committed { within, at_most };
                assert_eq!(revoking.await?.visibility, visibility);
            }
            Unknown => {
                // The reason is a parameter of the revocation's statement, after its length.
                let revocation = b"\0\0\0\x07revoked";
                let line = scene.network.proxy(REVOKER, Peer::Postgres);
                let lost = line.inject(Toxic::lose_reply(revocation));
                let error = revoking.await.expect_err("its reply was lost");
                assert!(matches!(error, Error::Unknown(_)), "{error:?}");
                assert!(lost.heal().touched_something());
                wait::until("the change, which was made", SOON, async || {
                    scene.has_ended(alice).await.expect("Postgres is up")
                })
                .await?;
            }
            // Each policy is tested with one of the statements.
            PlainSql => {
                let change = match policy {
                    PartitionPolicy::FailClosed => "DELETE FROM sessions",
                    _ => "UPDATE sessions SET revoked_at = now()",
                };
                let id = alice.session.id();
                scene.servers.sql(format!("{change} WHERE id = '{id}'")).await?;
            }
        }
        Ok(Instant::now())
    }
}
