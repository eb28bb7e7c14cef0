//! The decision whether a node is ready.

use crate::engine::cache_mode::CacheMode;
use crate::sessions::probe::Probed;

/// Returns the reason if no session could be validated. If either the cache or the store responds,
/// some sessions can be validated. To remove the node because of the other's outage would only
/// reduce capacity. `serves_entries` is whether this node's journal lets it serve entries.
pub(super) fn readiness(
    mode: CacheMode,
    serves_entries: bool,
    probed: &Probed,
) -> Result<(), String> {
    let Some(store) = &probed.store_error else {
        return Ok(());
    };
    let cache = match mode {
        CacheMode::Bypass => "the session cache is bypassed".to_owned(),
        CacheMode::On if probed.cache.connected && probed.store_is_known && serves_entries => {
            return Ok(());
        }
        CacheMode::On if probed.cache.connected && probed.store_is_known => {
            "no cached entry is served because the journal has not been read, or not lately \
             under `fail-closed`"
                .to_owned()
        }
        CacheMode::On if probed.cache.connected => {
            "no cached entry is served before the first reply from the store".to_owned()
        }
        CacheMode::On => match probed.cache.errors.first() {
            Some(error) => format!("the session cache is unreachable ({error})"),
            None => "the session cache is unreachable".to_owned(),
        },
    };
    Err(format!(
        "no session could be validated: {cache}, and the session store is unreachable ({store})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheProbe;

    #[test]
    fn ready_while_some_session_could_be_validated() {
        use CacheMode::{Bypass, On};
        for (mode, cache, store, ready) in [
            (On, true, true, true),
            (On, false, true, true),
            (On, true, false, true),
            (On, false, false, false),
            (Bypass, true, true, true),
            (Bypass, false, true, true),
            (Bypass, true, false, false),
            (Bypass, false, false, false),
        ] {
            let probed = Probed {
                cache: CacheProbe {
                    connected: cache,
                    errors: vec!["cache error".to_owned()],
                    ..CacheProbe::default()
                },
                store_error: (!store).then(|| "store error".to_owned()),
                store_is_known: true,
                is_paused: false,
            };
            let result = readiness(mode, true, &probed);
            assert_eq!(
                readiness(mode, false, &probed).is_ok(),
                store,
                "without the journal, only the store can validate"
            );
            assert_eq!(result.is_ok(), ready, "{mode:?} {cache} {store}");
            if let Err(reason) = result {
                let expected = if mode == On { "cache error" } else { "bypassed" };
                assert!(reason.contains(expected) && reason.contains("store error"), "{reason}");
            }
        }
    }

    #[test]
    fn node_without_a_reply_from_its_store_is_not_ready() {
        let probed = Probed {
            cache: CacheProbe { connected: true, ..CacheProbe::default() },
            store_error: Some("store error".to_owned()),
            store_is_known: false,
            is_paused: false,
        };
        let reason = readiness(CacheMode::On, true, &probed).unwrap_err();
        assert!(reason.contains("first reply"), "{reason}");
    }
}
