//! The application's entries: whether this environment's keys open them.

use redis::RedisResult;
use session_layer::cache::RedisConnection;
use session_layer::server_url::ServerUrl;

use super::{Finding, Problem, Target, cache, send};

/// How many SCANs look for entries. In a database of other keys they may find none.
const SCANS: u32 = 20;
/// How many entries are enough.
const ENTRIES: usize = 20;

/// Reads a few of the application's entries. It changes none.
pub(super) async fn entries(
    target: &Target,
    url: &ServerUrl,
    connection: &mut RedisConnection,
) -> Result<Finding, Problem> {
    let cache = cache(target, url)?;
    let pattern = format!("{}:*", target.namespace);
    let (mut cursor, mut seen, mut unopened) = ("0".to_owned(), 0, Vec::new());
    for _ in 0..SCANS {
        let words = ["SCAN", &cursor, "MATCH", &pattern, "COUNT", "500"];
        let found: RedisResult<(String, Vec<Vec<u8>>)> = send(connection, &words).await;
        let Ok((next, keys)) = found else {
            return Ok(Finding::skipped("SCAN is denied: the application's entries were not read"));
        };
        for key in keys.iter().take(ENTRIES.saturating_sub(seen)) {
            // A key of another kind is no entry.
            let value: RedisResult<Option<Vec<u8>>> =
                redis::cmd("GET").arg(key).query_async(connection).await;
            let Ok(Some(value)) = value else { continue };
            seen += 1;
            unopened.extend(cache.why_unopened(key, &value));
        }
        cursor = next;
        if cursor == "0" || seen >= ENTRIES {
            break;
        }
    }
    let Some(why) = unopened.first() else {
        return Ok(match seen {
            0 => Finding::skipped("The application has no entries in Redis"),
            _ => Finding::ok(format!("{seen} of the application's entries were read and open")),
        });
    };
    Ok(Finding::failed(
        &format!("{} of {seen} of the application's entries do not open", unopened.len()),
        format!("they are {why}"),
        "give every node, and this environment, the same keys (SESSION_CACHE_KEY). While nodes \
         have different keys, each replaces the entries of the others, and hits are few",
    ))
}
