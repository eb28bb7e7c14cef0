//! The effect of each event on the promises. It states whether nodes are cut off from Postgres,
//! whether touches may fail, and whether Redis may lose UNLINKs. The checker relies on this table,
//! so each line has its reason.

use super::Event;
use crate::faults::{Command, Fault, Link};

/// The effect of an event on the affected nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// Whether a node is cut off from Postgres. Such a node may miss a revoke.
    pub postgres: Loss,
    /// Whether a touch may fail although the session can be read. An idle timeout may then be that
    /// much earlier.
    pub touch: bool,
    /// Whether Redis may lose an UNLINK, or not acknowledge it.
    pub redis: bool,
}

/// The certainty of a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// There is no loss.
    Not,
    /// Some requests get a reply and some do not. A node may be behind, or up to date.
    Perhaps,
    /// No request gets a useful reply while the event lasts. A node must not return Invalid.
    Surely,
}

impl Effect {
    /// No effect.
    pub const NONE: Self = Self { postgres: Loss::Not, touch: false, redis: false };

    /// Returns the effect of an event on the affected nodes.
    #[must_use]
    pub fn of(event: Event) -> Self {
        match event {
            Event::Fault(fault) => of_fault(fault),
            // A lost command takes its connection and the other commands on it with it.
            Event::Lose(_) => Self { redis: true, ..Self::NONE },
            // The next UNLINK removes a planted value. A starting node reads both servers.
            // Postgres' clock decides about expiry, and a monotonic clock measures spans.
            Event::NodeRestart
            | Event::ClockStep
            | Event::RandomTokens
            | Event::Plant(_)
            | Event::PlainRevoke
            | Event::LateRevoke
            // A connection is authenticated with the next token before its own expires.
            | Event::CredentialsExpire => Self::NONE,
            // Open connections to Postgres continue, but none that ends is replaced.
            Event::CertificateExpire => {
                Self { redis: true, postgres: Loss::Perhaps, ..Self::NONE }
            }
        }
    }
}

fn of_fault(fault: Fault) -> Effect {
    let postgres = |postgres| Effect { postgres, ..Effect::NONE };
    match fault {
        // Entries vanish, but UNLINK is executed and acknowledged.
        Fault::RedisFlushAll
        | Fault::RedisEviction
        | Fault::RedisOom
        | Fault::RedisAcl(Command::Evalsha | Command::Set)
        | Fault::RedisLink(Link::Sliced) => Effect::NONE,
        // Redis is down, paused, slower than the deadline, demoted, or refuses all writes
        // (MISCONF). A slot that moves may redirect an UNLINK. Without INFO, CLIENT or GET, a
        // connection may be unusable.
        Fault::RedisKill
        | Fault::RedisPause
        | Fault::RedisOldDump
        | Fault::RedisAcl(Command::Info | Command::Get | Command::Client)
        | Fault::RedisMisconf
        | Fault::RedisClientPause
        | Fault::RedisClientPauseWrites
        | Fault::RedisClientKill
        | Fault::RedisMaxClients
        | Fault::RedisFailover
        | Fault::RedisDemotion
        | Fault::RedisClusterSlotMove
        | Fault::RedisClusterShardDown
        | Fault::RedisSentinelFailover
        | Fault::RedisDisconnect
        | Fault::RedisLink(_) => Effect { redis: true, ..Effect::NONE },
        // Postgres does not reply.
        Fault::PostgresKill
        | Fault::PostgresPause
        | Fault::PostgresImmediateStop
        | Fault::PostgresDisconnect
        | Fault::PostgresLink(Link::Partition | Link::Down) => postgres(Loss::Surely),
        // Every read waits, is refused, or misses existing rows.
        Fault::PostgresTableLock | Fault::PostgresForcedRls | Fault::PostgresRevokedGrant => {
            postgres(Loss::Surely)
        }
        // Old connections continue, or new ones work, or some replies are in time.
        // A failover is over before the event ends.
        Fault::PostgresTerminate
        | Fault::PostgresFailover
        | Fault::PostgresConnectionLimit
        | Fault::PostgresCancel
        | Fault::PostgresLink(
            Link::Latency | Link::Blackhole | Link::Reset | Link::Idle | Link::Truncated,
        ) => postgres(Loss::Perhaps),
        // Reads are unaffected, but not writes.
        Fault::PostgresRowLocks | Fault::PostgresReadOnly => Effect { touch: true, ..Effect::NONE },
        // A connection that was idle for long is pinged before its use.
        Fault::PostgresIdleDrop
        | Fault::PostgresOpenTransaction
        | Fault::PostgresLink(Link::Sliced) => Effect::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checker excuses what this table allows. A wrong line would hide a broken promise.
    #[test]
    fn every_event_has_its_effect() {
        let of = |effect: Effect| {
            let all = Event::all().filter(|event| Effect::of(*event) == effect);
            all.map(Event::name).collect::<Vec<_>>().join(" ")
        };
        let effect = |postgres, redis| Effect { postgres, redis, ..Effect::NONE };
        assert_eq!(
            of(effect(Loss::Surely, false)),
            "postgres-kill postgres-pause postgres-immediate-stop postgres-table-lock \
             postgres-forced-rls postgres-revoked-grant postgres-disconnect \
             postgres-link-partition postgres-link-down"
        );
        assert_eq!(
            of(effect(Loss::Perhaps, false)),
            "postgres-terminate postgres-connection-limit postgres-cancel postgres-failover \
             postgres-link-latency postgres-link-blackhole postgres-link-reset \
             postgres-link-idle postgres-link-truncated"
        );
        assert_eq!(
            of(effect(Loss::Not, true)),
            "redis-kill redis-pause redis-old-dump redis-acl-info redis-acl-get redis-acl-client \
             redis-misconf redis-client-pause redis-client-pause-writes redis-client-kill \
             redis-maxclients redis-failover redis-demotion redis-cluster-slot-move \
             redis-cluster-shard-down redis-sentinel-failover redis-disconnect \
             redis-link-latency redis-link-blackhole redis-link-partition redis-link-down \
             redis-link-reset redis-link-idle redis-link-truncated \
             lose-unlinks lose-unlink-replies lose-fences lose-fence-replies"
        );
        assert_eq!(
            of(effect(Loss::Not, false)),
            "redis-flush-all redis-eviction redis-oom redis-acl-evalsha redis-acl-set \
             redis-link-sliced postgres-open-transaction postgres-idle-drop postgres-link-sliced \
             plant-garbage plant-swapped plant-oversized plant-wrong-type \
             plant-flipped node-restart random-tokens clock-step plain-revoke late-revoke \
             credentials-expire"
        );
        assert_eq!(of(effect(Loss::Perhaps, true)), "certificate-expire");
        let untouched = Effect { touch: true, ..Effect::NONE };
        assert_eq!(of(untouched), "postgres-row-locks postgres-read-only");
    }
}
