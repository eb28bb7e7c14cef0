//! The faults of Redis.

use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, RedisError};
use tokio::time::Instant;

use super::{
    FaultError, Target, cluster, failover,
    fault::{Command, Fault},
    guard::{FaultGuard, Undo},
    sentinels,
};
use crate::{backends::RedisServer, wait::Patience};

/// The duration of CLIENT PAUSE … ALL, which nothing can end.
const PAUSE: Duration = Duration::from_secs(2);
/// The maximum wait for a change that is then lost.
const CHANGE: Duration = Duration::from_secs(2);
pub(super) const EFFECT: Duration = Duration::from_secs(10);
/// Ten days, as long as until healing.
const LONG: &str = "864000000";
const KILL_CLIENTS: [&str; 6] = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];

pub(super) async fn inject(
    fault: Fault,
    target: &Target,
    guard: &mut FaultGuard,
) -> Result<(), FaultError> {
    let server = target.redis_of(fault);
    server.allowed("break")?;
    if let Some(before) = counts(fault, target, None).await {
        guard.connections = before.connections;
        guard.counter = before.counter;
    }
    match fault {
        Fault::RedisKill => guard.stop(server.kill()).await?,
        Fault::RedisPause => guard.undo = Undo::Resume(server.pause().await?),
        Fault::RedisOldDump => {
            server.save().await?;
            guard.effects = Some(changes(server, 0).await?);
            guard.stop(server.kill()).await?;
        }
        Fault::RedisFlushAll => {
            guard.effects = Some(send(server, &["DBSIZE"]).await?);
            server.flush_all().await?;
        }
        Fault::RedisEviction => {
            let memory = info(server, "memory").await?;
            let number = |name| memory.number(name).unwrap_or_default();
            let (used, startup) = (number("used_memory"), number("used_memory_startup"));
            let half = startup + used.saturating_sub(startup) / 2;
            limit_memory(server, guard, "allkeys-random", half).await?;
        }
        Fault::RedisOom => limit_memory(server, guard, "noeviction", 1).await?,
        Fault::RedisAcl(denied) => deny(denied, target, guard).await?,
        Fault::RedisMisconf => misconfigure(server, guard).await?,
        Fault::RedisClientPause => {
            let milliseconds = PAUSE.as_millis().to_string();
            let () = send(server, &["CLIENT", "PAUSE", &milliseconds, "ALL"]).await?;
            guard.undo = Undo::Wait(Instant::now() + PAUSE);
        }
        Fault::RedisClientPauseWrites => {
            guard.undo = Undo::Redis(vec![words(&["CLIENT", "UNPAUSE"])]);
            let () = send(server, &["CLIENT", "PAUSE", LONG, "WRITE"]).await?;
        }
        Fault::RedisClientKill => guard.effects = Some(send(server, &KILL_CLIENTS).await?),
        Fault::RedisMaxClients => limit_clients(server, guard).await?,
        Fault::RedisFailover => failover::fail_over(target, guard).await?,
        Fault::RedisDemotion => failover::demote(target, guard).await?,
        Fault::RedisClusterSlotMove => cluster::move_slots(target, guard).await?,
        Fault::RedisClusterShardDown => cluster::stop_shard(target, guard).await?,
        Fault::RedisSentinelFailover => sentinels::fail_over(target, guard).await?,
        Fault::RedisDisconnect => guard.undo = Undo::Reconnect(server.disconnect().await?),
        postgres => unreachable!("{postgres} is not a fault of Redis"),
    }
    Ok(())
}

/// Sets the memory limit and its policy, and records how to restore both.
async fn limit_memory(
    server: &RedisServer,
    guard: &mut FaultGuard,
    policy: &str,
    bytes: u64,
) -> Result<(), FaultError> {
    let mut restore = Vec::new();
    // The limit is restored before the policy that it needs.
    for name in ["maxmemory", "maxmemory-policy"] {
        let value = parameter(server, name).await?;
        restore.push(words(&["CONFIG", "SET", name, &value]));
    }
    guard.undo = Undo::Redis(restore);
    server.config_set("maxmemory-policy", policy).await?;
    Ok(server.config_set("maxmemory", &bytes.to_string()).await?)
}

async fn parameter(server: &RedisServer, name: &str) -> Result<String, FaultError> {
    let pair: Vec<String> = send(server, &["CONFIG", "GET", name]).await?;
    Ok(pair.into_iter().nth(1).unwrap_or_default())
}

async fn deny(denied: Command, target: &Target, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let user = target.redis_user.as_str();
    let users: Vec<String> = send(&target.redis, &["ACL", "LIST"]).await?;
    let begin = format!("user {user} ");
    let rules = users.iter().find_map(|line| line.strip_prefix(&begin));
    let rules = rules.ok_or_else(|| {
        FaultError::Impossible(format!(
            "Redis has no user `{user}`. Name the user with `Target::redis_user`"
        ))
    })?;
    // Restores only the commands, in one step from none. Selectors in parentheses stay unchanged.
    let mut restore = words(&["ACL", "SETUSER", user, "-@all"]);
    let rules = rules.split(" (").next().unwrap_or_default();
    let commands = rules.split_whitespace();
    restore.extend(commands.filter(|rule| rule.starts_with(['+', '-'])).map(str::to_owned));
    guard.undo = Undo::Redis(vec![restore]);
    let mut steps = ::redis::pipe();
    steps.atomic();
    if denied == Command::Client {
        // Nodes send CLIENT only on new connections, therefore the open ones are closed. Both steps
        // are one transaction. Afterwards this user may not send CLIENT KILL, and a node that
        // reconnected between the steps would not be affected.
        steps.add_command(command(&KILL_CLIENTS));
    }
    let rule = format!("-{}", denied.name());
    steps.add_command(command(&["ACL", "SETUSER", user, &rule])).ignore();
    let killed: Vec<u64> = steps.query_async(&mut target.redis.connect().await?).await?;
    guard.effects = killed.first().copied();
    Ok(())
}

/// Makes a background save fail in a folder that is not writable.
async fn misconfigure(server: &RedisServer, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let save = parameter(server, "save").await?;
    let folder = parameter(server, "dir").await?;
    let mut heal =
        vec![words(&["CONFIG", "SET", "dir", &folder]), words(&["CONFIG", "SET", "save", &save])];
    if !save.is_empty() {
        // If Redis saves automatically, only a successful save ends the fault.
        heal.push(words(&["BGSAVE"]));
    }
    guard.undo = Undo::Redis(heal);
    server.config_set("dir", "/proc").await?;
    // Redis rejects writes only if it saves automatically, here after a day with a billion changes.
    server.config_set("save", "86400 1000000000").await?;
    let () = send(server, &["BGSAVE"]).await?;
    let failed = |it: &Info| it.text("rdb_last_bgsave_status") == Some("err");
    until_persistence(server, "a background save to fail", failed).await
}

/// Waits until this holds for the section `persistence` of INFO.
async fn until_persistence(
    server: &RedisServer,
    what: &str,
    holds: impl Fn(&Info) -> bool,
) -> Result<(), FaultError> {
    let mut patience = Patience::new(what, EFFECT);
    let looked = async || info(server, "persistence").await.is_ok_and(|it| holds(&it));
    while !patience.look(looked()).await? {}
    Ok(())
}

async fn limit_clients(server: &RedisServer, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let before = parameter(server, "maxclients").await?;
    // The connection is blocking, because a `Drop` outside of this runtime must heal.
    let url = server.server_url().expose().clone();
    let held = tokio::task::spawn_blocking(move || {
        let client = ::redis::Client::open(url)?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut steps = ::redis::pipe();
        steps.atomic();
        steps.add_command(command(&["CONFIG", "SET", "maxclients", "1"]));
        // Without closed connections, no node would be affected.
        steps.add_command(command(&KILL_CLIENTS));
        let limited = steps.exec(&mut connection);
        Ok::<_, RedisError>((connection, limited))
    });
    let held = held.await.map_err(|error| FaultError::Impossible(error.to_string()))?;
    let (held, limited) = held?;
    let restore = words(&["CONFIG", "SET", "maxclients", &before]);
    guard.undo = Undo::RedisOn(Box::new(held), restore);
    Ok(limited?)
}

/// Returns the number of changes since the last save.
pub(super) async fn dirty(server: &RedisServer) -> Result<u64, FaultError> {
    let persistence = info(server, "persistence").await?;
    Ok(persistence.number("rdb_changes_since_last_save").unwrap_or_default())
}

/// Returns the changes since `before`. Waits a while for the first.
pub(super) async fn changes(server: &RedisServer, before: u64) -> Result<u64, FaultError> {
    let mut patience = Patience::new("a change", CHANGE);
    let changed = async || dirty(server).await.is_ok_and(|now| now > before);
    while matches!(patience.look(changed()).await, Ok(false)) {}
    Ok(dirty(server).await?.saturating_sub(before))
}

/// Sends these commands. A failed command does not stop the others.
pub(super) async fn undo(server: &RedisServer, commands: &[Vec<String>]) -> Result<(), FaultError> {
    let mut failure = None;
    for words in commands {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words.starts_with(&["REPLICAOF"]) {
            let loaded = |it: &Info| it.number("loading") == Some(0);
            until_persistence(server, "Redis to have loaded its data", loaded).await?;
        }
        if let Err(error) = send::<()>(server, &words).await {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

/// The server's counts for a report.
pub(super) struct Counts {
    pub(super) connections: u64,
    pub(super) counter: Option<u64>,
}

/// Counts clients, and the effects of this fault if Redis counts those.
pub(super) async fn counts(
    fault: Fault,
    target: &Target,
    held: Option<&mut ::redis::Connection>,
) -> Option<Counts> {
    let all = match held {
        Some(connection) => Info(command(&["INFO", "everything"]).query(connection).ok()?),
        None => info(target.redis_of(fault), "everything").await.ok()?,
    };
    // An error that never occurred has no line.
    let errors = |code: &str| {
        let line = all.text(&format!("errorstat_{code}"));
        let count = line.and_then(|line| line.strip_prefix("count=")?.parse::<u64>().ok());
        count.unwrap_or_default()
    };
    let counter = match fault {
        Fault::RedisEviction => all.number("evicted_keys"),
        Fault::RedisMaxClients => all.number("rejected_connections"),
        Fault::RedisOom => Some(errors("OOM")),
        Fault::RedisMisconf => Some(errors("MISCONF")),
        // Redis does not count rejected CLIENT commands.
        Fault::RedisAcl(Command::Client) => None,
        Fault::RedisAcl(_) => Some(errors("NOPERM")),
        Fault::RedisDemotion => Some(errors("LOADING") + errors("READONLY")),
        _ => None,
    };
    // Excludes the connection of this command.
    let connections = all.number("connected_clients")?.saturating_sub(1);
    Some(Counts { connections, counter })
}

/// The reply to INFO.
pub(super) struct Info(String);

impl Info {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

pub(super) async fn info(server: &RedisServer, section: &str) -> Result<Info, FaultError> {
    Ok(Info(send(server, &["INFO", section]).await?))
}

/// Sends a command on a connection of its own.
pub(super) async fn send<T: FromRedisValue>(
    server: &RedisServer,
    words: &[&str],
) -> Result<T, FaultError> {
    let mut admin = server.connect().await?;
    Ok(command(words).query_async(&mut admin).await?)
}

pub(super) fn command<S: AsRef<str>>(words: &[S]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word.as_ref());
    }
    command
}

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
