//! The active toxics of a proxy, their guards, and what each has affected.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    Connections, Shared,
    toxic::{Direction, Kind, Toxic},
};

/// An active toxic.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) id: u64,
    pub(super) toxic: Arc<Toxic>,
    pub(super) since: Instant,
    pub(super) touched: Arc<Touched>,
    /// The number from which on connections are spared.
    before: Option<u64>,
}

impl Active {
    /// Creates an active toxic. `accepted` is the number of the next connection.
    pub(super) fn new(toxic: Toxic, accepted: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            since: Instant::now(),
            touched: Arc::default(),
            before: toxic.established.then_some(accepted),
            toxic: Arc::new(toxic),
        }
    }

    fn happens_to(&self, number: u64) -> bool {
        self.before.is_none_or(|before| number < before)
    }
}

/// The way in which a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A normal close.
    Close,
    /// A RST to both sides.
    Reset,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Toxics {
    now: Vec<Active>,
    /// The last toxic that ends connections. All connections with a smaller number than it names
    /// are ended, even if it healed before they noticed.
    last: Option<(Active, End)>,
    /// The healed toxics that forgot connections, which stay forgotten.
    forgetful: Vec<Active>,
}

impl Toxics {
    pub(super) fn add(&mut self, active: Active, connections: &Connections) {
        let end = match active.toxic.kind {
            Kind::Down => Some(End::Close),
            Kind::ResetPeer { after } if after.is_zero() => Some(End::Reset),
            _ => None,
        };
        if let Some(end) = end {
            let open = connections.open.iter();
            for number in open.filter(|number| active.happens_to(**number)) {
                active.touched.connection(*number);
            }
            let mut doom = active.clone();
            doom.before = Some(connections.accepted);
            self.last = Some((doom, end));
        }
        self.now.push(active);
    }

    pub(super) fn remove(&mut self, id: u64) {
        let healed = self.now.extract_if(.., |active| active.id == id);
        let forgetful =
            healed.filter(|active| matches!(active.toxic.kind, Kind::ForgetIdle { .. }));
        self.forgetful.extend(forgetful);
    }

    /// Returns the toxics that affect one direction of a connection.
    pub(super) fn of(&self, number: u64, direction: Direction) -> impl Iterator<Item = &Active> {
        let happen = self.now.iter().filter(move |active| {
            active.happens_to(number) && active.toxic.direction.is_none_or(|it| it == direction)
        });
        let forgetful = self.forgetful.iter();
        happen.chain(forgetful.filter(move |active| active.touched.has(number)))
    }

    /// Returns how a connection must be ended now, if at all.
    pub(super) fn end(&self, number: u64) -> Option<End> {
        if let Some((active, end)) = &self.last
            && active.happens_to(number)
        {
            return Some(*end);
        }
        let down =
            |active: &&Active| matches!(active.toxic.kind, Kind::Down) && active.happens_to(number);
        self.now.iter().find(down).map(|active| {
            active.touched.connection(number);
            End::Close
        })
    }

    /// Returns whether a connection must not reach the server yet.
    pub(super) fn held(&self, number: u64) -> bool {
        let hold = |active: &Active| {
            let held = matches!(active.toxic.kind, Kind::Hold { from: None });
            if held {
                active.touched.connection(number);
            }
            held
        };
        self.of(number, Direction::ToServer).any(hold)
    }
}

/// The connections and bytes that one toxic has affected.
#[derive(Debug, Default)]
pub(super) struct Touched {
    bytes: AtomicU64,
    occurrences: AtomicU64,
    connections: Mutex<BTreeSet<u64>>,
    /// The connections whose next response must be lost, with the start of the loss.
    losing: Mutex<BTreeMap<u64, Instant>>,
    /// The time of the last byte on each connection.
    last: Mutex<BTreeMap<u64, Instant>>,
    changed: watch::Sender<bool>,
}

impl Touched {
    pub(super) fn connection(&self, number: u64) {
        lock(&self.connections).insert(number);
        self.changed.send_if_modified(|touched| !std::mem::replace(touched, true));
    }

    /// Returns whether the toxic has affected this connection.
    pub(super) fn has(&self, number: u64) -> bool {
        lock(&self.connections).contains(&number)
    }

    pub(super) fn bytes(&self, number: u64, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.connection(number);
    }

    /// Suppresses all responses on this connection from now on.
    pub(super) fn lose_from(&self, number: u64, now: Instant) {
        lock(&self.losing).entry(number).or_insert(now);
    }

    pub(super) fn losing_since(&self, number: u64) -> Option<Instant> {
        lock(&self.losing).get(&number).copied()
    }

    pub(super) fn occurred(&self, times: u64) {
        self.occurrences.fetch_add(times, Relaxed);
    }

    /// Records a byte on this connection.
    pub(super) fn came_by(&self, number: u64, now: Instant) {
        lock(&self.last).insert(number, now);
    }

    pub(super) fn last(&self, number: u64) -> Option<Instant> {
        lock(&self.last).get(&number).copied()
    }

    pub(super) fn report(&self) -> Report {
        Report {
            connections: u64::try_from(lock(&self.connections).len()).unwrap_or(u64::MAX),
            bytes: self.bytes.load(Relaxed),
            occurrences: self.occurrences.load(Relaxed),
        }
    }

    /// Waits until the toxic has affected anything.
    pub(super) async fn any(&self) {
        let mut changed = self.changed.subscribe();
        // The sender is in `self`, so this cannot fail.
        let _touched = changed.wait_for(|touched| *touched).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The effect of a fault so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The connections that were delayed, held, truncated or ended.
    pub connections: u64,
    /// The bytes that were delayed, held, sliced or lost. Bytes that passed unchanged on an ended
    /// connection do not count.
    pub bytes: u64,
    /// The occurrences that a [`count`](super::Toxic::count) found.
    pub occurrences: u64,
}

impl Report {
    /// Returns whether the fault affected anything. If not, a test that passed has proved nothing.
    pub fn touched_something(self) -> bool {
        self.connections > 0 || self.bytes > 0 || self.occurrences > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections, {} bytes", self.connections, self.bytes)
    }
}

/// The guard of a [`Toxic`](super::Toxic), which heals when it is dropped.
#[derive(Debug)]
#[must_use = "the toxic heals as soon as the guard is dropped"]
pub struct ToxicGuard {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Active,
}

impl ToxicGuard {
    /// Returns the effect so far.
    pub fn report(&self) -> Report {
        self.active.touched.report()
    }

    /// Waits until the toxic has affected something. The caller needs a timeout.
    pub async fn touched(&self) {
        self.active.touched.any().await;
    }

    /// Heals the toxic, as dropping the guard does, and returns its effect.
    pub fn heal(self) -> Report {
        self.report()
    }

    /// Heals a toxic that holds bytes, which are then delivered. It is [`heal`](Self::heal).
    pub fn release(self) -> Report {
        self.heal()
    }
}

impl Drop for ToxicGuard {
    fn drop(&mut self) {
        self.shared.toxics.send_modify(|toxics| toxics.remove(self.active.id));
    }
}

/// Returns a latency within its jitter, selected by `random` from 0 to 1.
pub(super) fn delayed(delay: Duration, jitter: Duration, random: f64) -> Duration {
    let least = delay.saturating_sub(jitter);
    let most = delay.saturating_add(jitter);
    least + (most - least).mul_f64(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn jitter_greater_than_the_delay_never_goes_below_zero() {
        assert_eq!(delayed(50 * MS, 10 * MS, 0.0), 40 * MS);
        assert_eq!(delayed(50 * MS, 10 * MS, 1.0), 60 * MS);
        assert_eq!(delayed(MS, 3 * MS, 0.0), Duration::ZERO);
        assert_eq!(delayed(MS, 3 * MS, 1.0), 4 * MS);
    }

    #[test]
    fn established_connections_stay_ended_after_healing() {
        let mut toxics = Toxics::default();
        let connections = Connections { accepted: 2, open: BTreeSet::from([1]) };
        let down = Active::new(Toxic::down().established(), 2);
        toxics.add(down.clone(), &connections);
        toxics.remove(down.id);
        assert_eq!(toxics.end(1), Some(End::Close));
        assert_eq!(toxics.end(2), None);
        let report = down.touched.report();
        assert_eq!((report.connections, report.bytes), (1, 0));
    }
}
