//! A typical session cache, and the test that finds its bug. This is the complete example of the
//! README. It ends with exit code 0, because it expects that R1 is broken.

use std::{error::Error, sync::Arc, time::Duration};

use redis::AsyncCommands as _;
use session_testkit::{
    backends::Backends,
    faults::Target,
    invariants::{self, Invariant, Outcome},
    proxy::{Network, Peer},
    subject::{Failed, Login, Seen, Subject, Token, Visibility},
    workload::{Runner, Scheduled, Settings},
};

struct MyCache {
    postgres: sqlx::PgPool,
    redis: [redis::Client; 2],
}

impl Subject for MyCache {
    fn nodes(&self) -> u32 {
        2
    }

    async fn create(&self, _node: u32, login: &Login) -> Result<Token, Failed> {
        let token = uuid::Uuid::new_v4().to_string();
        let insert = sqlx::query("INSERT INTO sessions VALUES ($1, $2, $3)");
        let insert =
            insert.bind(&token).bind(&login.user).bind(&login.data).execute(&self.postgres);
        insert.await.map_err(Failed::unknown)?;
        Ok(Token::new(token))
    }

    async fn validate(&self, node: u32, token: &Token) -> Seen {
        let mut redis = self.redis[node as usize].get_multiplexed_async_connection().await.ok();
        if let Some(redis) = &mut redis {
            let found: Option<(String, String)> =
                redis.hmget(token.reveal(), &["user", "data"]).await.ok();
            if let Some((user, data)) = found {
                return Seen::Valid { user, data };
            }
        }
        let select =
            sqlx::query_as("SELECT name, data FROM sessions WHERE token = $1").bind(token.reveal());
        let row: Result<Option<(String, String)>, _> = select.fetch_optional(&self.postgres).await;
        let Ok(row) = row else {
            return Seen::Unavailable;
        };
        let Some((user, data)) = row else {
            return Seen::Invalid;
        };
        if let Some(redis) = &mut redis {
            let _: Result<(), _> =
                redis.hset_multiple(token.reveal(), &[("user", &user), ("data", &data)]).await;
        }
        Seen::Valid { user, data }
    }

    async fn revoke(&self, node: u32, token: &Token) -> Result<Visibility, Failed> {
        let delete = sqlx::query("DELETE FROM sessions WHERE token = $1").bind(token.reveal());
        delete.execute(&self.postgres).await.map_err(Failed::unknown)?;
        if let Ok(mut redis) = self.redis[node as usize].get_multiplexed_async_connection().await {
            let _: Result<(), _> = redis.del(token.reveal()).await;
        }
        Ok(Visibility::Propagated) // the meaning of a plain `Ok(())` for its caller
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let servers = Backends::start_own().await?; // containers, else processes of this machine
    let (redis, postgres) = (servers.redis(), servers.postgres());
    let network = Arc::new(Network::start(2, redis.address(), postgres.address()).await?);
    let client = |node| redis::Client::open(network.proxy(node, Peer::Redis).url(redis.url()));
    let cache = MyCache {
        postgres: sqlx::PgPool::connect(postgres.url()).await?,
        redis: [client(0)?, client(1)?],
    };
    let table = "CREATE TABLE sessions (token text PRIMARY KEY, name text, data text)";
    sqlx::raw_sql(table).execute(&cache.postgres).await?;

    let mut settings = Settings::new(42); // or print `Settings::fresh_seed()` in a nightly run
    (settings.rate, settings.duration, settings.sessions) = (300, Duration::from_secs(6), 50);
    let target = Target::new(&servers).network(network);
    let (at, lasts) = (Duration::from_secs(2), Duration::from_secs(2));
    let cut = Scheduled::fault("redis-link-down".parse()?, &target, at, lasts);
    let run = Runner::new(cache, settings).fault(cut).run().await?;

    let verdicts = invariants::check(&run.history);
    println!("{}\n{verdicts}", run.report);
    // For your cache: `overall(&[…])` is `Holds`.
    assert_eq!(verdicts.of(Invariant::R1).outcome(), Outcome::Broken);
    Ok(())
}
