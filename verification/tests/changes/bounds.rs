//! How long a revoked session remains valid: the table of `docs/failure-modes.md`, "Bounds by
//! visibility and node", cell by cell.
//!
//! A bound counts from the answer, and is about validations that *begin*: none that begins after it
//! may be valid. Nothing is added for a slow machine. Where it stalled so long that a cell could
//! not be looked at (the copy too old, the node that is to be in touch out of it by its own
//! account), the same is done once more.
//!
//! No cell is proved by a Redis that is empty: it loses the removal, and each test looks for the
//! copy that it kept.
//!
//! - *One server* acknowledges the UNLINK and does not carry it out
//!   ([`Forgetful`](crate::changes::lost_invalidations::Forgetful)).
//! - *With a replica* a real one takes over that never got the UNLINK. The reader is one that may
//!   not ask INFO, as with some managed services: any other sees that the copies are another
//!   incarnation's, and serves none from the start (`redis_down/old_data.rs`). Here all rests on
//!   the journal and on the TTL.

mod scene;

use std::time::Duration;

use session_layer::{Created, Error, PartitionPolicy, Visibility};
use session_testkit::backends::Backends;
use session_testkit::proxy::{Peer, Toxic};
use session_testkit::wait;
use tokio::time::Instant;

use self::Answer::{Committed, PlainSql, Propagated, Unknown};
use self::Reader::{CutOff, InTouch};
use self::Redis::{OneServer, WithReplica};
use self::scene::{COPY, READER, REVOKER, Scene};
use crate::changes::lost_invalidations::{AT_MOST, D, lives_on};
use crate::harness::{Failure, Outcome, shared};
use crate::support::{SOON, ask};

const AVAILABLE: Reader = CutOff(PartitionPolicy::Available);
const FAIL_CLOSED: Reader = CutOff(PartitionPolicy::FailClosed);
const AT_ONCE: Duration = Duration::ZERO;
/// A copy that has so much left outlives D, on a machine that stalls for seconds as well.
const YOUNG: Duration = Duration::from_secs(4);

/// Makes a test of each cell: what came of the change, the reader, Redis, and the bound.
///
/// With a replica nothing is `Propagated`: that is part of what the cells of `Committed` say.
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
    CutOff(PartitionPolicy),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Redis {
    OneServer,
    WithReplica,
}

impl Cell {
    async fn test(&self) -> Outcome {
        let backends = shared().await?;
        match self.reader {
            InTouch => {
                self.holds(&backends, PartitionPolicy::Available).await?;
                self.holds(&backends, PartitionPolicy::FailClosed).await
            }
            CutOff(policy) => self.holds(&backends, policy).await,
        }
    }

    async fn holds(&self, backends: &Backends, policy: PartitionPolicy) -> Outcome {
        while !self.shown(backends, policy).await? {}
        Ok(())
    }

    /// False if the machine stalled, and nothing was shown.
    async fn shown(&self, backends: &Backends, policy: PartitionPolicy) -> Result<bool, Failure> {
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
        match scene.there(&alice).await? {
            Some((COPY, left)) if lost && left < YOUNG => return Ok(false),
            Some((COPY, _)) if lost => {}
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
        // Not because there was nothing to serve.
        match self.reader {
            AVAILABLE if lost => assert!(!lived.is_within(D), "it ended too soon: {lived:?}"),
            FAIL_CLOSED if lost => {
                let there = scene.there(&alice).await?;
                assert!(matches!(there, Some((COPY, _))), "{there:?}");
            }
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
        Ok(true)
    }

    /// Ends the session; the answer is as the cell says, and came at this moment.
    async fn end(
        &self,
        scene: &Scene<'_>,
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
                    PartitionPolicy::FailClosed => "DELETE FROM {}.sessions",
                    _ => "UPDATE {}.sessions SET revoked_at = now()",
                };
                scene.run(change, alice).await?;
            }
        }
        Ok(Instant::now())
    }
}
