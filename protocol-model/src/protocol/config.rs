//! A configuration: which protocol, with which mistake, under which faults.

use super::choices::*;

/// One configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) mode: Mode,
    /// One, or a master and its replica.
    pub(crate) servers: u8,
    /// One or two.
    pub(crate) revokers: usize,
    pub(crate) made: Made,
    pub(crate) place: Place,
    pub(crate) check: Check,
    pub(crate) proof: Proof,
    pub(crate) fill: Fill,
    pub(crate) fill_link: FillLink,
    pub(crate) replace: Replace,
    pub(crate) cleanup: Cleanup,
    pub(crate) gone: Gone,
    pub(crate) pending: Pending,
    pub(crate) forget: Forget,
    pub(crate) hold: Hold,
    /// A copy in the changed-set is dead: a lease may take its place.
    pub(crate) changed_is_dead: bool,
    /// GET and its reply are two steps.
    pub(crate) late_replies: bool,
    /// The first revoker runs on the first node, which is to see its own change.
    pub(crate) own_change: bool,
    /// Nodes read the journal.
    pub(crate) journal: bool,
    /// In [`Mode::Update`]: the changed-set knows the least version still believed (else: believe none).
    pub(crate) least_version: bool,
    pub(crate) fail_closed: bool,
    pub(crate) bound: Bound,
    /// The journal's UNLINKs are sent again after every connect and change of incarnation.
    pub(crate) replay: bool,
    /// Look for quiet states (R8).
    pub(crate) quiet: bool,
    /// Remember that "invalid" was answered (R2).
    pub(crate) monotone: bool,
    /// Take states that differ by the names of the nodes for one.
    pub(crate) symmetry: bool,
    pub(crate) mistakes: Mistakes,
    pub(crate) faults: Faults,
}

/// What a mutant does wrong.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Mistakes {
    /// Any lease is taken for one's own.
    pub(crate) reuse_nonce: bool,
    pub(crate) read_before_lease: bool,
    pub(crate) join_in_flight: bool,
    pub(crate) unlink_before_only: bool,
    pub(crate) no_unlink_if_already: bool,
    /// "No such session" is cached.
    pub(crate) negative: bool,
    /// The client library reconnects by itself.
    pub(crate) silent_reconnect: bool,
    /// Hits are believed before the journal was loaded.
    pub(crate) trust_at_start: bool,
    /// The journal's age is counted from the end of the read.
    pub(crate) age_from_end: bool,
    /// The changed-set is looked at when the validate starts, the journal's age at the hit.
    pub(crate) set_before_age: bool,
    /// The journal is read by a time window, and a row that commits late lies before it.
    pub(crate) time_window: bool,
}

/// What the world may do. Numbers are how often; 255 is without end.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Faults {
    /// Expiry, eviction, FLUSHALL.
    pub(crate) evict: u8,
    pub(crate) fence_loss: bool,
    pub(crate) unlink_loss: bool,
    pub(crate) crash: u8,
    /// A dump is saved, from which a crashed server may restart.
    pub(crate) save: u8,
    pub(crate) promote: u8,
    /// After a promotion the old master lives on (else it is demoted in the same step).
    pub(crate) split: bool,
    pub(crate) link_loss: bool,
    /// A replica may lag, and a failover so lose what was written.
    pub(crate) lag: bool,
    /// The replid changes by itself (Redis frees an unused backlog).
    pub(crate) rekey: u8,
    pub(crate) node_restart: u8,
    /// Redis may return any entry that was ever sealed for this key.
    pub(crate) hostile: bool,
    /// A value may look dead to one node and not to another: expired by a clock, garbage, another store's.
    pub(crate) looks_dead: bool,
    /// Demotion and promotion cut connections, as Sentinel does.
    pub(crate) cut_on_failover: bool,
    /// The first revoker is a person with psql: no fence, no UNLINK.
    pub(crate) plain_sql: bool,
}

impl Config {
    /// The protocol as it was designed first, on one server, without faults.
    pub(crate) fn first_design() -> Self {
        Self {
            mode: Mode::Revoke,
            servers: 1,
            revokers: 1,
            made: Made::RunId,
            place: Place::Key,
            check: Check::AtConnect,
            proof: Proof::Reply,
            fill: Fill::CompareAndSet,
            fill_link: FillLink::Same,
            replace: Replace::AtOnce,
            cleanup: Cleanup::Nothing,
            gone: Gone::Nothing,
            pending: Pending::Off,
            forget: Forget::Never,
            hold: Hold::No,
            changed_is_dead: false,
            late_replies: false,
            own_change: false,
            journal: false,
            least_version: true,
            fail_closed: true,
            bound: Bound::None,
            replay: true,
            quiet: false,
            monotone: false,
            symmetry: false,
            mistakes: Mistakes::default(),
            faults: Faults {
                lag: true,
                ..Faults::default()
            },
        }
    }

    /// The protocol as it is built, on one server, without faults: what session-layer does.
    pub(crate) fn as_built() -> Self {
        Self {
            made: Made::Replid,
            place: Place::Value,
            check: Check::EachSecond,
            replace: Replace::CompareAndSet,
            cleanup: Cleanup::BestEffort,
            gone: Gone::UnlessLeased,
            pending: Pending::AtReply,
            changed_is_dead: true,
            ..Self::first_design()
        }
    }
}
