//! A backup by `pg_dump` that is restored over a database that has changed since.

use session_testkit::backends::Backend;
use sqlx::AssertSqlSafe;
use tokio::process::Command;

use crate::binaries::binary;
use crate::commands::run;
use crate::examples::quickstart::process::env_of;
use crate::harness::{Outcome, on};
use crate::support::{Servers, ask, login, until, until_hit};

/// A revocation after the backup is lost with the rest, and `revoke --all` is what makes up for it.
/// Entries of the lost time are in Redis still, and no node serves them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_backup_serves_no_later_entry_and_is_ended_by_revoke_all() -> Outcome {
    on(Backend::Native, async |backend| {
        let servers = Servers::own_on(backend).await?;
        let (url, schema) = (servers.database_url(), servers.schema());
        let node = servers.sessions().await?;
        let (alice, bob) = (login(&node, "alice").await?, login(&node, "bob").await?);
        let folder = tempfile::tempdir()?;
        let dump = folder.path().join("backup.sql");
        let mut backup = Command::new("pg_dump");
        let backup = backup.args(["--schema", schema, "--file"]).arg(&dump).args(["--dbname", url]);
        assert_eq!(run(backup).await?.code, 0);

        let _reach = node.revoke(bob.token.reveal()).await?;
        let carol = login(&node, "carol").await?;
        for session in [&alice, &carol] {
            until_hit(&node, session).await?;
        }

        let drop = format!("DROP SCHEMA \"{schema}\" CASCADE");
        let mut admin = servers.postgres().connect().await?;
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut admin).await?;
        let mut restore = Command::new("psql");
        let restore = restore.args(["--quiet", "--set", "ON_ERROR_STOP=1", "--file"]).arg(&dump);
        assert_eq!(run(restore.args(["--dbname", url])).await?.code, 0);

        // The first node has run all the time, and the second one begins after the restore.
        let nodes = [node, servers.sessions().await?];
        for node in &nodes {
            until(node, &carol, "invalid").await?;
            until(node, &bob, "valid").await?;
            assert_eq!(ask(node, &alice).await, "valid");
        }

        let mut revoke_all = Command::new(binary("sessionctl").await?);
        revoke_all.env_clear().envs(env_of(&servers.sandbox));
        revoke_all.args(["revoke", "--all", "--yes", "--reason", "restored from a backup"]);
        assert_eq!(run(&mut revoke_all).await?.code, 0);
        for node in &nodes {
            for session in [&alice, &bob, &carol] {
                until(node, session, "invalid").await?;
            }
        }
        let again = login(&nodes[0], "alice").await?;
        until_hit(&nodes[1], &again).await
    })
    .await
}
