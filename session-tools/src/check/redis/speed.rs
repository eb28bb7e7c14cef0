//! How long a look-up takes, compared with what the application counts as slow.

use std::time::Duration;

use redis::RedisResult;
use session_layer::cache::RedisConnection;
use session_layer::defaults::{DEFAULT_SLOW_LOOKUP_THRESHOLD, DEFAULT_VALIDATION_TIMEOUT};
use tokio::time::Instant;

use super::{Finding, Problem, Target, millis, send, unusable_settings};

/// How long look-ups are timed, until one is fast. The network takes the same time for all.
const PATIENCE: Duration = Duration::from_secs(1);

/// Times look-ups of this key, and returns the finding on the fastest.
pub(super) async fn speed(
    target: &Target,
    key: &str,
    connection: &mut RedisConnection,
) -> Result<Finding, Problem> {
    let handle = target.handle().map_err(|error| unusable_settings(&error))?;
    let slow = handle.map_or(DEFAULT_SLOW_LOOKUP_THRESHOLD, |it| it.slow_lookup_threshold);
    let budget = handle.map_or(DEFAULT_VALIDATION_TIMEOUT, |it| it.validation_timeout);
    // A validation spends no more on the cache.
    let slow = slow.min(budget / 2);
    let end = Instant::now() + PATIENCE;
    let mut fastest = Duration::MAX;
    while fastest > slow && Instant::now() < end {
        let begun = Instant::now();
        // A refusal takes as long, and another step reports it.
        let _found: RedisResult<Option<String>> = send(connection, &["GET", key]).await;
        fastest = fastest.min(begun.elapsed());
    }
    Ok(found_speed(fastest, slow))
}

fn found_speed(fastest: Duration, slow: Duration) -> Finding {
    let took = format!("{} ms", millis(fastest, 10.0));
    let limit = slow.as_millis();
    if fastest <= slow {
        return Finding::ok(format!("A look-up takes {took} (slow: over {limit} ms)"));
    }
    Finding::failed(
        "Redis is too slow to be used",
        format!(
            "a look-up takes {took}, and over {limit} ms is too slow (SESSION_CACHE_SLOW_MS, and at \
             most half of SESSION_VALIDATION_TIMEOUT_MS). Postgres serves most requests"
        ),
        "use a Redis in the application's region, or raise SESSION_CACHE_SLOW_MS, \
         SESSION_CACHE_DEADLINE_MS and SESSION_VALIDATION_TIMEOUT_MS",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    #[test]
    fn slow_lookup_names_both_durations_and_the_settings() {
        let ms = Duration::from_millis;
        let fast = found_speed(ms(20), ms(20));
        assert_eq!(fast.message, "A look-up takes 20 ms (slow: over 20 ms)");
        let slow = found_speed(ms(31), ms(20));
        assert_eq!(slow.status, Status::Failed);
        let (why, help) = (slow.why.unwrap(), slow.help.unwrap());
        assert!(why.contains("takes 31 ms") && why.contains("over 20 ms"), "{why}");
        assert!(help.contains("SESSION_CACHE_DEADLINE_MS"), "{help}");
    }
}
