//! `sessionctl sessions …`, `sessionctl revoke` and `sessionctl erase`.

mod criteria;
mod erase;
mod list;
mod revoke;
mod visibility;

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    process::ExitCode,
};

use session_tools::{COULD_NOT_RUN, Ended, exit_code, output};

pub(crate) use self::{erase::Arguments as Erase, revoke::Arguments as Revoke};

/// Lists, shows, counts and revokes sessions.
///
/// Criteria are combined: a session matches if it matches all of them.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  sessionctl sessions list --user alice
  sessionctl sessions count --idle-for 30d
  sessionctl sessions count --kind persistent
  sessionctl sessions show 9f1c0f5e-3b1e-4f4e-9f67-2f6a6f0f4f11
  sessionctl sessions revoke --address 203.0.113.0/24 --reason 'stolen credentials'"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    List(list::List),
    Show(list::Show),
    Count(list::Count),
    Revoke(revoke::Arguments),
    Erase(erase::Arguments),
}

pub(crate) async fn run(arguments: Arguments) -> Ended {
    match arguments.command {
        Command::List(list) => list.run().await,
        Command::Show(show) => show.run().await,
        Command::Count(count) => count.run().await,
        Command::Revoke(revoke) => revoke.run().await,
        Command::Erase(erase) => erase.run().await,
    }
}

/// Whether an operator agreed to a change.
enum Consent {
    Given,
    Refused,
    /// There is no terminal to ask on.
    NotAsked,
}

impl Consent {
    /// Returns the exit code of a command that may not continue, and prints why.
    fn missing(&self) -> Option<ExitCode> {
        let (why, code) = match self {
            Self::Given => return None,
            Self::Refused => ("nothing was changed", exit_code(false)),
            Self::NotAsked => {
                ("there is no terminal to ask on, pass --yes", ExitCode::from(COULD_NOT_RUN))
            }
        };
        output::complain(format_args!("sessionctl: {why}"));
        Some(code)
    }
}

/// Asks on the terminal whether to continue, unless --yes has answered.
fn consent(question: &str, yes: bool) -> io::Result<Consent> {
    if yes {
        return Ok(Consent::Given);
    }
    if !io::stdin().is_terminal() {
        return Ok(Consent::NotAsked);
    }
    eprint!("{question} Type `yes` to continue: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(if is_yes(&answer) { Consent::Given } else { Consent::Refused })
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes))
}

/// Returns `1 session` or `2 sessions`.
fn sessions(number: u64) -> String {
    match number {
        1 => "1 session".to_owned(),
        _ => format!("{number} sessions"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_and_y_are_consent() {
        for answer in ["yes\n", "y\n", " Y \r\n", "YES"] {
            assert!(is_yes(answer), "{answer:?}");
        }
        for answer in ["", "\n", "n\n", "no", "ye", "yes please", "yy"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
