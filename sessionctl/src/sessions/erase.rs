//! `sessionctl erase`

use std::process::ExitCode;

use serde_json::json;
use session_layer::store::SessionFilter;
use session_tools::{COULD_NOT_RUN, Ended, chain, exit_code, output, progress::Bar};
use tokio::time::Instant;

use super::{Consent, consent, criteria::count, sessions, visibility::Reached};
use crate::servers::{Servers, shut_down};

/// Ends all sessions of a user and deletes what is stored about them: addresses, user agents, labels
/// and data.
///
/// The user id stays in `session_users`, with the number that keeps a login in progress from being
/// let in. The application removes it some time after the next restart of Postgres. It also stays in
/// the journal for about 10 minutes. Exit code 0: erased. 1: not completely, run it again. 2: could
/// not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sessionctl erase alice
  sessionctl erase alice --yes --json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    servers: Servers,

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
        let store = self.servers.store()?;
        let filter = SessionFilter {
            user_id: Some(self.user.clone()),
            with_ended: true,
            ..SessionFilter::default()
        };
        let bar = Bar::new();
        let rows = count(&store, &filter, &bar).await?;
        bar.clear();
        output::tell(self.json, format_args!("{} stored of this user", sessions(rows)));
        if !self.yes {
            match consent("End and erase them?")? {
                Consent::Given => {}
                Consent::Refused => {
                    eprintln!("sessionctl: nothing was changed");
                    return Ok(exit_code(false));
                }
                Consent::NotAsked => {
                    eprintln!("sessionctl: there is no terminal to ask on, pass --yes");
                    return Ok(ExitCode::from(COULD_NOT_RUN));
                }
            }
        }
        let node = self.servers.sessions().await?;
        let erased = node.erase_user(&self.user).await;
        shut_down(&node).await;
        let erased = match erased {
            Ok(erased) => erased,
            Err(error) => {
                eprintln!("sessionctl: {}. Run it again to continue", chain(&error));
                return Ok(exit_code(false));
            }
        };
        let now = Instant::now();
        let reached = Reached::Nothing.and(erased.visibility, now);
        if self.json {
            let mut document = reached.json(now);
            document["erased"] = json!(erased.value);
            output::document(&document)?;
        } else {
            output::say(format_args!("{} erased", sessions(erased.value)));
            output::say(reached.line(now));
            output::say(
                "The user id stays in session_users until a while after the next restart of \
                 Postgres, and in the journal for about 10 minutes.",
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
