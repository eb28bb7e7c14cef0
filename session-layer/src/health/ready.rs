//! Ready, or not, and why.

use crate::probe::Probed;
use crate::sessions::Mode;

/// `Err` with the reason when no session could be validated: while either the cache or the store
/// answers, some can be, and a node taken out of service for the other's outage helps nobody.
pub(super) fn readiness(mode: Mode, probed: &Probed) -> Result<(), String> {
    let Some(store) = &probed.store_error else {
        return Ok(());
    };
    let cache = match mode {
        Mode::Bypass => "the session cache is bypassed".to_owned(),
        Mode::On if probed.cache.connected => return Ok(()),
        Mode::On => match probed.cache.errors.first() {
            Some(error) => format!("the session cache cannot be asked ({error})"),
            None => "the session cache cannot be asked".to_owned(),
        },
    };
    Err(format!(
        "no session could be validated: {cache}, and the session store cannot answer ({store})"
    ))
}
