//! How many round trips a login and a logout cost, to Postgres and Redis together.

use std::collections::HashMap;

use session_testkit::proxy::{Proxy, Toxic};

use crate::harness::{Failure, Outcome};
use crate::support::{Servers, ask, by_leases_alone, login, until_hit};

/// The reply to each message that Postgres awaits: `ReadyForQuery`, outside of a transaction.
const READY: &[u8] = b"Z\0\0\0\x05I";
/// Commands that a node sends in the background.
const BACKGROUND: [&str; 5] = ["ping", "info", "client", "hello", "select"];

struct Counting {
    servers: Servers,
    postgres: Proxy,
}

impl Counting {
    /// Returns the round trips of `call`: to Postgres, and to Redis.
    async fn count(&self, call: impl AsyncFnOnce() -> Outcome) -> Result<(u64, u64), Failure> {
        let before = self.commands().await?;
        let counted = self.postgres.inject(Toxic::count(READY));
        call().await?;
        let postgres = counted.heal().occurrences;
        Ok((postgres, self.commands().await? - before))
    }

    /// Returns the number of commands that nodes have sent for requests so far.
    async fn commands(&self) -> Result<u64, Failure> {
        let mut redis = self.servers.redis().await?;
        let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut redis).await?;
        let calls: HashMap<&str, u64> = stats
            .lines()
            .filter_map(|line| {
                let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
                let command = command.split('|').next()?;
                Some((command, rest.split(',').next()?.parse().ok()?))
            })
            .collect();
        Ok(calls.iter().filter(|(command, _)| !BACKGROUND.contains(command)).map(|(_, n)| n).sum())
    }
}

// The least count of several tries is without work in the background. On a busy machine it includes
// the ping of a connection that was idle for 50 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_costs_one_round_trip_and_logout_four_in_turn() -> Outcome {
    let servers = Servers::own_redis().await?;
    let postgres = Proxy::start(servers.postgres().address()).await?;
    let store = servers.store_at(&postgres.url(servers.database_url())).await?;
    let sessions = by_leases_alone(servers.cache()?, store).await?;
    let counting = Counting { servers, postgres };
    let (mut logins, mut logouts) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let mut created = None;
        logins.push(
            counting
                .count(async || {
                    created = Some(login(&sessions, "alice").await?);
                    Ok(())
                })
                .await?,
        );
        let created = created.ok_or("no session")?;
        until_hit(&sessions, &created).await?;
        logouts.push(
            counting
                .count(async || {
                    let _visibility = sessions.revoke(created.token.reveal()).await?;
                    Ok(())
                })
                .await?,
        );
        assert_eq!(ask(&sessions, &created).await, "invalid");
    }
    println!("logins {logins:?}, logouts {logouts:?}");
    let least = |counts: Vec<(u64, u64)>| counts.into_iter().min_by_key(|(a, b)| a + b);
    let (postgres, redis) = least(logins).ok_or("no login")?;
    assert!((1..=2).contains(&postgres), "{postgres} to Postgres");
    assert_eq!(redis, 0, "to Redis");
    // In turn: the digests, the fence, the change, and the UNLINK. The read of the registrations is
    // sent with the UNLINK.
    let (postgres, redis) = least(logouts).ok_or("no logout")?;
    assert!((3..=4).contains(&postgres), "{postgres} to Postgres");
    assert_eq!(redis, 2, "to Redis");
    Ok(())
}
