//! Postgres answers, but not with the truth: that is an outage, not an "invalid".

use session_layer::Error;
use session_testkit::backends::Backends;
use sqlx::AssertSqlSafe;

use crate::harness::{Outcome, shared};
use crate::support::{ask, built, cache, login, sessions, store_on};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_level_security_that_hides_rows_is_an_outage() -> Outcome {
    let backends = shared().await?;
    poor_role(&backends, "ALTER TABLE {schema}.sessions ENABLE ROW LEVEL SECURITY").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_grant_is_an_outage() -> Outcome {
    let backends = shared().await?;
    poor_role(&backends, "REVOKE SELECT ON {schema}.sessions FROM {role}").await
}

/// A service whose role has every right, until `statement` hides the rows from it.
async fn poor_role(backends: &Backends, statement: &str) -> Outcome {
    let sandbox = backends.sandbox();
    let owner = sessions(&sandbox).await?;
    let alice = login(&owner, "alice").await?;
    let schema = sandbox.schema();
    let role = format!("{schema}_poor");
    let mut postgres = backends.postgres().connect().await?;
    let grants = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'secret';
         GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}; {}",
        session_layer::store::grants(schema, &role)
    );
    sqlx::raw_sql(AssertSqlSafe(grants)).execute(&mut postgres).await?;
    let url = as_user(sandbox.database_url(), &role, "secret");
    let poor = built(cache(sandbox.redis_url(), &sandbox)?, store_on(&url, &sandbox).await?);
    poor.set_mode(session_layer::CacheMode::Bypass);
    let before = ask(&poor, &alice).await;

    let hide = statement.replace("{schema}", schema).replace("{role}", &role);
    sqlx::raw_sql(AssertSqlSafe(hide)).execute(&mut postgres).await?;
    let after = ask(&poor, &alice).await;
    let revoked = poor.revoke(alice.token.reveal()).await;
    poor.shutdown(crate::support::SOON).await?;
    let drop_role = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(drop_role)).execute(&mut postgres).await?;

    assert_eq!(before, "valid");
    assert_eq!(after, "unavailable");
    assert!(revoked.as_ref().is_err_and(Error::is_outage), "{revoked:?}");
    assert_eq!(ask(&owner, &alice).await, "valid", "nothing was changed");
    Ok(())
}

/// The same server and database, as another user.
fn as_user(url: &str, user: &str, password: &str) -> String {
    let address = session_testkit::url::address(url).expect("the testkit's URLs have an address");
    let database = url.rsplit('/').next().unwrap_or_default();
    format!("postgres://{user}:{password}@{address}/{database}")
}
