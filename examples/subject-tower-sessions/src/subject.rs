//! tower-sessions as a [`Subject`], which is all that session-testkit needs for a session cache.
//!
//! Each operation does what a handler behind tower-sessions' layer does. The stores are set up as
//! their documentation shows. The subject only translates: it returns results unchanged. An error
//! is [`Seen::Unavailable`], because the layer responds with 500. A plain `Ok(())` of a logout is
//! [`Visibility::Propagated`].

use std::{sync::Arc, time::Duration};

use session_testkit::subject::{Failed, Login, Seen, Subject, Token, Visibility};
use sqlx::postgres::PgPoolOptions;
use time::OffsetDateTime;
use tower_sessions::{
    CachingSessionStore, Expiry, Session,
    session::{self, Id},
};
use tower_sessions_redis_store::{
    RedisStore,
    fred::prelude::{ClientLike as _, Config, PerformanceConfig, Pool, ReconnectPolicy},
};
use tower_sessions_sqlx_store::PostgresStore;

use crate::harness::{Failure, Harness};

type Store = CachingSessionStore<RedisStore<Pool>, PostgresStore>;

/// Several nodes, each with its own connections, like several processes.
pub(crate) struct TowerSessions {
    nodes: Vec<Arc<Store>>,
}

impl TowerSessions {
    /// Connects as in tower-sessions-redis-store's documentation.
    pub(crate) async fn documented(harness: &Harness) -> Result<Self, Failure> {
        Self::connect(harness, None, None).await
    }

    /// Connects with a timeout of half a second per command, and with reconnection.
    pub(crate) async fn with_timeouts(harness: &Harness) -> Result<Self, Failure> {
        let timeouts = PerformanceConfig {
            default_command_timeout: Duration::from_millis(500),
            ..PerformanceConfig::default()
        };
        let reconnect = ReconnectPolicy::new_constant(0, 100);
        Self::connect(harness, Some(timeouts), Some(reconnect)).await
    }

    /// Connects one node per pair of proxies.
    async fn connect(
        harness: &Harness,
        timeouts: Option<PerformanceConfig>,
        reconnect: Option<ReconnectPolicy>,
    ) -> Result<Self, Failure> {
        let mut nodes = Vec::new();
        let sandbox = harness.servers.sandbox();
        for (redis_url, database_url) in harness.urls(&sandbox) {
            let config = Config::from_url(&redis_url)?;
            let redis = Pool::new(config, timeouts.clone(), None, reconnect.clone(), 6)?;
            // The task ends with its connections.
            let _connecting = redis.connect();
            redis.wait_for_connect().await?;
            let postgres = PgPoolOptions::new().connect(&database_url).await?;
            let postgres = PostgresStore::new(postgres).with_schema_name(sandbox.schema())?;
            postgres.migrate().await?;
            let store = CachingSessionStore::new(RedisStore::new(redis), postgres);
            nodes.push(Arc::new(store));
        }
        Ok(Self { nodes })
    }

    /// Returns the session that the layer puts into a request's extensions.
    fn session(&self, node: u32, token: Option<&Token>) -> Result<Session, Failed> {
        let at = usize::try_from(node).map_err(Failed::refused)?;
        let store = self.nodes.get(at).ok_or(Failed::refused("no such node"))?;
        let id = token.map(|token| token.reveal().parse::<Id>()).transpose();
        let id = id.map_err(Failed::refused)?;
        Ok(Session::new(id, Arc::clone(store), None))
    }
}

impl Subject for TowerSessions {
    fn nodes(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    async fn create(&self, node: u32, login: &Login) -> Result<Token, Failed> {
        let session = self.session(node, None)?;
        if let Some(lifetime) = login.lifetime {
            session.set_expiry(Some(Expiry::AtDateTime(OffsetDateTime::now_utc() + lifetime)));
        }
        let saved = async {
            session.insert("user", &login.user).await?;
            session.insert("data", &login.data).await?;
            session.save().await
        };
        saved.await.map_err(Failed::unknown)?;
        let id = session.id().ok_or(Failed::unknown("saved without an id"))?;
        Ok(Token::new(id.to_string()))
    }

    async fn validate(&self, node: u32, token: &Token) -> Seen {
        let Ok(session) = self.session(node, Some(token)) else {
            return Seen::Invalid; // not a cookie of tower-sessions
        };
        match read(&session).await {
            Ok(Some((user, data))) => Seen::Valid { user, data },
            Ok(None) => Seen::Invalid,
            Err(_) => Seen::Unavailable,
        }
    }

    async fn update(&self, node: u32, token: &Token, data: &str) -> Result<Visibility, Failed> {
        let session = self.session(node, Some(token))?;
        match read(&session).await.map_err(Failed::refused)? {
            Some(_) => {}
            None => return Err(Failed::refused("no such session")),
        }
        let saved = async {
            session.insert("data", data).await?;
            session.save().await
        };
        saved.await.map_err(Failed::unknown)?;
        Ok(Visibility::Propagated)
    }

    async fn revoke(&self, node: u32, token: &Token) -> Result<Visibility, Failed> {
        let session = self.session(node, Some(token))?;
        session.flush().await.map_err(Failed::unknown)?;
        Ok(Visibility::Propagated)
    }

    fn random_token(&self, random: [u8; 32]) -> Token {
        let [low, _] = [0, 16].map(|at| random[at..at + 16].try_into().unwrap_or_default());
        Token::new(Id(i128::from_le_bytes(low)).to_string())
    }
}

async fn read(session: &Session) -> Result<Option<(String, String)>, session::Error> {
    let user = session.get("user").await?;
    let data = session.get("data").await?;
    Ok(user.zip(data))
}
