//! A row that no client would write affects only its own session.

use futures_util::future::join_all;
use session_layer::limits::LIST_PAGE;
use session_layer::store::{JournalChange, Row, SessionStore as _};
use session_layer::{CacheMode, NewSession, TokenDigest};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::harness::Outcome;
use crate::support::{Servers, ask, execute, login};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_row_fails_only_its_own_session() -> Outcome {
    let servers = Servers::shared().await?;
    let node = servers.sessions().await?;
    node.set_mode(CacheMode::Bypass);
    let mut created = Vec::new();
    for _ in 0..40 {
        created.push(login(&node, "alice").await?);
    }
    let bad = created[7].session.id();
    let large = r#"('"' || repeat('x', 70000) || '"')::json"#;
    servers.sql(format!("UPDATE sessions SET data = {large} WHERE id = '{bad}'")).await?;
    let answers = join_all(created.iter().map(|created| ask(&node, created))).await;
    for (created, answer) in created.iter().zip(answers) {
        let expected = if created.session.id() == bad { "unavailable" } else { "valid" };
        assert_eq!(answer, expected);
    }
    let errors = node.recent_errors().join("\n");
    assert!(errors.contains(&bad.to_string()), "{errors}");
    let report = node.health().await;
    assert!(report.session_store.healthy, "it is no outage: {report:?}");
    Ok(())
}

// A database without an encoding stores any bytes. Postgres fails a statement that would return
// them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_that_is_not_utf8_fails_only_its_own_row() -> Outcome {
    let servers = Servers::own().await?;
    let create =
        "CREATE DATABASE bytes ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    execute(servers.postgres(), create.to_owned()).await?;
    let (server, _) =
        servers.database_url().rsplit_once('/').ok_or("a database URL names its database")?;
    let url = format!("{server}/bytes");
    let store = servers.store_at(&url).await?;
    let mut digests = Vec::new();
    let mut ids = Vec::new();
    for n in 0..20 {
        let token = TokenDigest::of(&n.to_string());
        let new = NewSession::new(format!("user {n}")).check()?;
        store.create(token, &new).await?;
        digests.push(token);
        ids.push(new.id);
    }
    let mut operator = PgConnection::connect(&url).await?;
    let mut run = async |sql: String| {
        let sql = AssertSqlSafe(format!("SET search_path = {}; {sql}", servers.schema()));
        sqlx::raw_sql(sql).execute(&mut operator).await
    };
    let bytes = r"convert_from('\xff', 'SQL_ASCII')";
    run(format!("UPDATE sessions SET user_id = {bytes} WHERE id = '{}'", ids[3])).await?;
    run(format!("UPDATE sessions SET label = {bytes} WHERE id = '{}'", ids[4])).await?;
    for (n, row) in store.load(&digests).await?.rows.into_iter().enumerate() {
        match row {
            Row::Unreadable(row) if n == 3 => {
                assert!(row.to_string().contains(&ids[3].to_string()), "{row}");
            }
            Row::Alive { session, .. } if n != 3 => assert_eq!(session.id(), ids[n]),
            other => panic!("{n}: {other:?}"),
        }
    }
    let page = store.list("user 4", None, LIST_PAGE).await?;
    assert_eq!(page.sessions[0].id, ids[4]);

    run(format!("INSERT INTO session_users (user_id, epoch) VALUES ({bytes}, 1)")).await?;
    run(format!("UPDATE sessions SET revoked_at = now() WHERE id = '{}'", ids[5])).await?;
    let rows = store.journal_since(None).await?.rows;
    assert!(rows.iter().any(|row| row.change == JournalChange::All));
    let is_end = |change: &JournalChange| match change {
        JournalChange::Session { id, least_version: None, .. } => *id == ids[5],
        _ => false,
    };
    assert!(rows.iter().any(|row| is_end(&row.change)), "{rows:?}");
    Ok(())
}
