//! R8: a comparison of Redis' entries with Postgres' rows.

use std::collections::HashMap;

use session_layer::TokenDigest;
use sqlx::AssertSqlSafe;

use super::{ObserveError, keys};
use crate::{
    backends::{PostgresServer, RedisServer},
    history::{Nanos, Scan},
    workload::IssuedToken,
};

/// Compares every entry of a session in Redis with Postgres.
///
/// An entry is a value that begins with `V` under a key that ends with the token's digest. Leases
/// and fences contain no session. An entry is stale if no active row has the digest. The row may be
/// revoked, of an earlier epoch, rotated away or deleted. Entries of tokens that were not issued
/// are counted, but belong to no session.
///
/// # Errors
/// [`ObserveError`] if a server cannot be read.
pub async fn scan(
    redis: &RedisServer,
    namespace: &str,
    postgres: &PostgresServer,
    schema: &str,
    issued: &[IssuedToken],
    at: Nanos,
) -> Result<Scan, ObserveError> {
    let digests = issued.iter().map(|given| {
        let digest = TokenDigest::of(given.token.reveal());
        (digest.to_base64url(), (digest, given.session))
    });
    let known: HashMap<String, (TokenDigest, u32)> = digests.collect();
    let mut redis = redis.connect().await?;
    let mut entries = 0;
    let mut copies: Vec<(TokenDigest, u32)> = Vec::new();
    for (key, value) in keys::entries(&mut redis, namespace).await? {
        if value.is_none_or(|value| value.first() != Some(&b'V')) {
            continue;
        }
        entries += 1;
        let key = String::from_utf8_lossy(&key);
        let digest = key.rsplit(':').next().unwrap_or_default();
        copies.extend(known.get(digest));
    }
    let dead = format!(
        "SELECT d.n FROM unnest($1::bytea[]) WITH ORDINALITY d(digest, n) WHERE NOT EXISTS (\
           SELECT FROM {schema}.sessions s LEFT JOIN {schema}.session_users u USING (user_id) \
           WHERE (s.token_digest = d.digest \
                  OR (s.previous_digest = d.digest AND s.previous_until > now())) \
             AND s.revoked_at IS NULL AND s.user_epoch >= coalesce(u.epoch, 0))"
    );
    let digests: Vec<&[u8]> =
        copies.iter().map(|(digest, _)| digest.as_bytes().as_slice()).collect();
    let mut postgres = postgres.connect().await?;
    let dead: Vec<i64> =
        sqlx::query_scalar(AssertSqlSafe(dead)).bind(digests).fetch_all(&mut postgres).await?;
    let stale = dead.into_iter().filter_map(|number| {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        copies.get(at).map(|(_, session)| *session)
    });
    Ok(Scan { at, entries, stale: stale.collect() })
}
