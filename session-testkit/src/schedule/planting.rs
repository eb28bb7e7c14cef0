//! Values that another client plants under the product's keys.

use std::pin::Pin;

use redis::{aio::MultiplexedConnection, cmd};

use super::Planted;
use crate::{backends::RedisServer, observe::keys, workload::Failure};

/// The maximum time that a planted value stays, so that it does not outlive the fault for long.
const STAYS_MS: u64 = 5_000;
/// Four times the maximum size of a session's data.
const OVERSIZED: usize = 256 * 1024;

/// Plants one value under a key in use. Returns how many were planted.
pub(super) fn plant(
    planted: Planted,
    redis: RedisServer,
    namespace: String,
    draw: u64,
) -> Pin<Box<dyn Future<Output = Result<u64, Failure>> + Send>> {
    Box::pin(async move {
        let mut redis = redis.connect().await?;
        let keys = keys::some(&mut redis, &namespace, draw).await?;
        let Some(key) = keys.first() else {
            return Ok(0);
        };
        match planted {
            Planted::Garbage => set(&mut redis, key, b"Vgarbage").await?,
            Planted::Oversized => set(&mut redis, key, &vec![b'V'; OVERSIZED]).await?,
            Planted::Swapped => {
                let Some((_, other)) = entry(&mut redis, &keys[1..]).await? else {
                    return Ok(0);
                };
                set(&mut redis, key, &other).await?;
            }
            Planted::Flipped => {
                let Some((key, mut own)) = entry(&mut redis, &keys).await? else {
                    return Ok(0);
                };
                // Spares the first byte, which marks an entry.
                let bits = (own.len() as u64 - 1) * 8;
                let bit = 8 + draw % bits.max(1);
                if let Some(byte) = own.get_mut(usize::try_from(bit / 8)?) {
                    *byte ^= 1 << (bit % 8);
                }
                set(&mut redis, key, &own).await?;
            }
            Planted::WrongType => {
                let mut pipe = redis::pipe();
                pipe.atomic();
                pipe.cmd("DEL").arg(key).cmd("LPUSH").arg(key).arg("x");
                pipe.cmd("PEXPIRE").arg(key).arg(STAYS_MS);
                pipe.exec_async(&mut redis).await?;
            }
        }
        Ok(1)
    })
}

/// Returns the first key whose value is a session's entry, neither a lease nor a fence.
async fn entry<'a>(
    redis: &mut MultiplexedConnection,
    keys: &'a [Vec<u8>],
) -> redis::RedisResult<Option<(&'a Vec<u8>, Vec<u8>)>> {
    for key in keys {
        let value: Option<Vec<u8>> = cmd("GET").arg(key).query_async(redis).await?;
        if let Some(value) = value.filter(|value| value.first() == Some(&b'V')) {
            return Ok(Some((key, value)));
        }
    }
    Ok(None)
}

async fn set(
    redis: &mut MultiplexedConnection,
    key: &[u8],
    value: &[u8],
) -> redis::RedisResult<()> {
    let mut set = cmd("SET");
    set.arg(key).arg(value).arg("PX").arg(STAYS_MS);
    set.exec_async(redis).await
}
