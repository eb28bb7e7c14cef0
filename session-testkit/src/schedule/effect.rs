//! What an event means for the promises: whether a node is cut off from Postgres, whether the use of a session
//! can be noted there, and whether Redis may lose what removes a copy. The checker relies on it, so each line
//! says why.

use super::Event;
use crate::faults::{Command, Fault, Link};

/// What an event means for those who feel it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// Is a node cut off from Postgres?
    pub postgres: Loss,
    /// May the use of a session go unnoted (a touch), though it can be read?
    pub touch: bool,
    /// May Redis lose what removes a copy (an UNLINK), or not acknowledge it?
    pub redis: bool,
}

/// Is something lost?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Certainly not.
    Not,
    /// Some requests are answered, some are not: a node may be behind, and may know.
    Perhaps,
    /// Nothing is answered positively as long as it lasts.
    Surely,
}

impl Effect {
    const NONE: Self = Self {
        postgres: Loss::Not,
        touch: false,
        redis: false,
    };

    /// Of an event, for the nodes that feel it.
    #[must_use]
    pub fn of(event: Event) -> Self {
        match event {
            Event::Fault(fault) if fault.is_redis() => Self {
                redis: loses_unlinks(fault),
                ..Self::NONE
            },
            Event::Fault(fault) => Self {
                postgres: postgres(fault),
                touch: matches!(fault, Fault::PostgresRowLocks | Fault::PostgresReadOnly),
                ..Self::NONE
            },
            // A command that is lost takes its connection with it, and what else was on it.
            Event::Lose(_) => Self {
                redis: true,
                ..Self::NONE
            },
            // What is put under a key goes with the next UNLINK; a node that starts asks both servers; moments are
            // of Postgres' clock, and spans of a monotonic one.
            Event::NodeRestart
            | Event::ClockStep
            | Event::RandomTokens
            | Event::Plant(_)
            | Event::PlainRevoke
            | Event::LateRevoke => Self::NONE,
        }
    }
}

fn loses_unlinks(fault: Fault) -> bool {
    match fault {
        // Entries go, UNLINK is carried out and answered as ever.
        Fault::RedisFlushAll
        | Fault::RedisEviction
        | Fault::RedisOom
        | Fault::RedisAcl(Command::Evalsha | Command::Set)
        | Fault::RedisLink(Link::Sliced) => false,
        // Down, deaf, slower than the deadline, demoted, or refusing all writes (MISCONF); without INFO,
        // CLIENT or GET a connection may be of no use at all.
        _ => true,
    }
}

fn postgres(fault: Fault) -> Loss {
    match fault {
        // Nobody answers.
        Fault::PostgresKill
        | Fault::PostgresPause
        | Fault::PostgresImmediateStop
        | Fault::PostgresDisconnect
        | Fault::PostgresLink(Link::Partition | Link::Down) => Loss::Surely,
        // Every read waits, is refused, or would find nothing where there is something.
        Fault::PostgresTableLock | Fault::PostgresForcedRls | Fault::PostgresRevokedGrant => {
            Loss::Surely
        }
        // Old connections go on, or new ones work, or some answers are in time.
        Fault::PostgresTerminate
        | Fault::PostgresConnectionLimit
        | Fault::PostgresCancel
        | Fault::PostgresLink(
            Link::Latency | Link::Blackhole | Link::Reset | Link::Idle | Link::Truncated,
        ) => Loss::Perhaps,
        // Reads are answered as ever. (Redis' own faults do nothing to Postgres.)
        _ => Loss::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, so that a new fault is thought about.
    #[test]
    fn every_event_has_its_effect() {
        let of = |wanted: Effect| {
            let names: Vec<_> = Event::all()
                .filter(|event| Effect::of(*event) == wanted)
                .map(Event::name)
                .collect();
            names.join(" ")
        };
        let effect = |postgres, redis| Effect {
            postgres,
            redis,
            ..Effect::NONE
        };
        assert_eq!(
            of(effect(Loss::Surely, false)),
            "postgres-kill postgres-pause postgres-immediate-stop postgres-table-lock \
             postgres-forced-rls postgres-revoked-grant postgres-disconnect \
             postgres-link-partition postgres-link-down"
        );
        assert_eq!(
            of(effect(Loss::Perhaps, false)),
            "postgres-terminate postgres-connection-limit postgres-cancel \
             postgres-link-latency postgres-link-blackhole postgres-link-reset \
             postgres-link-idle postgres-link-truncated"
        );
        assert_eq!(
            of(effect(Loss::Not, true)),
            "redis-kill redis-pause redis-old-dump redis-acl-info redis-acl-get redis-acl-client \
             redis-misconf redis-client-pause redis-client-pause-writes redis-client-kill \
             redis-maxclients redis-failover redis-demotion redis-disconnect \
             redis-link-latency redis-link-blackhole redis-link-partition redis-link-down \
             redis-link-reset redis-link-idle redis-link-truncated \
             lose-unlinks lose-unlink-replies lose-fences lose-fence-replies"
        );
        assert_eq!(
            of(effect(Loss::Not, false)),
            "redis-flush-all redis-eviction redis-oom redis-acl-evalsha redis-acl-set \
             redis-link-sliced postgres-open-transaction postgres-link-sliced \
             plant-garbage plant-swapped plant-oversized plant-wrong-type \
             plant-flipped node-restart random-tokens clock-step plain-revoke late-revoke"
        );
        let untouched = Effect {
            touch: true,
            ..Effect::NONE
        };
        assert_eq!(of(untouched), "postgres-row-locks postgres-read-only");
    }
}
