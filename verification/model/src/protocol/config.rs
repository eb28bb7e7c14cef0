//! A configuration: what happens to the session, which rules are dropped, which faults may occur.

/// Without limit, for the number of evictions.
pub(crate) const ANY: u8 = u8::MAX;

/// The life of the session.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Mode {
    /// It is valid, then revoked.
    Revoke,
    /// It has old data, then new data. A trace then means the old data by VALID, and the new data
    /// by INVALID. This checks R5.
    Update,
    /// It is created, then revoked.
    Create,
    /// Its row is deleted by direct SQL.
    Delete,
}

/// The bound that may pass. Validations that start later are judged by it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Bound {
    None,
    /// D after the COMMIT.
    D,
    /// A second after `Propagated`: every node has checked its link again.
    Recheck,
}

/// Which nodes have a near cache.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Near {
    None,
    Each,
    First,
    /// All validations are of one node, and share its memory. Each has a link of its own. The first
    /// revoker also runs there, if the run says so, and no other node is registered.
    Shared,
}

/// A rule that a mutant drops. Its run in `runs.rs` describes it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Mistake {
    NoLease,
    PlainSet,
    Tombstone,
    ReusedNonce,
    ReadBeforeLease,
    JoinedRead,
    FillOnPresentLink,
    NegativeCaching,
    ReplaceWithoutLease,
    ReplaceUnconditionally,
    UnlinkBeforeCommit,
    NoUnlinkIfRevoked,
    NoIncarnation,
    RunIdAlone,
    CheckAtConnectOnly,
    SilentReconnect,
    KeepsRevoked,
    KeepsGone,
    KeepsGoneIfLeased,
    PendingServed,
    PendingAtReplyOnly,
    ForgottenEarly,
    OwnChangeServed,
    HeldUntilAnyRead,
    TrustAtStart,
    AgeFromEnd,
    SetBeforeAge,
    TimeWindow,
    ServesOnWaking,
    NearWithoutSet,
    NearWithoutAge,
    NearWithoutPending,
    NoTicket,
    TicketAfterGet,
    KeepsNear,
    DropsNearBeforeUnlink,
    KeepsOwnNear,
    DropsOwnNearBeforeUnlink,
    SharedRegistration,
}

/// Declares the fields of a configuration, with their values in the protocol as it is built, on one
/// server and without faults.
macro_rules! config {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $value:expr,)*) => {
        /// One configuration.
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct Config { $($(#[$doc])* pub(crate) $field: $type,)* }

        pub(crate) const BUILT: Config = Config { $($field: $value,)* };
    };
}
config! {
    mode: Mode = Mode::Revoke,
    mistakes: &'static [Mistake] = &[],
    /// One Redis server, or a master and its replica.
    servers: u8 = 1,
    /// One or two clients that make the change.
    revokers: usize = 1,
    /// The first revoker runs on the first node.
    own_change: bool = false,
    /// That node rejects older entries until it has read the journal.
    holds_own: bool = false,
    near: Near = Near::None,
    /// TTL + 2 s may pass, after which a pending invalidation is dropped.
    ages: bool = false,
    /// Redis executes a GET, and its reply arrives later.
    late_replies: bool = false,
    /// Nodes read the journal.
    journal: bool = false,
    fail_closed: bool = true,
    bound: Bound = Bound::None,
    /// R8 is judged in states in which all faults have healed.
    settles: bool = false,
    /// R2 is judged.
    monotone: bool = false,
    /// R2 is judged also if Redis has not acknowledged the UNLINK.
    unacknowledged: bool = false,
    /// How many values expire or are evicted.
    evict: u8 = 0,
    fence_loss: bool = false,
    unlink_loss: bool = false,
    link_loss: bool = false,
    crash: u8 = 0,
    /// How many dumps are saved. A crashed server may restart from one.
    save: u8 = 0,
    promote: u8 = 0,
    /// No promotion follows a `Propagated`.
    early_failovers: bool = false,
    /// After a promotion, the old master continues as a master.
    split: bool = false,
    /// Promotions and demotions cut connections, as Sentinel does.
    cuts_links: bool = false,
    /// The replica never lags.
    in_step: bool = false,
    /// How often Redis frees its backlog, which changes its replid.
    backlog: u8 = 0,
    node_restart: u8 = 0,
    /// Nodes pause their journal at any moment. The next validation wakes them.
    pauses: bool = false,
    /// Redis may return any entry that was ever sealed for this key.
    hostile: bool = false,
    /// One node may reject an entry that another serves, because of its clock or its keys.
    rejects: bool = false,
    /// The first revoker uses direct SQL, without a fence and an UNLINK.
    direct_sql: bool = false,
}
