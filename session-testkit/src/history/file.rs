//! Histories as JSON lines.

use std::{
    collections::{HashMap, HashSet},
    io::{self, BufRead, Write},
};

use serde::{Deserialize, Serialize};

use super::{
    End, Fault, Header, History, HistoryError, InFlight, LineError, MAX_NODES, Op, Operation,
    Sample, Scan, Search, VERSION,
};

/// A line after the header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// An operation.
    Op(Operation),
    /// An injected fault.
    Fault(Fault),
    /// A comparison of Redis with Postgres.
    Scan(Scan),
    /// A sample of Postgres reads in flight.
    InFlight(InFlight),
    /// A sample of a node's resources.
    Sample(Sample),
    /// A search for raw tokens.
    Search(Search),
    /// The end of the run.
    End(End),
}

/// The first line.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum First<H> {
    Header(H),
}

/// The part of a header that is read before its version is known.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Writes one line, an object with this single key.
fn write_line(to: &mut impl Write, key: &str, value: &impl Serialize) -> Result<(), HistoryError> {
    let mut line = serde_json::to_vec(&HashMap::from([(key, value)])).map_err(io::Error::from)?;
    line.push(b'\n');
    Ok(to.write_all(&line)?)
}

fn write_lines<T: Serialize>(
    to: &mut impl Write,
    key: &str,
    values: &[T],
) -> Result<(), HistoryError> {
    values.iter().try_for_each(|value| write_line(to, key, value))
}

impl History {
    /// Writes the whole history as [`VERSION`]. Returns the flushed destination.
    ///
    /// # Errors
    /// [`HistoryError::Io`] if a write fails, [`HistoryError::Line`] if the history has more than
    /// [`MAX_NODES`] nodes, so that it could not be read again.
    pub fn write<W: Write>(&self, mut to: W) -> Result<W, HistoryError> {
        self.header.check().map_err(|why| HistoryError::Line { number: 1, why })?;
        write_line(&mut to, "header", &self.header)?;
        write_lines(&mut to, "op", &self.operations)?;
        write_lines(&mut to, "fault", &self.faults)?;
        write_lines(&mut to, "scan", &self.scans)?;
        write_lines(&mut to, "in_flight", &self.in_flight)?;
        write_lines(&mut to, "sample", &self.samples)?;
        write_lines(&mut to, "search", &self.searches)?;
        write_lines(&mut to, "end", self.end.as_slice())?;
        to.flush()?;
        Ok(to)
    }

    /// Reads a history of [`VERSION`] or an earlier one, and skips empty lines.
    ///
    /// # Errors
    /// [`HistoryError`] with the number of the first unusable line and the reason.
    pub fn read(from: impl BufRead) -> Result<Self, HistoryError> {
        let mut history = None;
        let mut version = VERSION;
        let mut names = Names::default();
        for (at, line) in from.lines().enumerate() {
            let line = line?;
            let number = at + 1;
            let wrong = |why| HistoryError::Line { number, why };
            if line.trim().is_empty() {
                continue;
            }
            let Some(history) = &mut history else {
                let mut header = read_header(&line).map_err(wrong)?;
                // The history in memory may get fields that its version on disk lacks.
                version = std::mem::replace(&mut header.version, VERSION);
                history = Some(Self::new(header));
                continue;
            };
            let entry: Entry =
                serde_json::from_str(&line).map_err(|error| wrong(LineError::Json(error)))?;
            check_version(&entry, version).map_err(wrong)?;
            history.admit(entry, number, &mut names).map_err(wrong)?;
        }
        let history = history.ok_or(HistoryError::Empty)?;
        names.check()?;
        Ok(history)
    }

    fn admit(&mut self, entry: Entry, line: usize, names: &mut Names) -> Result<(), LineError> {
        let nodes = self.header.nodes;
        let known = |node| {
            if node < nodes { Ok(()) } else { Err(LineError::NoSuchNode { node, nodes }) }
        };
        match &entry {
            Entry::Op(operation) => {
                operation.check(nodes)?;
                names.record(&operation.op, line)?;
            }
            Entry::Fault(fault) => fault.check(nodes)?,
            Entry::InFlight(in_flight) => known(in_flight.node)?,
            Entry::Sample(sample) => known(sample.node)?,
            Entry::End(_) if self.end.is_some() => return Err(LineError::EndsTwice),
            Entry::Scan(_) | Entry::Search(_) | Entry::End(_) => {}
        }
        self.push(entry);
        Ok(())
    }
}

impl Header {
    fn check(&self) -> Result<(), LineError> {
        if self.nodes > MAX_NODES {
            return Err(LineError::TooManyNodes(self.nodes));
        }
        Ok(())
    }
}

fn read_header(line: &str) -> Result<Header, LineError> {
    let First::Header(Versioned { version }) =
        serde_json::from_str(line).map_err(|_| LineError::NotAHeader)?;
    if !(1..=VERSION).contains(&version) {
        return Err(LineError::Version(version));
    }
    let First::Header::<Header>(header) = serde_json::from_str(line)?;
    header.check()?;
    Ok(header)
}

/// Checks that the version has all fields of the entry.
fn check_version(entry: &Entry, version: u32) -> Result<(), LineError> {
    match entry {
        Entry::Fault(Fault { around: Some(_), .. }) if version < 2 => {
            Err(LineError::Newer { field: "around", since: 2, version })
        }
        _ => Ok(()),
    }
}

/// The names of a history. Every session is created once and every token issued once. Because the
/// order of lines is free, this is known only at the end.
#[derive(Default)]
struct Names {
    sessions: HashSet<u32>,
    tokens: HashSet<(u32, u32)>,
    /// The names in use, with the line of their first use.
    used: HashMap<(u32, u32), usize>,
}

impl Names {
    fn record(&mut self, op: &Op, line: usize) -> Result<(), LineError> {
        match *op {
            Op::Create { session, .. } => {
                if !self.sessions.insert(session) {
                    return Err(LineError::CreatedTwice(session));
                }
                self.issue(session, 0)?;
            }
            Op::Rotate { session, token, new_token, .. } => {
                self.used.entry((session, token)).or_insert(line);
                if let Some(new) = new_token {
                    self.issue(session, new)?;
                }
            }
            Op::Validate { session, token, .. }
            | Op::Update { session, token, .. }
            | Op::Revoke { session, token, .. } => {
                self.used.entry((session, token)).or_insert(line);
            }
            Op::ValidateRandom { .. } | Op::RevokeAll { .. } => {}
        }
        Ok(())
    }

    fn issue(&mut self, session: u32, token: u32) -> Result<(), LineError> {
        if self.tokens.insert((session, token)) {
            Ok(())
        } else {
            Err(LineError::IssuedTwice { session, token })
        }
    }

    /// Returns the first line that uses an unknown name.
    fn check(self) -> Result<(), HistoryError> {
        let unknown = self.used.into_iter().filter(|(name, _)| !self.tokens.contains(name));
        let Some(((session, token), number)) = unknown.min_by_key(|(_, line)| *line) else {
            return Ok(());
        };
        let why = if self.sessions.contains(&session) {
            LineError::NeverIssued { session, token }
        } else {
            LineError::NeverCreated(session)
        };
        Err(HistoryError::Line { number, why })
    }
}
