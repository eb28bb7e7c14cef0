//! The choices of a configuration: the one that was made, the ones that were rejected, and mistakes.

/// What goes on in Postgres.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Mode {
    /// Valid, then revoked.
    Revoke,
    /// Old data, then new data. "Valid" then reads "answered the old data", "Invalid" "the new data":
    /// this is how R5 is checked.
    Update,
    /// Absent, then valid, then revoked.
    Create,
    /// Valid, then its row is deleted by plain SQL.
    Delete,
}

/// What the incarnation is made of.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Made {
    /// A constant: no incarnation.
    Constant,
    /// `run_id`.
    RunId,
    /// `master_replid`, which stands for both together: in the model a restarted master draws a new one.
    Replid,
}

/// Where the incarnation stands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Place {
    /// In the key, as it was designed first.
    Key,
    /// In the value, as it is built.
    Value,
}

/// When role and incarnation are asked.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Check {
    AtConnect,
    /// At connect, and again from time to time.
    EachSecond,
    /// Together with every command: what it would take.
    EachCommand,
}

/// How a copy gets into Redis.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Fill {
    /// In the place of the lease, by compare-and-set.
    CompareAndSet,
    /// A lease is taken, and the fill is a plain SET.
    PlainSet,
    /// Get, else set.
    NoLease,
    /// A revocation leaves a tombstone, and the fill is SET NX.
    Tombstone,
}

/// On which link a fill goes out once the lease's has died.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum FillLink {
    /// On no other: it is lost.
    Same,
    /// On the present one, with the lease's incarnation.
    OtherSameSeal,
    /// On the present one, with the present incarnation.
    OtherNewSeal,
}

/// How a lease takes the place of a dead value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Replace {
    /// At once, by a command that looks and sets (as it was designed first).
    AtOnce,
    /// By compare-and-set on the value that was found dead.
    CompareAndSet,
    /// By a SET, whatever is there by now.
    Unconditional,
    /// Not at all: Postgres is asked, and the copy takes the dead value's place by a plain SET.
    NoLease,
}

/// When `Propagated` may be answered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Proof {
    /// Once the UNLINK is acknowledged.
    Reply,
    /// The reply also says: a master still, and of the incarnation in the key.
    Verified,
}

/// What comes before an "invalid" for a session that Postgres says has ended.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Cleanup {
    Nothing,
    /// UNLINK; "invalid" also where it is not acknowledged.
    BestEffort,
    /// UNLINK; "unavailable" where it is not acknowledged.
    OrUnavailable,
}

/// What comes before an "invalid" for a session of which Postgres has no row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Gone {
    Nothing,
    /// UNLINK, unless this validate was granted a lease.
    UnlessLeased,
    /// UNLINK always.
    Unlink,
}

/// What a node makes of its own changes that Redis has not acknowledged.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Pending {
    /// Nothing.
    Off,
    /// They are unlinked again, and their copies are believed meanwhile.
    Believed,
    /// A hit is looked up among them when GET's reply is there.
    AtReply,
    /// And before the GET goes out.
    BeforeAndAtReply,
}

/// Until when a node holds back what it changed itself, acknowledged or not.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Hold {
    /// It does not.
    No,
    /// Until a read of the journal ends that began after the COMMIT.
    UntilRead,
    /// Until any read of the journal ends.
    UntilAnyRead,
}

/// When a pending change is forgotten, other than by being acknowledged.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Forget {
    Never,
    /// When every old copy has died of age.
    OfAge,
    /// Before.
    Early,
}

/// Which bound may pass: what starts afterwards is judged by it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Bound {
    None,
    /// D after the COMMIT: a node whose last read of the journal began before that is stale.
    D,
    /// The period of [`Check::EachSecond`] after `Propagated`: a link that was not asked again is not used.
    Recheck,
}
