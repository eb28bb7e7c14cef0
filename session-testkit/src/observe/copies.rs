//! R8: Redis' entries beside Postgres' rows.

use std::collections::HashMap;

use redis::cmd;
use session_layer::TokenDigest;
use sqlx::AssertSqlSafe;

use super::{ObserveError, keys};
use crate::{
    backends::{PostgresServer, RedisServer},
    history::{Nanos, Scan},
    workload::GivenOut,
};

/// Compares every copy of a session that is in Redis with what Postgres says of that token.
///
/// A copy is a value that begins with `V`, under a key that ends with the token's digest; leases and fences
/// say nothing about a session. Postgres says no where no row that is alive has the digest, be it revoked, of
/// an earlier epoch, rotated away or gone. Copies of tokens that are not among those given out are counted as
/// entries, but have no session that could be named.
///
/// # Errors
/// [`ObserveError`] if either can't be read.
pub async fn scan(
    redis: &RedisServer,
    namespace: &str,
    postgres: &PostgresServer,
    schema: &str,
    given_out: &[GivenOut],
    at: Nanos,
) -> Result<Scan, ObserveError> {
    let digests = given_out.iter().map(|given| {
        let digest = TokenDigest::of(given.token.reveal());
        (digest.to_base64url(), (digest, given.session))
    });
    let known: HashMap<String, (TokenDigest, u32)> = digests.collect();
    let mut redis = redis.connect().await?;
    let mut entries = 0;
    let mut copies: Vec<(TokenDigest, u32)> = Vec::new();
    for key in keys::all(&mut redis, namespace).await? {
        // Of another type, or gone meanwhile: no copy.
        let value: Result<Option<Vec<u8>>, _> = cmd("GET").arg(&key).query_async(&mut redis).await;
        let Ok(Some(value)) = value else { continue };
        if value.first() != Some(&b'V') {
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
    let digests: Vec<&[u8]> = copies
        .iter()
        .map(|(digest, _)| digest.as_bytes().as_slice())
        .collect();
    let mut postgres = postgres.connect().await?;
    let dead: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(dead))
        .bind(digests)
        .fetch_all(&mut postgres)
        .await?;
    let stale = dead.into_iter().filter_map(|number| {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        copies.get(at).map(|(_, session)| *session)
    });
    Ok(Scan {
        at,
        entries,
        stale: stale.collect(),
    })
}
