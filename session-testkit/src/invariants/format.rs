//! Entries of a history as text.

use std::fmt;

use crate::{
    history::{Change, Creation, Entry, Fault, Nanos, Op, Operation},
    subject::Seen,
};

/// Returns the time by which an entry is sorted: for an operation, its call.
pub(super) fn time(entry: &Entry) -> Nanos {
    match entry {
        Entry::Op(operation) => operation.call,
        Entry::Fault(fault) => fault.at,
        Entry::Scan(scan) => scan.at,
        Entry::InFlight(in_flight) => in_flight.at,
        Entry::Sample(sample) => sample.at,
        Entry::Search(search) => search.at,
        Entry::End(end) => end.at,
    }
}

/// A time in milliseconds from the start, with three decimals.
pub(super) struct Ms(pub(super) Nanos);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0 / 1000;
        write!(f, "{}.{:03} ms", micros / 1000, micros % 1000)
    }
}

impl fmt::Display for Entry {
    /// Writes one line, as in the proof of a violation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = Ms(time(self)).to_string();
        write!(f, "{at:>14}  ")?;
        match self {
            Entry::Op(operation) => write_operation(operation, f),
            Entry::Fault(fault) => write_fault(fault, f),
            Entry::Scan(scan) => {
                let (entries, stale) = (scan.entries, scan.stale.len());
                write!(f, "scan of {entries} entries of Redis: {stale} of them stale")
            }
            Entry::InFlight(in_flight) => {
                let (node, reads) = (in_flight.node, in_flight.reads);
                write!(f, "node {node}: {reads} reads of Postgres in flight")
            }
            Entry::Sample(sample) => {
                let (node, of, value) = (sample.node, sample.of, sample.value);
                write!(f, "node {node}: {of:?} {value}")
            }
            Entry::Search(search) => {
                let (place, bytes, found) = (search.place, search.bytes, search.found.len());
                write!(f, "search of {bytes} bytes of {place:?}: {found} raw tokens")
            }
            Entry::End(_) => f.write_str("end of the run"),
        }
    }
}

fn write_operation(operation: &Operation, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "node {}: ", operation.node)?;
    match &operation.op {
        Op::Create { session, user, .. } => write!(f, "create of session {session} for {user}")?,
        Op::Validate { session, token, .. } => {
            write!(f, "validate of {}", Named(*session, *token))?;
        }
        Op::ValidateRandom { .. } => f.write_str("validate of a token that was never issued")?,
        Op::Update { session, token, data, .. } => {
            write!(f, "update of {} to data `{data}`", Named(*session, *token))?;
        }
        Op::Revoke { session, token, .. } => write!(f, "revoke of {}", Named(*session, *token))?,
        Op::RevokeAll { user, .. } => write!(f, "revoke-all of {user}")?,
        Op::Rotate { session, token, grace_ms, .. } => {
            write!(f, "rotation of {}, grace {grace_ms} ms", Named(*session, *token))?;
        }
    }
    f.write_str(" → ")?;
    match &operation.op {
        Op::Create { answer, .. } => creation(answer.as_ref(), f)?,
        op if op.is_validation() => seen(op.seen(), f)?,
        op => change(op.change(), f)?,
    }
    match (operation.ret, operation.dropped) {
        (Some(ret), _) => write!(f, ", returned at {}", Ms(ret)),
        (None, Some(at)) => write!(f, ", dropped by the caller at {}", Ms(at)),
        (None, None) => Ok(()),
    }
}

/// The name of a token: its session's number and its own.
pub(super) struct Named(pub(super) u32, pub(super) u32);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(session, 0) => write!(f, "session {session}"),
            Self(session, token) => write!(f, "session {session} (its token {token})"),
        }
    }
}

const NO_ANSWER: &str = "no result";

fn creation(answer: Option<&Creation>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match answer {
        Some(Creation::Created) => f.write_str("created"),
        Some(Creation::Refused(why)) => write!(f, "refused ({why})"),
        Some(Creation::Unknown(why)) => write!(f, "fate unknown ({why})"),
        None => f.write_str(NO_ANSWER),
    }
}

fn seen(answer: Option<&Seen>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match answer {
        Some(Seen::Valid { user, data }) => write!(f, "Valid (user {user}, data `{data}`)"),
        Some(Seen::Invalid) => f.write_str("Invalid"),
        Some(Seen::Unavailable) => f.write_str("Unavailable"),
        None => f.write_str(NO_ANSWER),
    }
}

fn change(answer: Option<&Change>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match answer {
        Some(Change::Propagated) => f.write_str("Propagated"),
        Some(Change::Committed { within_ms, at_most_ms }) => {
            write!(f, "Committed (within {within_ms} ms, at most {at_most_ms} ms)")
        }
        Some(Change::Nothing) => f.write_str("Nothing"),
        Some(Change::Refused(why)) => write!(f, "refused ({why})"),
        Some(Change::Unknown(why)) => write!(f, "fate unknown ({why})"),
        None => f.write_str(NO_ANSWER),
    }
}

fn write_fault(fault: &Fault, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "fault {}", fault.name)?;
    match &fault.nodes {
        Some(nodes) => write!(f, " on nodes {nodes:?}")?,
        None => f.write_str(" on all nodes")?,
    }
    match fault.longest().1 {
        Nanos::MAX => f.write_str(", never healed"),
        healed => write!(f, ", healed at {}", Ms(healed)),
    }
}
