//! The quickstart as a process: its requests, embedded and on Redis and Postgres, and with each of
//! them broken.

mod faults;
pub(crate) mod process;
mod rows;
mod start_stop;

use self::process::App;
use crate::harness::{Outcome, shared};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_the_contract_holds_embedded() -> Outcome {
    let app = App::embedded().await?;
    rows::all(&app).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_the_contract_holds() -> Outcome {
    let backends = shared().await?;
    let app = App::on(&backends).await?;
    rows::all(&app).await?;
    // An operator sees where each login came from.
    let sessions = format!("{}.sessions", app.schema());
    let unknown =
        format!("SELECT count(*) FROM {sessions} WHERE host(ip) IS DISTINCT FROM '127.0.0.1'");
    let mut connection = backends.postgres().connect().await?;
    let unknown: i64 =
        sqlx::query_scalar(sqlx::AssertSqlSafe(unknown)).fetch_one(&mut connection).await?;
    assert_eq!(unknown, 0);
    Ok(())
}
