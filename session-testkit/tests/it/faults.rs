//! Every server fault is seen by a plain client, says what it touched, and heals.

mod postgres;
mod redis;

use session_testkit::{
    backends::{Backend, BackendError, Backends},
    faults::{self, Fault, FaultError, Target},
};

use crate::harness::{Outcome, Registry};

pub(crate) fn tests(reg: &mut Registry) {
    redis::tests(reg);
    postgres::tests(reg);
    reg.each_backend("are_refused_on_given_servers", refused_on_given);
}

async fn refused_on_given(backend: Backend) -> Outcome {
    let own = Backends::builder().backend(backend).start().await?;
    let given = Backends::builder()
        .redis_url(own.redis().url())
        .database_url(own.postgres().url())
        .start()
        .await?;
    let target = Target::new(&given);
    for fault in Fault::ALL {
        let refused = faults::inject(&fault, &target).await;
        assert!(
            matches!(
                refused,
                Err(FaultError::Backend(BackendError::NotAllowed { .. }))
            ),
            "{fault}: {refused:?}"
        );
    }
    // Allowed by name; but nobody can signal what he has not started.
    let given = Backends::builder()
        .redis_url(own.redis().url())
        .database_url(own.postgres().url())
        .allow_destructive()
        .start()
        .await?;
    let target = Target::new(&given);
    faults::inject(&Fault::RedisFlushAll, &target)
        .await?
        .heal()
        .await?;
    for fault in [Fault::RedisKill, Fault::PostgresKill, Fault::RedisPause] {
        let refused = faults::inject(&fault, &target).await;
        assert!(
            matches!(
                refused,
                Err(FaultError::Backend(BackendError::NotOurs { .. }))
            ),
            "{fault}: {refused:?}"
        );
    }
    own.redis().ping().await?;
    own.postgres().ping().await?;
    Ok(())
}
