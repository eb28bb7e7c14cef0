//! `sessionctl revoke`: ends sessions by criteria, or all of them.
//!
//! One user's sessions end in one statement. All others end in batches of ids, each of which is one
//! short transaction, as a logout is. A batch that has ended is not found again, so an interrupted
//! command continues when it is run again.

use std::{process::ExitCode, time::Duration};

use serde_json::json;
use session_layer::error::{StoreError, StoreErrorKind};
use session_layer::limits::MAX_REASON_CHARS;
use session_layer::store::{PostgresStore, SessionFilter};
use session_layer::{Applied, Error, RevokeTarget, SessionId, Sessions, Visibility};
use session_tools::{COULD_NOT_RUN, Ended, chain, exit_code, output, progress::Bar};
use tokio::time::{Instant, sleep};

use super::{
    consent,
    criteria::{Criteria, Search, count, now},
    sessions,
    visibility::Reached,
};
use crate::servers::{Deployment, shut_down};

/// The sessions that end in one transaction. Their rows are locked for about 30 ms.
const BATCH: usize = 500;
/// How long a command tries to go on while Postgres is away or sheds load.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN_TRIES: Duration = Duration::from_millis(500);
/// How long a batch waits for Redis to acknowledge a removal that it missed once. One batch of
/// thousands would otherwise decide from when on all are rejected.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);
/// How often all sessions are searched at most. The searches after the first find the few that a
/// rotation or another change kept from ending.
const MOST_SEARCHES: u32 = 10;
/// The longest pause between two batches.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Ends sessions by criteria, or all of them ("log out everybody").
///
/// It counts the sessions first, prints the settings that it uses, and asks. They must be the
/// application's: the namespace decides which entries are removed, and the others the bounds.
/// Sessions of logins after its start are left alone. It ends them in batches, with pauses, so that
/// an application's requests are not delayed. It may be interrupted: the same command continues. At
/// the end it states from when on all nodes reject the sessions. Exit code 0: all have ended. 1:
/// some have not. 2: could not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sessionctl revoke --user alice --reason 'password stolen'
  sessionctl revoke --address 203.0.113.0/24 --actor 'ops: bob' --yes
  sessionctl revoke --idle-for 90d --json --yes
  sessionctl revoke --kind persistent --reason 'remembered logins are off'
  sessionctl revoke --all --reason 'key leaked'")]
pub(crate) struct Arguments {
    #[command(flatten)]
    deployment: Deployment,

    #[command(flatten)]
    criteria: Criteria,

    /// End all sessions of all users.
    #[arg(long)]
    all: bool,

    /// Who ends them, kept with each session (`ended_by`): 1 to 200 characters.
    #[arg(long, env = "USER", value_name = "NAME", value_parser = note)]
    actor: Option<String>,

    /// Why they end, kept with each session (`ended_reason`): 1 to 200 characters.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "revoked by an operator",
        value_parser = note
    )]
    reason: String,

    /// Do not ask.
    #[arg(long)]
    yes: bool,

    /// Print one JSON document on standard output, and progress on standard error.
    #[arg(long)]
    json: bool,
}

/// Reads an actor or a reason. An empty variable counts as not set.
fn note(text: &str) -> Result<String, String> {
    if text.chars().count() > MAX_REASON_CHARS {
        return Err(format!("it may have at most {MAX_REASON_CHARS} characters"));
    }
    Ok(text.to_owned())
}

/// What a command has ended so far.
struct Done {
    ended: u64,
    reached: Reached,
    /// Why it is not more.
    why: Option<&'static str>,
}

impl Done {
    const NOTHING: Self = Self { ended: 0, reached: Reached::Nothing, why: None };

    /// Returns whether all parts so far hold on every node. After one that does not, the others
    /// need not wait.
    fn may_be_propagated(&self) -> bool {
        matches!(self.reached, Reached::Nothing | Reached::Propagated)
    }

    fn add(&mut self, applied: &Applied<u64>) {
        self.ended += applied.value;
        self.reached = self.reached.and(applied.visibility, Instant::now());
    }
}

impl Arguments {
    pub(crate) async fn run(self) -> Ended {
        if self.all != self.criteria.is_empty() {
            let why = if self.all {
                "--all goes without criteria"
            } else {
                "name the sessions with criteria such as --user, or all of them with --all"
            };
            output::complain(format_args!("sessionctl: {why}"));
            return Ok(ExitCode::from(COULD_NOT_RUN));
        }
        let store = self.deployment.store()?;
        let filter = self.criteria.filter(now(&store).await?, false);
        let bar = Bar::new();
        let matching = count(&store, &filter, &bar).await?;
        bar.clear();
        output::tell(self.json, self.deployment.line());
        let found = self.criteria.found(matching);
        output::tell(self.json, format_args!("{found} to end"));
        // A login of the user may be in progress, which a revoke-all ends too.
        if matching == 0 && self.criteria.only_user().is_none() {
            return self.report(&Done::NOTHING, Ok(()));
        }
        if let Some(code) = consent(&format!("End {found}?"), self.yes)?.missing() {
            self.document(&Done::NOTHING, false, None)?;
            return Ok(code);
        }
        let node = self.deployment.sessions().await?;
        let mut done = Done::NOTHING;
        let result = match self.criteria.only_user() {
            Some(user) => {
                self.end(&node, RevokeTarget::user(user), None).await.map(|it| done.add(&it))
            }
            None => self.end_matching(&store, &node, &filter, matching, &mut done).await,
        };
        done.why = done.reached.why(&node);
        shut_down(&node).await;
        self.report(&done, result.map_err(|error| chain(&error)))
    }

    /// Ends the sessions that match, until a whole search finds none.
    async fn end_matching(
        &self,
        store: &PostgresStore,
        node: &Sessions,
        filter: &SessionFilter,
        matching: u64,
        done: &mut Done,
    ) -> Result<(), Error> {
        let bar = Bar::new();
        for _ in 0..MOST_SEARCHES {
            let (mut search, mut found) = (Search::new(store, filter), false);
            loop {
                let read = retried(async || search.next().await.map_err(unavailable)).await?;
                let Some(page) = read else { break };
                let ids: Vec<SessionId> = page.sessions.iter().map(|session| session.id).collect();
                for batch in ids.chunks(BATCH) {
                    found = true;
                    let began = Instant::now();
                    let wait = done.may_be_propagated().then_some(ACKNOWLEDGED_WITHIN);
                    let ended = self.end(node, RevokeTarget::ids(batch), wait).await?;
                    done.add(&ended);
                    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
                    let all = number(matching.max(done.ended));
                    bar.at("sessions ended", number(done.ended), all);
                    // Half of the time is the application's.
                    sleep(began.elapsed().min(LONGEST_PAUSE)).await;
                }
            }
            if !found {
                return Ok(());
            }
        }
        Err(unavailable(StoreError::new(
            StoreErrorKind::Other,
            "sessions are found again after they have ended: does a trigger of your own change \
             `revoked_at`?",
        )))
    }

    async fn end(
        &self,
        node: &Sessions,
        target: RevokeTarget<'_>,
        wait: Option<Duration>,
    ) -> Result<Applied<u64>, Error> {
        let revocation = || {
            let revocation = node.revoke(target).reason(self.reason.clone());
            match &self.actor {
                Some(actor) if !actor.is_empty() => revocation.actor(actor.clone()),
                _ => revocation,
            }
        };
        let mut applied = retried(async || revocation().await).await?;
        // The second call ends nothing more. It waits until Redis has acknowledged the removal.
        if let (Some(wait), Visibility::Committed { .. }) = (wait, applied.visibility)
            && let Ok(again) = revocation().wait(wait).await
            && again.visibility == Visibility::Propagated
        {
            applied.visibility = again.visibility;
        }
        Ok(applied)
    }

    fn report(&self, done: &Done, result: Result<(), String>) -> Ended {
        let (ok, error) = (result.is_ok(), result.err());
        if let Some(why) = &error {
            output::complain(format_args!(
                "sessionctl: {why}. {} have ended. Run the same command again to continue",
                sessions(done.ended)
            ));
        } else if !self.json {
            output::say(format_args!("{} ended", sessions(done.ended)));
            output::say(done.reached.line(done.why, Instant::now()));
        }
        self.document(done, ok, error)?;
        Ok(exit_code(ok))
    }

    /// Prints the document, if one was requested.
    fn document(
        &self,
        done: &Done,
        complete: bool,
        error: Option<String>,
    ) -> Result<(), serde_json::Error> {
        if !self.json {
            return Ok(());
        }
        let mut document = done.reached.json(done.why, Instant::now());
        document["count"] = json!(done.ended);
        document["complete"] = json!(complete);
        document["settings"] = self.deployment.json();
        if let Some(error) = error {
            document["error"] = json!(error);
        }
        output::document(&document)
    }
}

fn unavailable(error: StoreError) -> Error {
    Error::Unavailable(error)
}

/// Tries again while Postgres is away or sheds load.
async fn retried<T>(mut once: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let by = Instant::now() + PATIENCE;
    loop {
        match once().await {
            Err(error) if error.is_outage() && Instant::now() < by => sleep(BETWEEN_TRIES).await,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_change_add_up() {
        let mut done = Done::NOTHING;
        done.add(&Applied { value: 3, visibility: Visibility::Propagated });
        done.add(&Applied { value: 0, visibility: Visibility::Nothing });
        assert_eq!((done.ended, done.reached), (3, Reached::Propagated));
    }
}
