//! The load second by second, from the recorded operations.

use std::collections::BTreeMap;

use crate::{
    history::{Change, Creation, History, Nanos, Operation},
    subject::Seen,
};

const SECOND: Nanos = 1_000_000_000;
/// A history from outside may have any time. No run lasts longer than a day.
const MOST: u32 = 86_400;

/// What began within one second, on one node or on all.
#[derive(Debug, Clone, Default)]
pub(super) struct Second {
    /// The number of operations that returned.
    pub(super) returned: u32,
    /// The number of operations among all that were unavailable, failed or had no response.
    pub(super) failed: u32,
    /// The 99th percentile of the validations' times in milliseconds.
    pub(super) p99_ms: f64,
}

/// The seconds of a run.
#[derive(Debug)]
pub(super) struct Seconds {
    all: Vec<Second>,
    /// Those of each node in which an operation began. A run may have many nodes and seconds.
    nodes: Vec<BTreeMap<u32, Second>>,
    end: Nanos,
}

impl Seconds {
    pub(super) fn of(history: &History) -> Self {
        let ends = history.operations.iter().map(|it| it.ret.unwrap_or(it.call));
        let healed = history.faults.iter().filter_map(|fault| fault.healed.or(fault.until));
        let end = ends.chain(healed).max().unwrap_or(0);
        let length = index(end) as usize + 1;
        let mut all = vec![(Second::default(), Vec::new()); length];
        let mut nodes = vec![BTreeMap::new(); history.header.nodes as usize];
        for operation in &history.operations {
            let at = index(operation.call);
            let Some((second, took)) = all.get_mut(at as usize) else { continue };
            add(second, operation);
            if let (true, Some(ret)) = (operation.op.is_validation(), operation.ret) {
                took.push(ret.saturating_sub(operation.call));
            }
            if let Some(seconds) = nodes.get_mut(operation.node as usize) {
                add(seconds.entry(at).or_default(), operation);
            }
        }
        let all = all.into_iter().map(|(second, took)| Second { p99_ms: p99(took), ..second });
        Self { all: all.collect(), nodes, end }
    }

    pub(super) fn all(&self) -> &[Second] {
        &self.all
    }

    /// Returns the seconds of a node with their numbers, without those in which none began.
    pub(super) fn of_node(&self, node: u32) -> impl Iterator<Item = (u32, &Second)> {
        let seconds = self.nodes.get(node as usize).into_iter().flatten();
        seconds.map(|(at, second)| (*at, second))
    }

    /// Returns the end of the last operation or fault.
    pub(super) fn end(&self) -> Nanos {
        self.end.max(1)
    }
}

fn index(at: Nanos) -> u32 {
    u32::try_from(at / SECOND).unwrap_or(MOST).min(MOST)
}

fn add(second: &mut Second, operation: &Operation) {
    second.returned += u32::from(operation.ret.is_some());
    second.failed += u32::from(is_failed(operation));
}

/// Returns whether an operation failed. One that its caller dropped did not.
pub(super) fn is_failed(operation: &Operation) -> bool {
    use crate::history::Op;
    let changed = matches!(operation.op.change(), Some(Change::Refused(_) | Change::Unknown(_)));
    let created = matches!(
        operation.op,
        Op::Create { answer: Some(Creation::Refused(_) | Creation::Unknown(_)), .. }
    );
    let is_open = operation.ret.is_none() && operation.dropped.is_none();
    operation.op.seen() == Some(&Seen::Unavailable) || changed || created || is_open
}

#[expect(clippy::cast_precision_loss, reason = "the nanoseconds of a run are far below 2^52")]
fn p99(mut took: Vec<Nanos>) -> f64 {
    took.sort_unstable();
    let at = (took.len() * 99).div_ceil(100).saturating_sub(1);
    took.get(at).map_or(0.0, |took| *took as f64 / 1_000_000.0)
}
