//! Histories as JSON lines.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, Write},
};

use serde::{Deserialize, Serialize};

use super::{
    End, Fault, Header, History, HistoryError, InFlight, LineError, Op, Operation, Sample, Scan,
    Search, VERSION,
};

/// A line after the header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// An operation.
    Op(Operation),
    /// Something broken on purpose.
    Fault(Fault),
    /// A comparison of Redis with Postgres.
    Scan(Scan),
    /// A sample of Postgres reads in flight.
    InFlight(InFlight),
    /// A sample of what a node holds on to.
    Sample(Sample),
    /// A search for raw tokens.
    Search(Search),
    /// The end of the run.
    End(End),
}

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum First<H> {
    Header(H),
}

/// Only this is read of a header before its version is known.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Writes a history line by line, as it happens. Each line is one `write`; buffering is the caller's.
#[derive(Debug)]
pub struct HistoryWriter<W> {
    to: W,
    line: Vec<u8>,
}

impl<W: Write> HistoryWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// [`HistoryError::Io`].
    pub fn new(to: W, header: &Header) -> Result<Self, HistoryError> {
        let mut writer = Self {
            to,
            line: Vec::new(),
        };
        writer.line(&First::Header(header))?;
        Ok(writer)
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// [`HistoryError::Io`].
    pub fn write(&mut self, entry: &Entry) -> Result<(), HistoryError> {
        self.line(entry)
    }

    /// Hands back what was written to, flushed.
    ///
    /// # Errors
    /// [`HistoryError::Io`].
    pub fn finish(mut self) -> Result<W, HistoryError> {
        self.to.flush()?;
        Ok(self.to)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), HistoryError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, value).map_err(std::io::Error::from)?;
        self.line.push(b'\n');
        self.to.write_all(&self.line)?;
        Ok(())
    }
}

impl History {
    /// Writes it whole.
    ///
    /// # Errors
    /// [`HistoryError::Io`].
    pub fn write<W: Write>(&self, to: W) -> Result<W, HistoryError> {
        let mut writer = HistoryWriter::new(to, &self.header)?;
        for operation in &self.operations {
            writer.line(&EntryRef::Op(operation))?;
        }
        for fault in &self.faults {
            writer.line(&EntryRef::Fault(fault))?;
        }
        for scan in &self.scans {
            writer.line(&EntryRef::Scan(scan))?;
        }
        for in_flight in &self.in_flight {
            writer.line(&EntryRef::InFlight(in_flight))?;
        }
        for sample in &self.samples {
            writer.line(&EntryRef::Sample(sample))?;
        }
        for search in &self.searches {
            writer.line(&EntryRef::Search(search))?;
        }
        if let Some(end) = &self.end {
            writer.line(&EntryRef::End(end))?;
        }
        writer.finish()
    }

    /// Reads one. Empty lines are skipped.
    ///
    /// # Errors
    /// [`HistoryError`] with the number of the first line that can't be used, and why.
    pub fn read(from: impl BufRead) -> Result<Self, HistoryError> {
        let mut history = None;
        let mut names = Names::default();
        for (at, line) in from.lines().enumerate() {
            let line = line?;
            let number = at + 1;
            let wrong = |why| HistoryError::Line { number, why };
            if line.trim().is_empty() {
                continue;
            }
            let Some(history) = &mut history else {
                history = Some(Self::new(read_header(&line).map_err(wrong)?));
                continue;
            };
            let entry: Entry =
                serde_json::from_str(&line).map_err(|error| wrong(LineError::Json(error)))?;
            history.admit(entry, number, &mut names).map_err(wrong)?;
        }
        let history = history.ok_or(HistoryError::Empty)?;
        names.check()?;
        Ok(history)
    }

    fn admit(&mut self, entry: Entry, line: usize, names: &mut Names) -> Result<(), LineError> {
        let nodes = self.header.nodes;
        let known = |node| {
            if node < nodes {
                Ok(())
            } else {
                Err(LineError::NoSuchNode { node, nodes })
            }
        };
        match &entry {
            Entry::Op(operation) => {
                operation.check(nodes)?;
                names.note(&operation.op, line)?;
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

/// [`Entry`] by reference, to write without copies.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum EntryRef<'a> {
    Op(&'a Operation),
    Fault(&'a Fault),
    Scan(&'a Scan),
    InFlight(&'a InFlight),
    Sample(&'a Sample),
    Search(&'a Search),
    End(&'a End),
}

fn read_header(line: &str) -> Result<Header, LineError> {
    let First::Header(Versioned { version }) =
        serde_json::from_str(line).map_err(|_| LineError::NotAHeader)?;
    if version != VERSION {
        return Err(LineError::Version(version));
    }
    let First::Header(header) = serde_json::from_str(line)?;
    Ok(header)
}

/// Every session is created once, every token given out once; the order of lines is free, so this is
/// known at the end only.
#[derive(Default)]
struct Names {
    sessions: HashSet<u32>,
    tokens: HashSet<(u32, u32)>,
    /// With the line of the first use.
    used: HashMap<(u32, u32), usize>,
}

impl Names {
    fn note(&mut self, op: &Op, line: usize) -> Result<(), LineError> {
        match *op {
            Op::Create { session, .. } => {
                if !self.sessions.insert(session) {
                    return Err(LineError::CreatedTwice(session));
                }
                self.give_out(session, 0)?;
            }
            Op::Rotate {
                session,
                token,
                new_token,
                ..
            } => {
                self.used.entry((session, token)).or_insert(line);
                if let Some(new) = new_token {
                    self.give_out(session, new)?;
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

    fn give_out(&mut self, session: u32, token: u32) -> Result<(), LineError> {
        if self.tokens.insert((session, token)) {
            Ok(())
        } else {
            Err(LineError::GivenOutTwice { session, token })
        }
    }

    /// The first line with a name that means nothing.
    fn check(self) -> Result<(), HistoryError> {
        let unknown = self
            .used
            .into_iter()
            .filter(|(name, _)| !self.tokens.contains(name));
        let Some(((session, token), number)) = unknown.min_by_key(|(_, line)| *line) else {
            return Ok(());
        };
        let why = if self.sessions.contains(&session) {
            LineError::NeverGivenOut { session, token }
        } else {
            LineError::NeverCreated(session)
        };
        Err(HistoryError::Line { number, why })
    }
}
