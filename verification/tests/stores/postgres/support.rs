//! A schema of its own for each test, gone when it ends.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt as _;
use session_layer::store::{PostgresStore, PostgresStoreBuilder};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};

use crate::harness::shared;

/// Where the Postgres of the tests that run is.
static URL: Mutex<String> = Mutex::new(String::new());

/// Where this test's Postgres is, within [`in_schema`].
pub fn url() -> String {
    URL.lock().unwrap().clone()
}

/// The same with a setting that each connection begins with.
pub fn url_with(setting: &str, value: &str) -> String {
    let url = url();
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}options[{setting}]={value}")
}

/// A schema that this test has to itself.
#[derive(Clone)]
pub struct Schema {
    pub name: String,
}

impl Schema {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self {
            name: format!(
                "stores_{}_{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            ),
        }
    }

    pub fn builder(&self) -> PostgresStoreBuilder {
        self.builder_at(&url())
    }

    pub fn builder_at(&self, url: &str) -> PostgresStoreBuilder {
        // The default is made for a request's budget, not for a busy test machine.
        PostgresStore::builder(url)
            .schema(&self.name)
            .max_connections(4)
            .read_deadline(std::time::Duration::from_secs(5))
            .change_deadline(std::time::Duration::from_secs(8))
    }

    pub async fn store(&self) -> PostgresStore {
        let store = self.builder().build().unwrap();
        store.migrate().await.unwrap();
        store
    }

    /// A person with `psql`, in our schema.
    pub async fn person(&self) -> Person {
        self.person_as(None).await
    }

    pub async fn person_as(&self, role: Option<&str>) -> Person {
        let options: PgConnectOptions = url().parse().unwrap();
        let options = options.options([("search_path", &self.name)]);
        let mut person = Person(options.connect().await.unwrap());
        if let Some(role) = role {
            person.run(&format!("SET ROLE {role}")).await;
        }
        person
    }

    /// Creates a role of the schema's name that may use it, with these rights on its tables.
    pub async fn role(&self, rights: &str) -> String {
        let role = self.name.clone();
        let mut person = self.person().await;
        person
            .run(&format!("CREATE ROLE {role}; GRANT USAGE ON SCHEMA {role} TO {role}; {rights}"))
            .await;
        role
    }

    async fn drop(&self) {
        let mut person = self.person().await;
        person.run(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name)).await;
        person.run(&format!("DROP ROLE IF EXISTS {}", self.name)).await;
        person.0.close().await.unwrap();
    }
}

/// Plain SQL, as a person writes it.
pub struct Person(pub PgConnection);

impl Person {
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
}

impl Person {
    pub async fn pid(&mut self) -> i32 {
        self.ask("SELECT pg_backend_pid()").await
    }

    /// Waits until someone waits for a lock that the connection `pid` holds; at most 5 s.
    pub async fn until_waiting_for(&mut self, pid: i32) {
        for _ in 0..500 {
            let waiting: i64 = self
                .ask(&format!(
                    "SELECT count(*) FROM pg_stat_activity WHERE {pid} = ANY \
                     (pg_blocking_pids(pid))"
                ))
                .await;
            if waiting > 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("nobody waits for {pid}");
    }
}

/// Runs `test` in a schema of its own, and drops that also if the test panics.
pub async fn in_schema<F: Future<Output = ()>>(test: impl FnOnce(Schema) -> F) {
    // Tests of this process share it for as long as one of them has it.
    let backends = shared().await.unwrap();
    backends.postgres().url().clone_into(&mut URL.lock().unwrap());
    let schema = Schema::new();
    let ended = AssertUnwindSafe(test(schema.clone())).catch_unwind().await;
    schema.drop().await;
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}
