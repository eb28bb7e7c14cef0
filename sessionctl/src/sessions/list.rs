//! `sessionctl sessions list|show|count`

use std::process::ExitCode;

use serde_json::{Value, json};
use session_layer::store::{SessionFilter, StoredSession};
use session_layer::{SessionId, Timestamp};
use session_tools::{Ended, exit_code, output, output::visible, progress::Bar};

use super::criteria::{Criteria, Search, count, now};
use crate::servers::Servers;

/// Lists sessions: id, user, times, address and label. Active ones, unless --ended is set.
///
/// A user's sessions come newest first, others in the order of their ids. Exit code 0, also if
/// there are none.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sessionctl sessions list --user alice
  sessionctl sessions list --address 203.0.113.0/24 --limit 1000 --json")]
pub(super) struct List {
    #[command(flatten)]
    servers: Servers,

    #[command(flatten)]
    criteria: Criteria,

    /// List sessions that have ended as well, for as long as their rows are kept.
    #[arg(long)]
    ended: bool,

    /// The maximum number of sessions to list.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    limit: u32,

    /// Print one JSON document on standard output.
    #[arg(long)]
    json: bool,
}

/// Shows everything that is stored about a session, except its data.
///
/// Exit code 0. 1: there is no such session.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  sessionctl sessions show 9f1c0f5e-3b1e-4f4e-9f67-2f6a6f0f4f11 --json")]
pub(super) struct Show {
    #[command(flatten)]
    servers: Servers,

    /// The session's id, as `list` prints it.
    #[arg(value_name = "UUID")]
    id: SessionId,

    /// Print one JSON document on standard output.
    #[arg(long)]
    json: bool,
}

/// Counts sessions. Active ones, unless --ended is set.
///
/// Without criteria it counts all of them, in pages of 5,000 rows.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sessionctl sessions count
  sessionctl sessions count --idle-for 30d --json")]
pub(super) struct Count {
    #[command(flatten)]
    servers: Servers,

    #[command(flatten)]
    criteria: Criteria,

    /// Count sessions that have ended as well, for as long as their rows are kept.
    #[arg(long)]
    ended: bool,

    /// Print one JSON document on standard output.
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) async fn run(self) -> Ended {
        let store = self.servers.store()?;
        let filter = self.criteria.filter(now(&store).await?, self.ended);
        let most = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let mut found: Vec<StoredSession> = Vec::new();
        let mut search = Search::new(&store, &filter);
        // One more shows whether there are more.
        while found.len() <= most {
            let Some(page) = search.next().await? else { break };
            found.extend(page.sessions);
        }
        let more = found.len() > most;
        found.truncate(most);
        if self.json {
            let sessions: Vec<Value> = found.iter().map(document).collect();
            output::document(&json!({ "sessions": sessions, "more": more }))?;
            return Ok(ExitCode::SUCCESS);
        }
        for line in table(&found) {
            output::say(line.trim_end());
        }
        if more {
            eprintln!("There are more. --limit shows more of them, and criteria fewer.");
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    pub(super) async fn run(self) -> Ended {
        let store = self.servers.store()?;
        let filter =
            SessionFilter { id: Some(self.id), with_ended: true, ..SessionFilter::default() };
        let Some(session) = store.search(&filter, None).await?.sessions.pop() else {
            eprintln!("sessionctl: there is no session {}", self.id);
            if self.json {
                output::document(&Value::Null)?;
            }
            return Ok(exit_code(false));
        };
        if self.json {
            output::document(&document(&session))?;
            return Ok(ExitCode::SUCCESS);
        }
        let Value::Object(fields) = document(&session) else { return Ok(ExitCode::SUCCESS) };
        for (name, value) in fields {
            let value = match value {
                Value::Null => continue,
                Value::String(text) => visible(&text).into_owned(),
                other => other.to_string(),
            };
            output::say(format_args!("{name:<16}{value}"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Count {
    pub(super) async fn run(self) -> Ended {
        let store = self.servers.store()?;
        let filter = self.criteria.filter(now(&store).await?, self.ended);
        let bar = Bar::new();
        let number = count(&store, &filter, &bar).await?;
        bar.clear();
        if self.json {
            output::document(&json!({ "count": number }))?;
        } else {
            output::say(number);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns a session as JSON, with the field names of the application's own documents.
fn document(session: &StoredSession) -> Value {
    let time = |at: Timestamp| at.to_string();
    json!({
        "sessionId": session.id.to_string(),
        "user": session.user_id,
        "active": session.is_active,
        "createdAt": time(session.created_at),
        "authenticatedAt": time(session.authenticated_at),
        "lastSeenAt": time(session.last_seen_at),
        "expiresAt": time(session.expires_at),
        "idleTimeout": session.idle_timeout.map(|idle| idle.as_secs()),
        "persistent": session.persistent,
        "label": session.label,
        "ip": session.ip,
        "userAgent": session.user_agent,
        "revokedAt": session.revoked_at.map(time),
        "endedBy": session.ended_by,
        "endedReason": session.ended_reason,
    })
}

const HEAD: [&str; 7] = ["SESSION", "USER", "CREATED", "LAST SEEN", "EXPIRES", "ADDRESS", "LABEL"];

/// Returns the lines of a table with aligned columns. An ended session has its reason in place of a
/// label.
fn table(sessions: &[StoredSession]) -> Vec<String> {
    let minute = |at: Timestamp| at.to_string().chars().take(16).collect::<String>() + "Z";
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(sessions.iter().map(|session| {
        let label = session.label.clone().unwrap_or_default();
        let label = match (session.is_active, &session.ended_reason) {
            (true, _) => label,
            (false, reason) => format!("ended: {}", reason.as_deref().unwrap_or("expired")),
        };
        [
            session.id.to_string(),
            visible(&session.user_id).into_owned(),
            minute(session.created_at),
            minute(session.last_seen_at),
            minute(session.expires_at),
            session.ip.clone().unwrap_or_default(),
            visible(&label).into_owned(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 7] = std::array::from_fn(|column| width(column).unwrap_or_default());
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_without_sessions_is_its_head() {
        assert_eq!(table(&[]).len(), 1);
        assert!(table(&[])[0].starts_with("SESSION  USER"));
    }
}
