//! Tokens for both servers: a user of Redis and a role of Postgres that soon expire, as a vault
//! issues them.

use std::{
    collections::VecDeque,
    fmt,
    future::{pending, ready},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use session_layer::connect::{BoxFuture, Credential, Credentials, CredentialsError};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::{sync::watch, time::Instant};

use crate::{
    backends::{BackendError, PostgresServer, RedisServer},
    wait::Patience,
    workload::Failure,
};

/// How long a token is valid that expires.
const VALID: Duration = Duration::from_secs(8);
/// The limit for Postgres to read its rules of authentication.
const READ: Duration = Duration::from_secs(30);

/// The issuer of the nodes' tokens. All clones are one issuer. Its tokens do not expire until an
/// event makes them.
///
/// A token is a user with its password, on both servers. When it expires, Redis deletes the user,
/// which closes its connections. Postgres refuses the password from then on.
#[derive(Clone)]
pub struct TokenIssuer(Arc<Issuer>);

struct Issuer {
    redis: RedisServer,
    postgres: PostgresServer,
    /// The role whose rights each token has.
    role: String,
    state: Mutex<State>,
    /// Whether tokens expire, so that one that does not must be replaced now.
    expiring: watch::Sender<bool>,
    /// How often a node fetched a token that expires.
    fetched: AtomicU64,
    /// The number of connections that Redis closed because their token had expired.
    closed: AtomicU64,
}

#[derive(Default)]
struct State {
    /// The newest token, and when it expires, if it does.
    now: Option<(Credential, Option<Instant>)>,
    /// The newest token that does not expire.
    lasting: Option<Credential>,
    /// The users that exist in Redis, oldest first.
    users: VecDeque<String>,
    issued: u64,
}

impl fmt::Debug for TokenIssuer {
    /// Omits the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenIssuer of {}", self.0.role)
    }
}

impl Credentials for TokenIssuer {
    fn current(&self) -> BoxFuture<'_, Result<Credential, CredentialsError>> {
        let now = self.state().now.clone();
        let current = match now {
            None => Err(CredentialsError::new("no token was issued yet")),
            Some((credential, None)) => Ok(credential),
            Some((credential, Some(until))) => {
                self.0.fetched.fetch_add(1, Relaxed);
                Ok(credential.valid_for(until.saturating_duration_since(Instant::now())))
            }
        };
        Box::pin(ready(current))
    }

    fn changed<'a>(&'a self, used: &'a Credential) -> BoxFuture<'a, ()> {
        let lasts = self.state().lasting.as_ref() == Some(used);
        Box::pin(async move {
            if !lasts {
                // Its connection renews it in time.
                pending::<()>().await;
            }
            let mut expiring = self.0.expiring.subscribe();
            // The sender lives as long as `self`.
            let _expiring = expiring.wait_for(|expiring| *expiring).await;
        })
    }
}

impl TokenIssuer {
    /// Makes Postgres demand passwords of this role, and issues a token that does not expire.
    pub(super) async fn start(
        redis: &RedisServer,
        postgres: &PostgresServer,
        role: &str,
    ) -> Result<Self, BackendError> {
        redis.allowed("create users of")?;
        postgres.allowed("configure")?;
        let failed = |error: Failure| BackendError::failed("give the nodes tokens")(error);
        let mut admin = postgres.connect().await?;
        demand_passwords(&mut admin, role).await.map_err(|error| failed(error.into()))?;
        let tokens = Self(Arc::new(Issuer {
            redis: redis.clone(),
            postgres: postgres.clone(),
            role: role.to_owned(),
            state: Mutex::default(),
            expiring: watch::Sender::new(false),
            fetched: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        }));
        let user = tokens.issue(None).await.map_err(failed)?;
        // The rules have been read once a wrong password is refused.
        let wrong = postgres.url().replacen("postgres@", &format!("{user}:wrong@"), 1);
        let mut patience = Patience::new("Postgres to demand passwords", READ);
        let refused = async || {
            let connected = PgConnection::connect(&wrong).await;
            let code = connected.err().and_then(|error| {
                error.as_database_error().and_then(|error| error.code().map(|it| it.into_owned()))
            });
            code.as_deref() == Some("28P01")
        };
        while !patience.look(refused()).await.map_err(|late| failed(late.into()))? {}
        Ok(tokens)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Issues the next token, ends the one before the last, and ends connections of Postgres that
    /// are idle, so that new ones need a token. Returns how often a token was fetched since the
    /// last turn.
    pub(crate) async fn turn(&self) -> Result<u64, Failure> {
        self.issue(Some(VALID)).await?;
        self.0.expiring.send_replace(true);
        let ended = {
            let mut state = self.state();
            let count = state.users.len().saturating_sub(2);
            state.users.drain(..count).collect::<Vec<_>>()
        };
        if !ended.is_empty() {
            let mut admin = self.0.redis.connect().await?;
            let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut admin).await?;
            let used = clients.lines().filter(|client| {
                ended.iter().any(|user| client.contains(&format!(" user={user} ")))
            });
            self.0.closed.fetch_add(used.count() as u64, Relaxed);
            redis::cmd("ACL").arg("DELUSER").arg(ended).exec_async(&mut admin).await?;
        }
        let mut admin = self.0.postgres.connect().await?;
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE usename LIKE $1 || '\\_%' AND state = 'idle' \
                     AND state_change < now() - interval '300 ms'";
        sqlx::query(end).bind(&self.0.role).execute(&mut admin).await?;
        Ok(self.0.fetched.swap(0, Relaxed))
    }

    /// Returns how many connections Redis has closed because their token had expired. Each should
    /// have been authenticated with the next one before.
    pub fn closed(&self) -> u64 {
        self.0.closed.load(Relaxed)
    }

    /// Issues a token that does not expire.
    pub(crate) async fn last_forever(&self) -> Result<(), Failure> {
        self.0.expiring.send_replace(false);
        self.issue(None).await.map(drop)
    }

    /// Returns the user of the new token.
    async fn issue(&self, valid: Option<Duration>) -> Result<String, Failure> {
        let Issuer { redis, postgres, role, .. } = &*self.0;
        let user = {
            let mut state = self.state();
            state.issued += 1;
            format!("{role}_{}", state.issued)
        };
        let password = uuid::Uuid::new_v4().simple().to_string();
        let until = valid.map(|valid| Instant::now() + valid);
        let mut admin = redis.connect().await?;
        let mut set = redis::cmd("ACL");
        set.arg("SETUSER").arg(&user).arg(&["reset", "on", "~*", "&*", "+@all"]);
        set.arg(format!(">{password}")).exec_async(&mut admin).await?;
        let mut admin = postgres.connect().await?;
        let ends = match valid {
            None => "infinity".to_owned(),
            Some(valid) => {
                let ends = "SELECT (clock_timestamp() + make_interval(secs => $1))::text";
                let ends = sqlx::query_scalar(ends).bind(valid.as_secs_f64());
                ends.fetch_one(&mut admin).await?
            }
        };
        let create = format!(
            "CREATE ROLE {user} LOGIN PASSWORD '{password}' VALID UNTIL '{ends}' IN ROLE {role}"
        );
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await?;
        let credential = Credential::new(password).user(&user);
        let mut state = self.state();
        if until.is_none() {
            state.lasting = Some(credential.clone());
        }
        state.now = Some((credential, until));
        state.users.push_back(user.clone());
        Ok(user)
    }
}

/// Replaces the rules of authentication: members of this role need a password, all others none.
async fn demand_passwords(admin: &mut PgConnection, role: &str) -> sqlx::Result<()> {
    let rules = format!(
        "host all +{role} all scram-sha-256\nhost all all all trust\nlocal all all trust\n\
         host replication all all trust"
    );
    let file: String = sqlx::query_scalar("SELECT quote_literal(current_setting('hba_file'))")
        .fetch_one(&mut *admin)
        .await?;
    let write = format!(
        "COPY (SELECT regexp_split_to_table('{rules}', '\\n')) TO {file}; SELECT pg_reload_conf()"
    );
    sqlx::raw_sql(AssertSqlSafe(write)).execute(admin).await.map(drop)
}
