//! `sessionctl erase`

use std::process::ExitCode;

use serde_json::{Value, json};
use session_layer::store::SessionFilter;
use session_tools::{Ended, chain, exit_code, output, progress::Bar};
use tokio::time::Instant;

use super::{consent, criteria::count, sessions, visibility::Reached};
use crate::servers::{Deployment, shut_down};

/// Ends all sessions of a user and deletes what is stored about them: addresses, user agents,
/// labels and data.
///
/// The user id stays in `session_users`, with the number that keeps a login in progress from being
/// let in. The application removes it some time after the next restart of Postgres. It also stays
/// in the journal for twice the TTL. Before the command asks, it prints the settings that it uses:
/// they must be the application's. Exit code 0: erased. 1: not completely, run it again. 2: could
/// not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sessionctl erase alice
  sessionctl erase alice --yes --json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    deployment: Deployment,

    /// The user.
    #[arg(value_name = "USER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    user: String,

    /// Do not ask.
    #[arg(long)]
    yes: bool,

    /// Print one JSON document on standard output.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(crate) async fn run(self) -> Ended {
        let store = self.deployment.store()?;
        let filter = SessionFilter {
            user_id: Some(self.user.clone()),
            with_ended: true,
            ..SessionFilter::default()
        };
        let bar = Bar::new();
        let rows = count(&store, &filter, &bar).await?;
        bar.clear();
        output::tell(self.json, self.deployment.line());
        output::tell(self.json, format_args!("{} stored of this user", sessions(rows)));
        if let Some(code) = consent("End and erase them?", self.yes)?.missing() {
            self.document(Reached::Nothing.json(None, Instant::now()), Some(0), false)?;
            return Ok(code);
        }
        let node = self.deployment.sessions().await?;
        let erased = node.erase_user(&self.user).await;
        let now = Instant::now();
        let reached = match &erased {
            Ok(erased) => Reached::Nothing.and(erased.visibility, now),
            Err(_) => Reached::Nothing,
        };
        let why = reached.why(&node);
        shut_down(&node).await;
        let erased = match erased {
            Ok(erased) => erased,
            Err(error) => {
                let why = chain(&error);
                output::complain(format_args!("sessionctl: {why}. Run it again to continue"));
                // A part may have been erased.
                self.document(json!({ "revoked": null, "error": why }), None, false)?;
                return Ok(exit_code(false));
            }
        };
        let now = Instant::now();
        self.document(reached.json(why, now), Some(erased.value), true)?;
        if !self.json {
            output::say(format_args!("{} erased", sessions(erased.value)));
            output::say(reached.line(why, now));
            output::say(
                "The user id stays in session_users until a while after the next restart of \
                 Postgres, and in the journal for twice the TTL.",
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints the document, if one was requested.
    fn document(
        &self,
        mut document: Value,
        erased: Option<u64>,
        complete: bool,
    ) -> Result<(), serde_json::Error> {
        if !self.json {
            return Ok(());
        }
        document["erased"] = json!(erased);
        document["complete"] = json!(complete);
        document["settings"] = self.deployment.json();
        output::document(&document)
    }
}
