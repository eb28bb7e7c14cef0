//! The role of a Redis: a master with or without replicas, or another role.

use redis::FromRedisValue as _;

use super::Finding;

/// The replicas of a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replicas {
    Connected(u64),
    /// There is no replica, but there was one within the last hour.
    Left,
}

/// Parses the reply to ROLE, whose third part lists a master's replicas.
pub(super) fn parse_role(parts: Vec<redis::Value>) -> (String, Replicas) {
    let mut parts = parts.into_iter();
    let role = parts.next().map(String::from_redis_value);
    let replicas = match parts.nth(1) {
        Some(redis::Value::Array(replicas)) => replicas.len() as u64,
        _ => 0,
    };
    let role = role.and_then(Result::ok).unwrap_or_default();
    (role, Replicas::Connected(replicas))
}

pub(super) fn found_role(role: &str, replicas: Replicas) -> Finding {
    let committed = "revocations return `committed`, not `propagated`: set \
                     SESSION_CACHE_REPLICATED=true";
    match (role, replicas) {
        ("master", Replicas::Connected(0)) => Finding::ok("Role: master, no replicas"),
        ("master", Replicas::Connected(number)) => Finding::warning(
            &format!("Role: master with {number} replicas"),
            "a failover may lose writes that a replica has not received yet",
            committed,
        ),
        ("master", Replicas::Left) => Finding::warning(
            "Role: master, whose last replica left within an hour",
            "it may return as the master, with entries that were removed here",
            committed,
        ),
        ("slave" | "replica", _) => Finding::failed(
            "Role: replica",
            "this server rejects writes, because it is not the master",
            "point REDIS_URL at the master (or at the address that follows it in a failover)",
        ),
        ("", _) => Finding::warning(
            "Role unknown",
            "neither INFO nor ROLE is allowed",
            "a demoted server would remain in use. To change that: ACL SETUSER <user> +info \
             +role",
        ),
        (other, _) => Finding::failed(
            &format!("Role: {other}"),
            "this server stores no keys",
            "point REDIS_URL at the master itself, not at a sentinel",
        ),
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn role_reply_contains_replicas_of_a_master() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let replica = || Value::Array(vec![text("10.0.0.2"), text("6379"), text("7")]);
        let parsed =
            |replicas| parse_role(vec![text("master"), Value::Int(7), Value::Array(replicas)]);
        assert_eq!(parsed(vec![]), ("master".to_owned(), Replicas::Connected(0)));
        let (role, replicas) = parsed(vec![replica(), replica()]);
        assert_eq!((role.as_str(), replicas), ("master", Replicas::Connected(2)));
        let slave = ["slave", "10.0.0.1", "6379", "connected"].map(text);
        let (role, _) = parse_role(slave.into());
        assert_eq!(role, "slave");
    }
}
