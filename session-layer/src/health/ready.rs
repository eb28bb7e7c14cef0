//! Ready, or not, and why.

use crate::probe::Probed;
use crate::sessions::Mode;

/// `Err` with the reason when no session could be validated: while either the cache or the store
/// answers, some can be, and a node taken out of service for the other's outage helps nobody.
/// `believes`: does this node's journal let it serve copies?
pub(super) fn readiness(mode: Mode, believes: bool, probed: &Probed) -> Result<(), String> {
    let Some(store) = &probed.store_error else {
        return Ok(());
    };
    let cache = match mode {
        Mode::Bypass => "the session cache is bypassed".to_owned(),
        Mode::On if probed.cache.connected && probed.store_is_known && believes => return Ok(()),
        Mode::On if probed.cache.connected && probed.store_is_known => {
            "no cached copy is served, for the journal of changes was not read, or under `fail-closed` not lately"
                .to_owned()
        }
        Mode::On if probed.cache.connected => {
            "no cached copy is believed before the store has answered once".to_owned()
        }
        Mode::On => match probed.cache.errors.first() {
            Some(error) => format!("the session cache cannot be asked ({error})"),
            None => "the session cache cannot be asked".to_owned(),
        },
    };
    Err(format!(
        "no session could be validated: {cache}, and the session store cannot answer ({store})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheProbe;

    #[test]
    fn ready_while_some_session_could_be_validated() {
        use Mode::{Bypass, On};
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
            };
            let told = readiness(mode, true, &probed);
            assert_eq!(
                readiness(mode, false, &probed).is_ok(),
                store,
                "without the journal only the store can answer"
            );
            assert_eq!(told.is_ok(), ready, "{mode:?} {cache} {store}");
            if let Err(reason) = told {
                let says = if mode == On {
                    "cache error"
                } else {
                    "bypassed"
                };
                assert!(
                    reason.contains(says) && reason.contains("store error"),
                    "{reason}"
                );
            }
        }
    }

    #[test]
    fn a_node_that_never_heard_of_its_store_is_not_ready() {
        let probed = Probed {
            cache: CacheProbe {
                connected: true,
                ..CacheProbe::default()
            },
            store_error: Some("store error".to_owned()),
            store_is_known: false,
        };
        let reason = readiness(Mode::On, true, &probed).unwrap_err();
        assert!(reason.contains("answered once"), "{reason}");
    }
}
