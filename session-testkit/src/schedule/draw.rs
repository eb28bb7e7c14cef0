//! Schedules drawn from a seed: pure, so that a seed replays them.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha8Rng, seq::IndexedRandom as _};

use super::{Event, Lost, Schedule, Step};
use crate::faults::Fault;
use crate::proxy::Peer;

/// Bounds in milliseconds. What is shorter than a second may be over before anybody felt it: of a healthy Postgres
/// hardly more is asked than its journal, twice a second.
const LASTS: std::ops::Range<u64> = 1_000..5_000;
const PAUSE: std::ops::Range<u64> = 300..3_000;

/// What there is to break, and what with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Means {
    /// Damage may be done to the servers: they are ours.
    pub damage: bool,
    /// There is a Redis to fail over to.
    pub replica: bool,
    /// The servers are containers, which can leave their network.
    pub containers: bool,
    /// The nodes seal their entries.
    pub sealed: bool,
}

impl Schedule {
    /// Draws one of these events after the other, for a load that lasts so long on so many nodes; now and then
    /// a second one at the same time, but never two on one server. UNLINKs, fences and their replies are
    /// lost from the beginning to the end: mistakes of a starting node, and of whatever makes up for a lost
    /// UNLINK, show only then. The last fifth of the load is left in peace.
    ///
    /// Of the events [`Event::all`] names, leave out those that the servers can't do.
    #[must_use]
    pub fn draw(seed: u64, load: Duration, nodes: u32, from: &[Event]) -> Self {
        // Not the workload's own stream.
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1);
        let mut steps: Vec<Step> = Lost::ALL
            .map(|lost| Step {
                event: Event::Lose(lost),
                at: Duration::ZERO,
                lasts: load,
                nodes: None,
            })
            .into();
        let ms = Duration::from_millis;
        let end = load.saturating_mul(4) / 5;
        // Per server: until when something happens to it.
        let mut busy = [Duration::ZERO; 2];
        let mut at = load / 10;
        while at + ms(LASTS.start) <= end {
            let free = |event: &&Event| {
                let losing = matches!(event, Event::Lose(_));
                !losing && event.keeps().is_none_or(|server| busy[place(server)] <= at)
            };
            let events: Vec<&Event> = from.iter().filter(free).collect();
            let lasts = ms(rng.random_range(LASTS)).min(end - at);
            if let Some(event) = events.choose(&mut rng) {
                let event = **event;
                let some = event.is_of_nodes() && rng.random_range(0..2) == 0;
                let nodes = some.then(|| vec![rng.random_range(0..nodes.max(1))]);
                if let Some(server) = event.keeps() {
                    // Causing and healing take their time: a restart, a failback.
                    busy[place(server)] = at + lasts + ms(1_500);
                }
                steps.push(Step {
                    event,
                    at,
                    lasts,
                    nodes,
                });
            }
            let together = rng.random_range(0..4) == 0;
            at += if together {
                lasts / 3
            } else {
                lasts + ms(rng.random_range(PAUSE))
            };
            at = at.max(ms(1));
        }
        Self { seed, steps }
    }

    /// What can be drawn: all but what needs more than there is.
    #[must_use]
    pub fn drawable(with: Means) -> Vec<Event> {
        let possible = |event: &Event| {
            (with.damage || event.server().is_none())
                && (with.replica || !event.needs_replica())
                && (with.containers || !event.needs_containers())
                && (with.sealed || !event.needs_key())
                && *event != Event::ClockStep
        };
        Event::all().filter(possible).collect()
    }
}

impl Event {
    /// The server that nothing else may happen to meanwhile: the one it does damage to, or has to find in order. What
    /// happens to open connections, or to answers, happens to nothing while the server is stopped.
    fn keeps(self) -> Option<Peer> {
        match self {
            Self::Fault(Fault::RedisLink(link)) => link.needs_answers().then_some(Peer::Redis),
            Self::Fault(Fault::PostgresLink(link)) => {
                link.needs_answers().then_some(Peer::Postgres)
            }
            Self::PlainRevoke | Self::LateRevoke => Some(Peer::Postgres),
            Self::Plant(_) => Some(Peer::Redis),
            _ => self.server(),
        }
    }
}

fn place(server: Peer) -> usize {
    match server {
        Peer::Redis => 0,
        Peer::Postgres => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn all() -> Vec<Event> {
        Schedule::drawable(Means {
            damage: true,
            replica: true,
            containers: true,
            sealed: true,
        })
    }

    #[test]
    fn a_seed_replays_its_schedule_and_another_draws_another() {
        let drawn = |seed| Schedule::draw(seed, MINUTE, 3, &all());
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7).steps, drawn(8).steps);
    }

    #[test]
    fn every_schedule_can_be_carried_out_and_ends_in_peace() {
        let mut seen = HashSet::new();
        for seed in 0..300 {
            let schedule = Schedule::draw(seed, MINUTE, 3, &all());
            schedule.check(3).unwrap();
            for lost in Lost::ALL {
                let mut steps = schedule.steps.iter();
                let lossy = steps.find(|step| step.event == Event::Lose(lost)).unwrap();
                assert_eq!((lossy.at, lossy.lasts), (Duration::ZERO, MINUTE));
            }
            let others = schedule.steps.iter().skip(Lost::ALL.len());
            assert!(others.clone().count() >= 5, "{schedule:?}");
            for step in others {
                assert!(step.until() <= MINUTE * 4 / 5, "{step:?}");
                assert!(step.lasts >= Duration::from_millis(LASTS.start), "{step:?}");
                seen.insert(step.event);
            }
        }
        let all = all();
        let missing = all
            .iter()
            .filter(|event| !matches!(event, Event::Lose(_)) && !seen.contains(event));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&Event>::new());
    }

    /// Of sessions that nobody could end, and copies that nobody could plant, a run proves nothing.
    #[test]
    fn who_needs_a_server_finds_it_in_order() {
        for seed in 0..300 {
            let steps = Schedule::draw(seed, MINUTE, 3, &all()).steps;
            let needs =
                |step: &&Step| step.event.server().is_none() && step.event.keeps().is_some();
            for step in steps.iter().filter(needs) {
                let mut damage = steps
                    .iter()
                    .filter(|other| other.event.server() == step.event.keeps());
                let meanwhile =
                    damage.find(|other| other.at < step.until() && step.at < other.until());
                assert_eq!(meanwhile, None, "{step:?} of seed {seed}");
            }
        }
    }

    #[test]
    fn on_servers_of_others_nothing_does_damage() {
        let harmless = Schedule::drawable(Means::default());
        let schedule = Schedule::draw(7, MINUTE, 3, &harmless);
        assert_eq!(schedule.destructive(), None);
        assert!(!schedule.needs_replica());
    }
}
