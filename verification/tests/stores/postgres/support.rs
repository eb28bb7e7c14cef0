//! A schema for each test, and operators who work in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use session_layer::store::{PostgresStore, PostgresStoreBuilder};
use session_testkit::backends::Backends;
use session_testkit::wait;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};

use crate::harness::shared;
use crate::support::SOON;

/// A schema of one test. Its drop removes the schema and the role of its name.
pub struct Schema {
    pub name: String,
    backends: Arc<Backends>,
}

impl Schema {
    pub async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("stores_{}_{number}", std::process::id());
        Self { name, backends: shared().await.unwrap() }
    }

    pub async fn with_store() -> (Self, PostgresStore) {
        let schema = Self::new().await;
        let store = schema.store().await;
        (schema, store)
    }

    pub async fn with_operator() -> (Self, PostgresStore, Operator) {
        let (schema, store) = Self::with_store().await;
        let operator = schema.operator().await;
        (schema, store, operator)
    }

    pub fn url(&self) -> &str {
        self.backends.postgres().url()
    }

    /// Returns the URL with a setting for each connection.
    pub fn url_with(&self, setting: &str, value: &str) -> String {
        self.url_and(&format!("options[{setting}]={value}"))
    }

    /// Returns the URL with the schema's name as the application's.
    pub fn named_url(&self) -> String {
        self.url_and(&format!("application_name={}", self.name))
    }

    fn url_and(&self, parameter: &str) -> String {
        let mark = if self.url().contains('?') { '&' } else { '?' };
        format!("{}{mark}{parameter}", self.url())
    }

    pub fn builder(&self) -> PostgresStoreBuilder {
        self.builder_at(self.url())
    }

    /// Returns a builder with deadlines for a busy machine. The defaults fit a request's budget.
    pub fn builder_at(&self, url: &str) -> PostgresStoreBuilder {
        PostgresStore::builder(url)
            .schema(&self.name)
            .max_connections(4)
            .read_deadline(Duration::from_secs(5))
            .change_deadline(Duration::from_secs(8))
    }

    /// Returns a store that connects to this URL.
    pub fn store_at(&self, url: &str) -> PostgresStore {
        self.builder_at(url).build().unwrap()
    }

    /// Returns a store whose tables exist.
    pub async fn store(&self) -> PostgresStore {
        let store = self.store_at(self.url());
        store.migrate().await.unwrap();
        store
    }

    /// Connects as an operator with `psql` does.
    pub async fn operator(&self) -> Operator {
        let options: PgConnectOptions = self.url().parse().unwrap();
        let options = options.options([("search_path", &self.name)]);
        Operator(options.connect().await.unwrap())
    }

    pub async fn operator_as(&self, role: &str) -> Operator {
        let mut operator = self.operator().await;
        operator.run(&format!("SET ROLE {role}")).await;
        operator
    }

    /// Executes direct SQL as an operator.
    pub async fn run(&self, sql: &str) -> u64 {
        self.operator().await.run(sql).await
    }

    /// Creates a role of the schema's name that may use it, with these rights on its tables.
    pub async fn role(&self, rights: &str) -> &str {
        let role = &self.name;
        let create =
            format!("CREATE ROLE {role}; GRANT USAGE ON SCHEMA {role} TO {role}; {rights}");
        self.run(&create).await;
        role
    }
}

impl Schema {
    /// Runs `call` beside an open transaction that has executed `held`. When the call waits for the
    /// transaction's lock, the transaction ends with `end`.
    pub async fn beside<T: Send + 'static>(
        &self,
        held: &str,
        end: &str,
        call: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (mut holder, mut watcher) = (self.operator().await, self.operator().await);
        let pid = holder.pid().await;
        holder.run(&format!("BEGIN; {held}")).await;
        let waiting = tokio::spawn(call);
        watcher.until_waiting_for(pid).await;
        holder.run(end).await;
        waiting.await.unwrap()
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let dropping = async {
            let drop =
                format!("DROP SCHEMA IF EXISTS {0} CASCADE; DROP ROLE IF EXISTS {0}", self.name);
            self.operator().await.try_run(&drop).await.unwrap();
        };
        // A drop cannot await, and must not panic a second time when a test has failed.
        std::thread::scope(|scope| {
            let dropped = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                // The timeout needs the runtime's clock.
                let dropping = async { tokio::time::timeout(SOON, dropping).await };
                runtime.unwrap().block_on(dropping)
            });
            if !matches!(dropped.join(), Ok(Ok(()))) {
                eprintln!("the schema {} could not be dropped", self.name);
            }
        });
    }
}

/// An operator's connection.
pub struct Operator(pub PgConnection);

impl Operator {
    pub async fn run(&mut self, sql: &str) -> u64 {
        self.try_run(sql).await.unwrap()
    }

    pub async fn try_run(&mut self, sql: &str) -> Result<u64, sqlx::Error> {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.0).await?;
        Ok(done.rows_affected())
    }

    pub async fn ask<T>(&mut self, sql: &str) -> T
    where
        (T,): for<'r> sqlx::FromRow<'r, PgRow>,
        T: Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut self.0).await.unwrap()
    }

    pub async fn pid(&mut self) -> i32 {
        self.ask("SELECT pg_backend_pid()").await
    }

    /// Waits until this query returns zero.
    pub async fn until_none(&mut self, count: &str) {
        let none = async || self.ask::<i64>(count).await == 0;
        wait::until(count, SOON, none).await.unwrap();
    }

    /// Waits until a statement waits for a lock of the connection `pid`.
    pub async fn until_waiting_for(&mut self, pid: i32) {
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE {pid} = ANY (pg_blocking_pids(pid))"
        );
        let some = async || self.ask::<i64>(&waiting).await > 0;
        wait::until("a statement that waits", SOON, some).await.unwrap();
    }
}
