//! By which errors a fault of Postgres is felt, counted where the nodes are told.

use super::{Fault, Target};
use crate::proxy::{Peer, Toxic, ToxicGuard};

/// The SQLSTATEs by which a client feels it.
fn errors_of(fault: Fault) -> &'static [&'static str] {
    match fault {
        Fault::PostgresConnectionLimit => &["53300"],
        Fault::PostgresCancel => &["57014"],
        Fault::PostgresReadOnly => &["25006"],
        // Who waits gives up, by `lock_timeout` or by `statement_timeout`.
        Fault::PostgresTableLock | Fault::PostgresRowLocks => &["55P03", "57014"],
        // With `row_security=off`, rows that would be hidden are a denied right.
        Fault::PostgresForcedRls | Fault::PostgresRevokedGrant => &["42501"],
        _ => &[],
    }
}

/// Counts them on the lines to the target's nodes, until dropped.
pub(super) fn counting(fault: Fault, target: &Target) -> Vec<ToxicGuard> {
    let errors = errors_of(fault);
    let proxies = target
        .network
        .iter()
        .flat_map(|it| it.proxies(Peer::Postgres));
    let each = proxies.flat_map(|proxy| errors.iter().map(move |error| (proxy, error)));
    // An error's fields end with a zero each, and the code's begins with C.
    each.map(|(proxy, error)| proxy.inject(Toxic::count(format!("\0C{error}\0"))))
        .collect()
}
