//! The faults that a proxy has at the moment.

use std::time::Duration;

/// What happens to a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Answers come later.
    Latency { delay: Duration, jitter: Duration },
    /// It is closed.
    Cut,
    /// Nothing moves.
    Hang,
}

/// To which connections it happens. They are numbered in the order in which they were accepted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope {
    All,
    /// Those with a smaller number.
    Before(u64),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    next: u64,
    now: Vec<Active>,
    /// A cut that healed at once must still be seen by everyone: those with a smaller number are
    /// cut for good.
    cut_before: u64,
}

#[derive(Clone, Copy, Debug)]
struct Active {
    id: u64,
    scope: Scope,
    fault: Fault,
}

impl Faults {
    pub(super) fn add(&mut self, scope: Scope, fault: Fault) -> u64 {
        let id = self.next;
        self.next += 1;
        if let (Scope::Before(number), Fault::Cut) = (scope, fault) {
            self.cut_before = self.cut_before.max(number);
        }
        self.now.push(Active { id, scope, fault });
        id
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.now.retain(|active| active.id != id);
    }

    fn of(&self, number: u64) -> impl Iterator<Item = Fault> {
        let meant = move |active: &&Active| match active.scope {
            Scope::All => true,
            Scope::Before(first_spared) => number < first_spared,
        };
        self.now.iter().filter(meant).map(|active| active.fault)
    }

    pub(super) fn cut(&self, number: u64) -> bool {
        number < self.cut_before || self.of(number).any(|fault| matches!(fault, Fault::Cut))
    }

    pub(super) fn hung(&self, number: u64) -> bool {
        self.of(number).any(|fault| matches!(fault, Fault::Hang))
    }

    /// How long the next bytes are held; `random` chooses within the jitter, 0 to 1.
    pub(super) fn delay(&self, number: u64, random: f64) -> Duration {
        let delays = self.of(number).filter_map(|fault| match fault {
            Fault::Latency { delay, jitter } => {
                let least = delay.saturating_sub(jitter);
                let most = delay.saturating_add(jitter);
                Some(least + (most - least).mul_f64(random))
            }
            Fault::Cut | Fault::Hang => None,
        });
        delays.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn latencies_add_up_within_their_jitter() {
        let mut faults = Faults::default();
        let slow = faults.add(
            Scope::All,
            Fault::Latency {
                delay: 50 * MS,
                jitter: 10 * MS,
            },
        );
        assert_eq!(faults.delay(0, 0.0), 40 * MS);
        assert_eq!(faults.delay(0, 1.0), 60 * MS);
        faults.add(
            Scope::Before(3),
            Fault::Latency {
                delay: 5 * MS,
                jitter: Duration::ZERO,
            },
        );
        assert_eq!(faults.delay(2, 0.5), 55 * MS);
        assert_eq!(faults.delay(3, 0.5), 50 * MS);
        faults.remove(slow);
        assert_eq!(faults.delay(3, 0.5), Duration::ZERO);
    }

    #[test]
    fn jitter_greater_than_the_delay_never_goes_below_zero() {
        let mut faults = Faults::default();
        faults.add(
            Scope::All,
            Fault::Latency {
                delay: MS,
                jitter: 3 * MS,
            },
        );
        assert_eq!(faults.delay(0, 0.0), Duration::ZERO);
        assert_eq!(faults.delay(0, 1.0), 4 * MS);
    }

    #[test]
    fn established_connections_stay_cut_after_the_guard_is_gone() {
        let mut faults = Faults::default();
        let cut = faults.add(Scope::Before(2), Fault::Cut);
        faults.remove(cut);
        assert!(faults.cut(1));
        assert!(!faults.cut(2));
    }
}
