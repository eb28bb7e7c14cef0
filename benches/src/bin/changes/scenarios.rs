//! The scenarios, each of which makes one table.

mod backlog;
mod everywhere;
mod open;
mod rate;

use std::{fmt, time::Duration};

use clap::ValueEnum;
use session_testkit::backends::Backends;
use tokio::time::timeout;

use crate::{
    deployment::{Caches, Deployment},
    error::{Doing as _, Error},
    names::Kind,
    observed::{Observed, Promise},
    observer::Observer,
    plan::Plan,
    sql::Users,
    table::{Table, grouped, seconds},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// SQL changes sessions at a constant rate, with checkpoints, and ends ten a second.
    Rate,
    /// One transaction changes very many sessions. A node starts behind a long journal.
    Backlog,
    /// All sessions of a user with very many are revoked.
    Everywhere,
    /// A transaction that has changed very many sessions stays open.
    Open,
}

#[derive(Debug)]
pub(crate) struct Section {
    /// A description of the scenario.
    what: String,
    /// D, as the nodes report it.
    staleness_bound: Duration,
    table: Table,
    /// The errors in the nodes' health documents.
    remarks: Vec<String>,
    pub(crate) broken: Vec<String>,
}

impl Section {
    fn new(what: impl Into<String>, head: &[&str]) -> Self {
        Self {
            what: what.into(),
            staleness_bound: Duration::ZERO,
            table: Table::new(head.iter().copied().chain(Observed::HEAD)),
            remarks: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// Adds a row for each node: first these cells, then the observations. Also adds the promises
    /// that were broken. `d` is D.
    fn add(&mut self, cells: &[String], observed: &[Observed], d: Duration, bound: Bound) {
        self.staleness_bound = d;
        for node in observed {
            self.table.row(cells.iter().cloned().chain(node.cells(d)));
            let (run, (promise, within)) = (&cells[0], bound);
            self.remarks.extend(node.errors().map(|error| format!("{run}, {error}")));
            let broken = node.broken(promise, within).into_iter();
            self.broken.extend(broken.map(|what| format!("{run}: {what}")));
        }
    }
}

/// A promise and its bound.
type Bound = (Promise, Duration);

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let staleness_bound = seconds(self.staleness_bound);
        writeln!(f, "{} D is {staleness_bound} s, as the nodes report it.\n", self.what)?;
        writeln!(f, "{}", self.table)?;
        for remark in &self.remarks {
            writeln!(f, "- {remark}")?;
        }
        for broken in &self.broken {
            writeln!(f, "- **BROKEN**: {broken}")?;
        }
        Ok(())
    }
}

impl Scenario {
    /// Returns its name on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(crate) async fn run(self, backends: &Backends, plan: &Plan) -> Result<Section, Error> {
        let measured = async {
            match self {
                Self::Rate => rate::run(backends, plan).await,
                Self::Backlog => backlog::run(backends, plan).await,
                Self::Everywhere => everywhere::run(backends, plan).await,
                Self::Open => open::run(backends, plan).await,
            }
        };
        let measuring = || format!("measure `{}`", self.name());
        let measured = timeout(plan.deadline(), measured).await;
        measured.doing(measuring)?.doing(measuring)
    }
}

/// Starts nodes with their own caches, sessions to change, and sessions to end.
async fn start<'a>(
    backends: &'a Backends,
    plan: &'a Plan,
    scenario: &str,
    rows: u64,
) -> Result<(Deployment<'a>, Observer), Error> {
    progress(format_args!("{scenario}: creating {} sessions", grouped(rows)));
    let (mut deployment, reports) = Deployment::new(backends, plan, Caches::OfTheirOwn).await?;
    deployment.create(Kind::Changed, rows, Users::OneEach).await?;
    let observer = Observer::new(&deployment, reports).await?;
    deployment.start_nodes().await?;
    Ok((deployment, observer))
}

/// Reports progress, on standard error.
fn progress(what: impl fmt::Display) {
    eprintln!("changes: {what}");
}
