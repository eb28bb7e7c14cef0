//! The faults of Redis.

use std::time::Duration;

use ::redis::{Cmd, RedisError, aio::MultiplexedConnection, cmd};
use tokio::time::Instant;

use super::{
    FaultError, Target, failover,
    fault::{Command, Fault},
    guard::{FaultGuard, Undo},
};
use crate::{
    backends::{BackendError, RedisServer},
    wait::{Patience, WaitTimeoutError},
};

/// The duration of CLIENT PAUSE … ALL, which nothing can end.
const PAUSE: Duration = Duration::from_secs(2);
/// The maximum wait for a change that is then lost.
const CHANGE: Duration = Duration::from_secs(2);
const EFFECT: Duration = Duration::from_secs(10);
/// Ten days, as long as until healing.
const LONG: &str = "864000000";

pub(super) async fn inject(
    fault: Fault,
    target: &Target,
    mut guard: FaultGuard,
) -> Result<FaultGuard, FaultError> {
    let server = &target.redis;
    server.allowed("break")?;
    if let Some(before) = look(fault, target, None).await {
        guard.connections = before.connections;
        guard.counter = before.counter;
    }
    match fault {
        Fault::RedisKill => {
            guard.undo = Undo::Restart;
            kill(server, &mut guard).await?;
        }
        Fault::RedisPause => guard.undo = Undo::Resume(server.pause().await?),
        Fault::RedisOldDump => {
            server.save().await?;
            guard.effects = Some(changes(fault, server, 0).await?);
            guard.undo = Undo::Restart;
            kill(server, &mut guard).await?;
        }
        Fault::RedisFlushAll => {
            let mut admin = server.connect().await?;
            let keys = cmd("DBSIZE").query_async(&mut admin).await;
            guard.effects = Some(keys.map_err(refused(fault))?);
            server.flush_all().await?;
        }
        Fault::RedisEviction => {
            let memory = info(fault, server, "memory").await?;
            let number = |name| memory.number(name).unwrap_or_default();
            let (used, startup) = (number("used_memory"), number("used_memory_startup"));
            let half = startup + used.saturating_sub(startup) / 2;
            let settings = [
                ("maxmemory-policy", "allkeys-random".to_owned()),
                ("maxmemory", half.to_string()),
            ];
            configure(fault, server, &mut guard, &settings).await?;
        }
        Fault::RedisOom => {
            let settings =
                [("maxmemory-policy", "noeviction".to_owned()), ("maxmemory", "1".to_owned())];
            configure(fault, server, &mut guard, &settings).await?;
        }
        Fault::RedisAcl(denied) => deny(fault, denied, target, &mut guard).await?,
        Fault::RedisMisconf => misconfigure(fault, server, &mut guard).await?,
        Fault::RedisClientPause => {
            let milliseconds = PAUSE.as_millis().to_string();
            ask(fault, server, &["CLIENT", "PAUSE", &milliseconds, "ALL"]).await?;
            guard.undo = Undo::Wait(Instant::now() + PAUSE);
        }
        Fault::RedisClientPauseWrites => {
            guard.undo = Undo::Redis(vec![words(&["CLIENT", "UNPAUSE"])]);
            ask(fault, server, &["CLIENT", "PAUSE", LONG, "WRITE"]).await?;
        }
        Fault::RedisClientKill => {
            let kill = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
            let mut admin = server.connect().await?;
            let killed = command(&kill).query_async(&mut admin).await;
            guard.effects = Some(killed.map_err(refused(fault))?);
        }
        Fault::RedisMaxClients => limit_clients(fault, server, &mut guard).await?,
        Fault::RedisFailover => failover::fail_over(fault, target, &mut guard).await?,
        Fault::RedisDemotion => failover::demote(fault, target, &mut guard).await?,
        Fault::RedisDisconnect => {
            guard.undo = Undo::Reconnect(server.disconnect().await?);
        }
        postgres => unreachable!("{postgres} is not a fault of Redis"),
    }
    Ok(guard)
}

async fn kill(server: &RedisServer, guard: &mut FaultGuard) -> Result<(), FaultError> {
    let killed = server.kill().await;
    if matches!(killed, Err(BackendError::NotOurs { .. })) {
        guard.undo = Undo::Nothing;
    }
    Ok(killed?)
}

/// Sets parameters, and records how to restore them.
async fn configure(
    fault: Fault,
    server: &RedisServer,
    guard: &mut FaultGuard,
    settings: &[(&str, String)],
) -> Result<(), FaultError> {
    let mut before = Vec::new();
    // In reverse, so that a limit is restored before the policy that it needs.
    for (name, _) in settings.iter().rev() {
        let value = parameter(fault, server, name).await?;
        before.push(words(&["CONFIG", "SET", name, &value]));
    }
    guard.undo = Undo::Redis(before);
    for (name, value) in settings {
        server.config_set(name, value).await?;
    }
    Ok(())
}

async fn parameter(fault: Fault, server: &RedisServer, name: &str) -> Result<String, FaultError> {
    let mut admin = server.connect().await?;
    let pair: Vec<String> =
        command(&["CONFIG", "GET", name]).query_async(&mut admin).await.map_err(refused(fault))?;
    Ok(pair.into_iter().nth(1).unwrap_or_default())
}

async fn deny(
    fault: Fault,
    denied: Command,
    target: &Target,
    guard: &mut FaultGuard,
) -> Result<(), FaultError> {
    let user = target.redis_user.as_str();
    let mut admin = target.redis.connect().await?;
    let users: Vec<String> =
        command(&["ACL", "LIST"]).query_async(&mut admin).await.map_err(refused(fault))?;
    let begin = format!("user {user} ");
    let rules = users.iter().find_map(|line| line.strip_prefix(&begin));
    let rules = rules.ok_or_else(|| FaultError::Impossible {
        fault,
        why: format!("Redis has no user `{user}`. Name the user with `Target::redis_user`"),
    })?;
    // Restores only the commands, in one step from none. Selectors in parentheses stay unchanged.
    let mut restore = words(&["ACL", "SETUSER", user, "-@all"]);
    let rules = rules.split(" (").next().unwrap_or_default();
    let commands = rules.split_whitespace();
    restore.extend(commands.filter(|rule| rule.starts_with(['+', '-'])).map(str::to_owned));
    guard.undo = Undo::Redis(vec![restore]);
    let rule = format!("-{}", denied.name());
    let mut steps = ::redis::pipe();
    steps.atomic();
    if denied == Command::Client {
        // Nodes send CLIENT only on new connections, therefore the open ones are closed. Both steps
        // are one transaction. Afterwards this user may not send CLIENT KILL, and a node that
        // reconnected between the steps would not be affected.
        steps.add_command(command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]));
    }
    let set_user = command(&["ACL", "SETUSER", user, &rule]);
    steps.add_command(set_user).ignore();
    let killed: Vec<u64> = steps.query_async(&mut admin).await.map_err(refused(fault))?;
    guard.effects = killed.first().copied();
    Ok(())
}

/// Makes a background save fail in a folder that is not writable.
async fn misconfigure(
    fault: Fault,
    server: &RedisServer,
    guard: &mut FaultGuard,
) -> Result<(), FaultError> {
    let save = parameter(fault, server, "save").await?;
    let folder = parameter(fault, server, "dir").await?;
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
    ask(fault, server, &["BGSAVE"]).await?;
    let mut patience = Patience::new("a background save to fail", EFFECT);
    let failed = async || {
        let persistence = info(fault, server, "persistence").await;
        persistence.is_ok_and(|it| it.text("rdb_last_bgsave_status") == Some("err"))
    };
    while !patience.look(failed()).await.map_err(no_effect(fault))? {}
    Ok(())
}

async fn limit_clients(
    fault: Fault,
    server: &RedisServer,
    guard: &mut FaultGuard,
) -> Result<(), FaultError> {
    let before = parameter(fault, server, "maxclients").await?;
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
        steps.add_command(command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]));
        let limited = steps.exec(&mut connection);
        Ok::<_, RedisError>((connection, limited))
    });
    let held =
        held.await.map_err(|error| FaultError::Impossible { fault, why: error.to_string() })?;
    let (held, limited) = held.map_err(refused(fault))?;
    let restore = words(&["CONFIG", "SET", "maxclients", &before]);
    guard.undo = Undo::RedisOn(Box::new(held), vec![restore]);
    limited.map_err(refused(fault))
}

pub(super) async fn dirty(fault: Fault, server: &RedisServer) -> Result<u64, FaultError> {
    let persistence = info(fault, server, "persistence").await?;
    Ok(persistence.number("rdb_changes_since_last_save").unwrap_or_default())
}

/// Returns the changes since `before`. Waits a while for the first.
pub(super) async fn changes(
    fault: Fault,
    server: &RedisServer,
    before: u64,
) -> Result<u64, FaultError> {
    let mut patience = Patience::new("a change", CHANGE);
    let changed = async || dirty(fault, server).await.is_ok_and(|now| now > before);
    while matches!(patience.look(changed()).await, Ok(false)) {}
    Ok(dirty(fault, server).await?.saturating_sub(before))
}

pub(super) async fn undo(
    fault: Fault,
    target: &Target,
    commands: &[Vec<String>],
) -> Result<(), FaultError> {
    let mut failure = None;
    for words in commands {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words.starts_with(&["REPLICAOF"]) {
            loaded(fault, &target.redis).await?;
        }
        // A failed command does not stop the others.
        if let Err(error) = ask(fault, &target.redis, &words).await {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Waits until the server has loaded its data.
async fn loaded(fault: Fault, server: &RedisServer) -> Result<(), FaultError> {
    let mut patience = Patience::new("Redis to have loaded its data", EFFECT);
    let loaded = async || {
        let persistence = info(fault, server, "persistence").await;
        persistence.is_ok_and(|it| it.number("loading") == Some(0))
    };
    while !patience.look(loaded()).await.map_err(no_effect(fault))? {}
    Ok(())
}

/// The server's counts for a report.
pub(super) struct Look {
    pub(super) connections: u64,
    pub(super) counter: Option<u64>,
}

/// Counts clients, and the effects of this fault if Redis counts those.
pub(super) async fn look(
    fault: Fault,
    target: &Target,
    held: Option<&mut ::redis::Connection>,
) -> Option<Look> {
    let all = match held {
        Some(connection) => {
            let text = command(&["INFO", "everything"]).query(connection);
            Info(text.ok()?)
        }
        None => info(fault, &target.redis, "everything").await.ok()?,
    };
    // An error that never occurred has no line.
    let errors = |code: &str| {
        let line = all.text(&format!("errorstat_{code}"));
        let count = line.and_then(|line| line.strip_prefix("count=")?.parse().ok());
        Some(count.unwrap_or_default())
    };
    let counter = match fault {
        Fault::RedisEviction => all.number("evicted_keys"),
        Fault::RedisMaxClients => all.number("rejected_connections"),
        Fault::RedisOom => errors("OOM"),
        Fault::RedisMisconf => errors("MISCONF"),
        // Redis does not count rejected CLIENT commands.
        Fault::RedisAcl(Command::Client) => None,
        Fault::RedisAcl(_) => errors("NOPERM"),
        Fault::RedisDemotion => errors("LOADING")
            .zip(errors("READONLY"))
            .map(|(loading, read_only)| loading + read_only),
        _ => None,
    };
    Some(Look {
        // Excludes the connection of this command.
        connections: all.number("connected_clients")?.saturating_sub(1),
        counter,
    })
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

pub(super) async fn info(
    fault: Fault,
    server: &RedisServer,
    section: &str,
) -> Result<Info, FaultError> {
    let mut admin: MultiplexedConnection = server.connect().await?;
    let text = command(&["INFO", section]).query_async(&mut admin).await;
    Ok(Info(text.map_err(refused(fault))?))
}

pub(super) async fn ask(
    fault: Fault,
    server: &RedisServer,
    words: &[&str],
) -> Result<(), FaultError> {
    let mut admin = server.connect().await?;
    let answer = command(words).exec_async(&mut admin).await;
    answer.map_err(refused(fault))
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

pub(super) fn no_effect(fault: Fault) -> impl FnOnce(WaitTimeoutError) -> FaultError {
    move |source| FaultError::NoEffect { fault, source }
}

pub(super) fn refused(fault: Fault) -> impl FnOnce(RedisError) -> FaultError {
    move |source| FaultError::Redis { fault, source }
}
