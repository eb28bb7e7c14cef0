//! Counts of the errors that a fault of Postgres causes, taken on the connections to the nodes.

use super::{Fault, Target};
use crate::proxy::{Peer, Toxic, ToxicGuard};

fn errors_of(fault: Fault) -> &'static [&'static str] {
    match fault {
        Fault::PostgresConnectionLimit => &["53300"],
        Fault::PostgresCancel => &["57014"],
        Fault::PostgresReadOnly => &["25006"],
        // A waiting statement times out, by `lock_timeout` or by `statement_timeout`.
        Fault::PostgresTableLock | Fault::PostgresRowLocks => &["55P03", "57014"],
        // With `row_security=off`, a policy that would hide rows is a denied right.
        Fault::PostgresForcedRls | Fault::PostgresRevokedGrant => &["42501"],
        _ => &[],
    }
}

/// Counts these errors on the connections to the target's nodes, until the guards are dropped.
pub(super) fn count(fault: Fault, target: &Target) -> Vec<ToxicGuard> {
    let errors = errors_of(fault);
    let proxies = target.network.iter().flat_map(|it| it.proxies(Peer::Postgres));
    let each = proxies.flat_map(|proxy| errors.iter().map(move |error| (proxy, error)));
    // Each field of an error ends with a zero byte. The field of the code begins with C.
    each.map(|(proxy, error)| proxy.inject(Toxic::count(format!("\0C{error}\0")))).collect()
}
