//! Settings that are not allowed: the builder's end names them.

use std::time::Duration;

use session_layer::limits::MAX_LIFETIME;
use session_layer::{ConfigError, Sessions, SessionsBuilder};

use crate::ports::{Cache, Store};

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

type Builder = SessionsBuilder<Cache, Store>;

fn builder() -> Builder {
    Sessions::builder(Cache::default(), Store::new())
}

#[tokio::test]
async fn bad_setting_is_named_with_its_value_and_range() {
    type Set = fn(Builder, Duration) -> Builder;
    for (name, set, refused, allowed, may_be) in [
        (
            "ttl",
            (|builder, ttl| builder.ttl(ttl)) as Set,
            vec![Duration::ZERO, 999 * MS, DAY + MS, Duration::MAX],
            [1_000 * MS, DAY],
            "1 s to 24 hours",
        ),
        (
            "validation_timeout",
            |builder, budget| builder.validation_timeout(budget),
            vec![Duration::ZERO, MS / 2, DAY + MS, Duration::MAX],
            [MS, DAY],
            "1 ms to 24 hours",
        ),
        (
            "change_wait",
            |builder, wait| builder.change_wait(wait),
            vec![DAY + MS, Duration::MAX],
            [Duration::ZERO, DAY],
            "0 to 24 hours",
        ),
        (
            "journal_interval",
            |builder, interval| builder.journal_interval(interval),
            vec![Duration::ZERO, 9 * MS, DAY + MS, Duration::MAX],
            [10 * MS, DAY],
            "10 ms to 24 hours",
        ),
        (
            "slow_lookup_threshold",
            |builder, slow| builder.slow_lookup_threshold(slow),
            vec![Duration::ZERO],
            [Duration::from_nanos(1), Duration::MAX],
            "more than 0",
        ),
        (
            "pause_without_traffic",
            |builder, after| builder.pause_without_traffic(after),
            vec![MS, 999 * MS, DAY + MS, Duration::MAX],
            [Duration::ZERO, DAY],
            "0, or 1 s to 24 hours",
        ),
        (
            "retention",
            |builder, retention| builder.retention(Some(retention)),
            vec![MAX_LIFETIME + MS, Duration::MAX],
            [Duration::ZERO, MAX_LIFETIME],
            "None, or 0 to 50 years",
        ),
    ] {
        for span in refused {
            let refused = set(builder(), span).build().unwrap_err().to_string();
            let expected = format!("SessionsBuilder::{name} is `{span:?}`: it may be {may_be}");
            assert_eq!(refused, expected);
        }
        for span in allowed {
            assert!(set(builder(), span).build().is_ok(), "{name} {span:?}");
        }
    }
    for reads in [0, 1_001, usize::MAX] {
        let refused = builder().max_concurrent_reads(reads).build().unwrap_err().to_string();
        let name = "SessionsBuilder::max_concurrent_reads";
        assert_eq!(refused, format!("{name} is `{reads}`: it may be 1 to 1000"));
    }
    for reads in [1, 1_000] {
        assert!(builder().max_concurrent_reads(reads).build().is_ok());
    }
    assert!(builder().retention(None).build().is_ok());
}

#[test]
fn sessions_need_a_runtime() {
    assert!(matches!(builder().build(), Err(ConfigError::NoRuntime)));
}
