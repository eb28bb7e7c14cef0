//! `sessionctl migrate`

use std::process::ExitCode;

use serde_json::{Value, json};
use session_layer::store::MigrationPlan;
use session_tools::{Ended, output};

use crate::servers::Database;

/// Creates the tables in Postgres, or brings them up to date.
///
/// With --plan it prints the SQL instead, for a role that may run it: what is missing, in order, in
/// one transaction, and nothing if the tables are up to date. Several processes may migrate at
/// once. Exit code 0: the tables are up to date, or the plan was printed. 2: could not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sessionctl migrate
  sessionctl migrate --plan | psql postgres://owner@db.internal/app")]
pub(crate) struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Print the SQL, and change nothing.
    #[arg(long)]
    plan: bool,

    /// Print one JSON document on standard output.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Ended {
    let store = arguments.database.store()?;
    let plan = store.migration_plan().await?;
    if arguments.plan {
        if arguments.json {
            output::document(&document(&plan, "missing", Some(plan.sql())))?;
        } else if plan.is_up_to_date() {
            eprintln!("The schema {} is up to date.", plan.schema);
        } else {
            output::say(plan.sql().trim_end());
        }
        return Ok(ExitCode::SUCCESS);
    }
    store.migrate().await?;
    if arguments.json {
        output::document(&document(&plan, "applied", None))?;
        return Ok(ExitCode::SUCCESS);
    }
    for migration in &plan.missing {
        output::say(format_args!("applied {:04} {}", migration.version, migration.name));
    }
    output::say(format_args!("The schema {} is up to date.", plan.schema));
    Ok(ExitCode::SUCCESS)
}

fn document(plan: &MigrationPlan, named: &str, sql: Option<String>) -> Value {
    let migrations = plan.missing.iter();
    let migrations =
        migrations.map(|migration| json!({ "version": migration.version, "name": migration.name }));
    let mut document = json!({ "schema": plan.schema });
    document[named] = migrations.collect();
    if let Some(sql) = sql {
        document["sql"] = json!(sql);
    }
    document
}
