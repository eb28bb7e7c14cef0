//! Schedules that are drawn from a seed. They are pure, so that a seed replays them.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha8Rng, seq::IndexedRandom as _};

use super::{Event, Schedule, Step};
use crate::faults::Fault;
use crate::proxy::Peer;

/// The duration of an event in milliseconds. A shorter event may end unnoticed, because a healthy
/// Postgres receives little more than two journal reads per second.
const DURATION_MS: std::ops::Range<u64> = 1_000..5_000;
/// The pause between two events in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 300..3_000;

/// The means that a deployment offers for faults.
#[derive(Debug, Clone, Copy, Default)]
pub struct Means {
    /// Whether the servers may be damaged, because the testkit started them.
    pub damage: bool,
    /// Whether there is a Redis to fail over to.
    pub replica: bool,
    /// Whether the servers are containers, which can leave their network.
    pub containers: bool,
    /// Whether the nodes seal their entries.
    pub sealed: bool,
}

impl Schedule {
    /// Draws a sequence of these events for a load of this duration on this many nodes. Sometimes
    /// two events overlap, but never on one server. UNLINKs, fences and their replies are lost from
    /// the beginning to the end. Errors of a starting node, and of the retry after a lost UNLINK,
    /// show only then. The last fifth of the load has no other event.
    ///
    /// `from` is [`Event::all`] without the events that the servers do not support.
    #[must_use]
    pub fn draw(seed: u64, load: Duration, nodes: u32, from: &[Event]) -> Self {
        // A separate stream from the workload's.
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1);
        let mut steps: Vec<Step> = Event::all()
            .filter(|event| matches!(event, Event::Lose(_)))
            .map(|event| Step { event, at: Duration::ZERO, lasts: load, nodes: None })
            .collect();
        let ms = Duration::from_millis;
        let end = load.saturating_mul(4) / 5;
        // Per server: the time until which it has an event.
        let mut busy = [Duration::ZERO; 2];
        let mut at = load / 10;
        while at + ms(DURATION_MS.start) <= end {
            let free = |event: &&Event| {
                let losing = matches!(event, Event::Lose(_));
                !losing && event.keeps().is_none_or(|server| busy[server as usize] <= at)
            };
            let events: Vec<&Event> = from.iter().filter(free).collect();
            let lasts = ms(rng.random_range(DURATION_MS)).min(end - at);
            if let Some(event) = events.choose(&mut rng) {
                let event = **event;
                let some = event.affects_single_nodes() && rng.random_range(0..2) == 0;
                let nodes = some.then(|| vec![rng.random_range(0..nodes.max(1))]);
                if let Some(server) = event.keeps() {
                    // Causing and healing take time: a restart, a failback.
                    busy[server as usize] = at + lasts + ms(1_500);
                }
                steps.push(Step { event, at, lasts, nodes });
            }
            let together = rng.random_range(0..4) == 0;
            at += if together { lasts / 3 } else { lasts + ms(rng.random_range(PAUSE_MS)) };
            at = at.max(ms(1));
        }
        Self { seed, steps }
    }

    /// Returns the events that these means permit.
    pub fn drawable(with: Means) -> Vec<Event> {
        let possible = |event: &Event| {
            (with.damage || event.server().is_none())
                && (with.replica || !event.needs_replica())
                && (with.containers || !event.needs_containers())
                && (with.sealed || !event.needs_key())
                && event.is_drawable()
        };
        Event::all().filter(possible).collect()
    }
}

impl Event {
    /// Returns the server that must have no other event meanwhile. The event damages it, or needs
    /// it to work. An event of open connections or replies has no effect while the server is
    /// stopped.
    fn keeps(self) -> Option<Peer> {
        match self {
            Self::Fault(Fault::RedisLink(link)) => link.needs_responses().then_some(Peer::Redis),
            Self::Fault(Fault::PostgresLink(link)) => {
                link.needs_responses().then_some(Peer::Postgres)
            }
            Self::PlainRevoke | Self::LateRevoke => Some(Peer::Postgres),
            Self::Plant(_) => Some(Peer::Redis),
            _ => self.server(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn all() -> Vec<Event> {
        Schedule::drawable(Means { damage: true, replica: true, containers: true, sealed: true })
    }

    #[test]
    fn seed_replays_its_schedule_and_another_seed_differs() {
        let drawn = |seed| Schedule::draw(seed, MINUTE, 3, &all());
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7).steps, drawn(8).steps);
    }

    #[test]
    fn drawn_schedule_is_valid_and_ends_without_events() {
        let mut seen = HashSet::new();
        for seed in 0..300 {
            let schedule = Schedule::draw(seed, MINUTE, 3, &all());
            schedule.check(3).unwrap();
            let (lossy, others): (Vec<_>, Vec<_>) =
                schedule.steps.iter().partition(|step| matches!(step.event, Event::Lose(_)));
            assert_eq!(lossy.len(), 4);
            assert!(lossy.iter().all(|step| step.at.is_zero() && step.lasts == MINUTE));
            assert!(others.len() >= 5, "{schedule:?}");
            for step in others {
                assert!(step.until() <= MINUTE * 4 / 5, "{step:?}");
                assert!(step.lasts >= Duration::from_millis(DURATION_MS.start), "{step:?}");
                seen.insert(step.event);
            }
        }
        let all = all();
        let missing =
            all.iter().filter(|event| !matches!(event, Event::Lose(_)) && !seen.contains(event));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&Event>::new());
    }

    /// Checks that sessions can be revoked and entries planted. Without them, a run proves nothing.
    #[test]
    fn event_that_needs_a_server_does_not_overlap_its_damage() {
        for seed in 0..300 {
            let steps = Schedule::draw(seed, MINUTE, 3, &all()).steps;
            let needs =
                |step: &&Step| step.event.server().is_none() && step.event.keeps().is_some();
            for step in steps.iter().filter(needs) {
                let mut damage =
                    steps.iter().filter(|other| other.event.server() == step.event.keeps());
                let meanwhile =
                    damage.find(|other| other.at < step.until() && step.at < other.until());
                assert_eq!(meanwhile, None, "{step:?} of seed {seed}");
            }
        }
    }

    #[test]
    fn without_permission_to_damage_no_event_is_destructive() {
        let harmless = Schedule::drawable(Means::default());
        let schedule = Schedule::draw(7, MINUTE, 3, &harmless);
        assert_eq!(schedule.destructive(), None);
        assert!(!schedule.needs_replica());
    }
}
