//! Every run, and its expected result.
//!
//! The runs of the core are here, those of a small model beside it (`submodels`). Each starts from
//! the protocol as it is built ([`BUILT`]).

#[allow(clippy::enum_glob_use, reason = "each run names its mistake")]
use crate::protocol::Mistake::*;
use crate::protocol::*;
use crate::run::Run;
use crate::submodels;

/// Returns all runs.
#[must_use]
pub fn all() -> Vec<Run> {
    let core =
        [one_server(), mutants(), bounds(), failovers(), removals(), rejected(), own(), near()];
    let core = core.into_iter().chain([pauses()]);
    core.chain(submodels::runs()).flatten().collect()
}

/// Every fault of one server, without help from the journal.
const ONE: Config =
    Config { evict: ANY, fence_loss: true, unlink_loss: true, crash: 1, save: 1, ..BUILT };
/// One server that acknowledges every UNLINK. R2 is judged.
const MONOTONE: Config = Config { unlink_loss: false, monotone: true, ..ONE };
/// Nodes read the journal, and D passes.
const BOUND: Config = Config { journal: true, bound: Bound::D, ..BUILT };
/// Only the journal reports the change.
const UNREPORTED: Config = Config { fence_loss: true, unlink_loss: true, ..BOUND };
/// Two servers. Messages are lost only by failovers and with their links.
const TWO: Config = Config { servers: 2, promote: 2, ..BUILT };
/// Two servers under Sentinel, and lost messages.
const SENTINEL: Config = Config {
    cuts_links: true,
    evict: 1,
    fence_loss: true,
    unlink_loss: true,
    link_loss: true,
    ..TWO
};
/// A row is deleted by direct SQL.
const DELETED: Config = Config { mode: Mode::Delete, direct_sql: true, monotone: true, ..BUILT };
/// The first revoker runs on N1, and UNLINKs are lost.
const OWN_CHANGE: Config =
    Config { own_change: true, late_replies: true, unlink_loss: true, evict: 1, ..BUILT };
/// The same. The journal of N1 may be stale, and Redis returns what it likes.
const OWN_HOSTILE: Config = Config {
    own_change: true,
    holds_own: true,
    journal: true,
    fail_closed: false,
    hostile: true,
    ..BUILT
};

fn run(name: &'static str, about: &'static str, config: Config) -> Run {
    Run::new(name, about, (PROMISES, MARKS), Protocol::<2>(config))
}

/// A run with a third validating node.
fn three(name: &'static str, about: &'static str, config: Config) -> Run {
    Run::new(name, about, (PROMISES, MARKS), Protocol::<3>(config))
}

/// Returns a run without a rule.
fn mutant(
    name: &'static str,
    about: &'static str,
    mistakes: &'static [Mistake],
    config: Config,
) -> Run {
    run(name, about, Config { mistakes, ..config })
}

/// K: the protocol on one server.
fn one_server() -> Vec<Run> {
    vec![
        run("K0", "no faults", Config { monotone: true, ..BUILT })
            .holds(R1 | R2 | R3)
            .reaches(HIT | PROPAGATED | INVALID),
        three("K0t", "no faults, three nodes", Config { monotone: true, ..BUILT })
            .holds(R1 | R2 | R3)
            .reaches(HIT | PROPAGATED | INVALID),
        run("K1", "all faults of one server", Config { late_replies: true, ..ONE })
            .holds(R1 | R3)
            .reaches(HIT_AFTER | PROPAGATED | COMMITTED | INVALID | REPLACED),
        run("K1b", "the same, two crashes and two dumps", Config { crash: 2, save: 2, ..ONE })
            .holds(R1 | R3)
            .reaches(HIT_AFTER)
            .slow(),
        run("K1c", "from every state before the change, a hit is possible without faults", ONE)
            .holds(R1 | R3)
            .reaches(HIT_AFTER)
            .heals(HIT),
        three("K1t", "all faults of one server, three nodes", ONE)
            .holds(R1 | R3)
            .reaches(HIT_AFTER)
            .slow(),
        run("K2", "one server that acknowledges every UNLINK: any eviction, crash, dump", MONOTONE)
            .holds(R1 | R2 | R3)
            .reaches(HIT_AFTER | INVALID),
        run(
            "K2c",
            "limit: R2 at once also if the UNLINK is not acknowledged",
            Config { monotone: true, unacknowledged: true, ..ONE },
        )
        .breaks(R2),
        run(
            "K3",
            "D after the COMMIT, fail-closed: UNLINK lost, a node restarts, late replies",
            Config { late_replies: true, unlink_loss: true, node_restart: 1, ..BOUND },
        )
        .holds(RD)
        .reaches(LATE | COMMITTED)
        .slow(),
        run(
            "K4",
            "absent, then valid, then revoked: as K2",
            Config { mode: Mode::Create, ..MONOTONE },
        )
        .holds(R1 | R2 | R3)
        .reaches(HIT_AFTER | INVALID)
        .slow(),
        run("K5", "R5: an update, all faults of one server", Config { mode: Mode::Update, ..ONE })
            .holds(R1)
            .reaches(NEW_HIT | COMMITTED),
        run("K6", "two revokers at once, all faults of one server", Config { revokers: 2, ..ONE })
            .holds(R1 | R3)
            .reaches(PROPAGATED)
            .slow(),
    ]
}

/// The rules, each dropped on its own.
fn mutants() -> Vec<Run> {
    const EVICT: Config = Config { evict: ANY, ..BUILT };
    const DUMP: Config = Config { crash: 1, save: 1, ..BUILT };
    const UPDATE: Config = Config { mode: Mode::Update, evict: ANY, ..BUILT };
    const CREATE: Config = Config { mode: Mode::Create, ..BUILT };
    const SQL: Config = Config { direct_sql: true, monotone: true, ..BUILT };
    const TWICE: Config = Config { fence_loss: true, revokers: 2, ..BUILT };
    const RESTART: Config = Config { node_restart: 1, ..UNREPORTED };
    const AVAILABLE: Config = Config { fail_closed: false, ..UNREPORTED };
    vec![
        mutant("mutant 1", "get, else set: no lease", &[NoLease], BUILT).breaks(R1),
        mutant("mutant 2", "SET NX and a tombstone, which is lost", &[Tombstone], EVICT).breaks(R1),
        mutant("mutant 3", "UNLINK only before the COMMIT", &[UnlinkBeforeCommit], BUILT)
            .breaks(R1),
        mutant("mutant 4", "joins a read in flight", &[JoinedRead], BUILT).breaks(R1),
        mutant("mutant 5", "no incarnation, old dump", &[NoIncarnation], DUMP).breaks(R1),
        mutant("mutant 6", "a lease, but the fill is a plain SET", &[PlainSet], BUILT).breaks(R1),
        mutant("mutant 7", "a nonce is used twice", &[ReusedNonce], BUILT).breaks(R1),
        mutant("mutant 8", "serves before the first journal read", &[TrustAtStart], RESTART)
            .breaks(RD),
        mutant("mutant 9", "the read begins before the lease", &[ReadBeforeLease], BUILT)
            .breaks(R1),
        mutant("mutant 10", "no UNLINK if revoked already", &[NoUnlinkIfRevoked], TWICE).breaks(R1),
        mutant("mutant 11", "Invalid is stored", &[NegativeCaching], CREATE).breaks(R3),
        mutant("mutant 12", "the client library reconnects on its own", &[SilentReconnect], DUMP)
            .breaks(R1),
        mutant("mutant 13", "a fill on the present link", &[FillOnPresentLink], DUMP).breaks(R1),
        mutant("mutant 14", "the journal is read by a time window", &[TimeWindow], UNREPORTED)
            .breaks(RD),
        mutant("mutant 15", "the age counts from the read's end", &[AgeFromEnd], UNREPORTED)
            .breaks(RD),
        run("mutant 16", "policy `available`, which D does not bound", AVAILABLE).breaks(RD),
        mutant("mutant 17", "update: SET NX and a tombstone", &[Tombstone], UPDATE).breaks(R1),
        mutant("mutant 18", "changed-set before the GET, age after", &[SetBeforeAge], UNREPORTED)
            .breaks(RD),
        mutant("mutant 19", "no UNLINK before Invalid of a revoked row", &[KeepsRevoked], SQL)
            .breaks(R2),
    ]
}

/// B: the bound D. The journal alone keeps R1Δ, whatever Redis does.
fn bounds() -> Vec<Run> {
    const HOSTILE: Config = Config { evict: ANY, hostile: true, ..BOUND };
    const ONE_SERVER: Config = Config { evict: 1, crash: 1, ..UNREPORTED };
    const RESTARTS: Config = Config { node_restart: 2, ..HOSTILE };
    const SQL: Config = Config { direct_sql: true, ..RESTARTS };
    const UNGUARDED: &[Mistake] = &[NoLease, NoIncarnation];
    const UPDATE: Config = Config { mode: Mode::Update, unlink_loss: true, evict: 1, ..BOUND };
    vec![
        run("B1", "one server: lost UNLINK and fence, a crash", ONE_SERVER)
            .holds(RD)
            .reaches(LATE)
            .slow(),
        run("B2", "Redis replays any sealed entry, nodes restart", RESTARTS)
            .holds(RD)
            .reaches(LATE | REPLACED)
            .slow(),
        mutant("B3", "the same without lease and incarnation, direct SQL", UNGUARDED, SQL)
            .holds(RD)
            .reaches(LATE),
        run("B4", "an update: Redis replays any entry", Config { mode: Mode::Update, ..HOSTILE })
            .holds(RD)
            .reaches(NEW_HIT | REPLACED),
        run("B5", "an update: rejected entries are replaced by new ones", UPDATE)
            .holds(RD | R1)
            .reaches(NEW_HIT | REPLACED),
    ]
}

/// C: two servers, failover and failback. D: R8.
fn failovers() -> Vec<Run> {
    const RECHECK: Config = Config { bound: Bound::Recheck, ..TWO };
    const EARLY: Config = Config { early_failovers: true, promote: 1, ..RECHECK };
    const SPLIT: Config = Config { split: true, promote: 1, journal: true, bound: Bound::D, ..TWO };
    const BACKLOG: Config = Config { backlog: 1, ..ONE };
    const CRASH: Config = Config { promote: 1, crash: 1, save: 1, cuts_links: true, ..TWO };
    const SETTLES: Config = Config { journal: true, settles: true, ..TWO };
    const HEALED: Config = Config { journal: true, settles: true, fence_loss: false, ..ONE };
    vec![
        mutant("C1", "role and incarnation are read at connect only", &[CheckAtConnectOnly], EARLY)
            .breaks(RD),
        run("C2c", "failover and failback under Sentinel", SENTINEL)
            .holds(R1)
            .reaches(HIT_AFTER)
            .slow(),
        mutant("C2b", "the same, the incarnation is the run_id alone", &[RunIdAlone], SENTINEL)
            .breaks(R1),
        run("C3", "a second after Propagated, which no failover follows", EARLY)
            .holds(RD)
            .reaches(LATE),
        run("C3d", "failover and failback, a replica in step", Config { in_step: true, ..RECHECK })
            .holds(R1 | RD)
            .reaches(LATE),
        run("C3e", "limit: failover and failback, a replica that lags", RECHECK).breaks(RD),
        run("C5b", "limit: split brain under Sentinel", Config { split: true, ..SENTINEL })
            .breaks(R1)
            .slow(),
        run("C6", "D after the COMMIT: split brain", SPLIT).holds(RD).reaches(LATE).slow(),
        run("C7c", "Redis frees its backlog, all faults of one server", BACKLOG)
            .holds(R1)
            .reaches(HIT)
            .slow(),
        run("C8b", "a failover under Sentinel, a crash, an old dump", CRASH)
            .holds(R1)
            .reaches(HIT_AFTER)
            .slow(),
        run("D3c", "R8: failover and failback", SETTLES).holds(R8).reaches(SETTLED).slow(),
        run("D4", "R8: lost UNLINKs, evictions, a crash and an old dump", HEALED)
            .holds(R8)
            .reaches(SETTLED)
            .slow(),
    ]
}

/// G: a row that direct SQL deletes, and what is removed before Invalid.
fn removals() -> Vec<Run> {
    const LOST: Config = Config { evict: 1, ..DELETED };
    const FAULTS: Config = Config { evict: ANY, crash: 1, save: 1, ..DELETED };
    vec![
        mutant("G1", "no UNLINK if there is no row", &[KeepsGone], DELETED).breaks(R2),
        mutant("G3", "no UNLINK if the validation has a lease", &[KeepsGoneIfLeased], LOST)
            .breaks(R2),
        run("G4", "any eviction, crash, old dump", FAULTS)
            .holds(R2 | R3)
            .reaches(INVALID | HIT_AFTER),
        run("G5", "rejected entries are replaced", Config { evict: ANY, rejects: true, ..DELETED })
            .holds(R2 | R3 | TAKEN)
            .reaches(INVALID | REPLACED),
    ]
}

/// F: a lease replaces a rejected value. Any node may reject an entry that another serves.
fn rejected() -> Vec<Run> {
    const REJECTS: Config = Config { rejects: true, ..BUILT };
    const ALL: Config = Config { rejects: true, ..ONE };
    const NO_CRASH: Config = Config { crash: 0, save: 0, ..ALL };
    const GONE: Config = Config { rejects: true, ..DELETED };
    vec![
        run("F1", "all faults of one server", ALL)
            .holds(R1 | R3 | TAKEN)
            .reaches(HIT_AFTER | REPLACED)
            .slow(),
        run("F1b", "the same without crashes", NO_CRASH)
            .holds(R1 | R3 | TAKEN)
            .reaches(HIT | REPLACED),
        mutant("F4", "no lease: a plain SET replaces it", &[ReplaceWithoutLease], REJECTS)
            .breaks(R1),
        mutant("F5", "the lease replaces any value", &[ReplaceUnconditionally], REJECTS)
            .breaks(TAKEN),
        mutant("F5b", "which R1 and R3 do not rest on", &[ReplaceUnconditionally], NO_CRASH)
            .holds(R1 | R3)
            .breaks(TAKEN),
        mutant(
            "F5c",
            "the same, and no UNLINK if the validation has a lease",
            &[ReplaceUnconditionally, KeepsGoneIfLeased],
            GONE,
        )
        .breaks(R2),
    ]
}

/// H: a node's own changes. H2 to H6: Redis has not acknowledged them. H7 to H9: it has.
fn own() -> Vec<Run> {
    const AGES: Config = Config { ages: true, ..OWN_CHANGE };
    vec![
        mutant("H2", "pending invalidations are retried, and served", &[PendingServed], OWN_CHANGE)
            .breaks(OWN),
        mutant("H3", "they are checked after the GET only", &[PendingAtReplyOnly], OWN_CHANGE)
            .breaks(OWN),
        run("H4", "they are checked before the GET and after it", OWN_CHANGE)
            .holds(R1 | OWN)
            .reaches(HIT | RETRIED | COMMITTED),
        run("H5", "they are dropped after TTL + 2 s", AGES)
            .holds(R1 | OWN)
            .reaches(FORGOTTEN | RETRIED),
        run("H5b", "the same, and a crash, an old dump", Config { crash: 1, save: 1, ..AGES })
            .holds(R1 | OWN)
            .reaches(FORGOTTEN | RETRIED | HIT_AFTER)
            .slow(),
        mutant("H6", "they are dropped earlier", &[ForgottenEarly], OWN_CHANGE).breaks(OWN),
        run("H7", "a hostile Redis: no older entry until the journal is read", OWN_HOSTILE)
            .holds(OWN)
            .reaches(HIT | PROPAGATED),
        run("H7b", "the same, an update", Config { mode: Mode::Update, ..OWN_HOSTILE })
            .holds(OWN)
            .reaches(NEW_HIT),
        mutant("H8", "older entries are served", &[OwnChangeServed], OWN_HOSTILE).breaks(OWN),
        mutant("H9", "until any journal read ends", &[HeldUntilAnyRead], OWN_HOSTILE).breaks(OWN),
    ]
}

/// Q: a near cache, in the memory of a node and in front of Redis. In Q1 and Q2, each node has its
/// own. In Q3 and Q4, all validations are of one node.
fn near() -> Vec<Run> {
    [near_each(), near_one()].into_iter().flatten().collect()
}

fn near_each() -> Vec<Run> {
    const EACH: Config = Config { near: Near::Each, monotone: true, ..BUILT };
    const CRASH: Config = Config { unlink_loss: true, crash: 1, ..EACH };
    const FAULTS: Config = Config { evict: 1, save: 1, late_replies: true, ..CRASH };
    const FIRST: Config = Config { near: Near::First, ..CRASH };
    const OWN_EACH: Config = Config { near: Near::Each, monotone: true, ..OWN_CHANGE };
    const D: Config = Config { near: Near::Each, ..BOUND };
    const LOST: Config = Config { near: Near::Each, ..UNREPORTED };
    const UPDATE: Config = Config { mode: Mode::Update, ..D };
    const HOSTILE: Config = Config { direct_sql: true, hostile: true, node_restart: 1, ..D };
    vec![
        run("Q1", "near caches on both nodes: a crash, lost UNLINKs", CRASH)
            .holds(R1 | R3 | HERE)
            .reaches(HIT_AFTER | NEAR_ALONE | NEAR_LATE | COMMITTED | INVALID),
        run("Q1a", "the same, and an eviction, an old dump, late replies", FAULTS)
            .holds(R1 | R3 | HERE)
            .reaches(NEAR_ALONE | NEAR_LATE | COMMITTED | INVALID)
            .slow(),
        run("Q1b", "as Q1, on one of the two nodes", FIRST)
            .holds(R1 | R3 | HERE)
            .reaches(NEAR_ALONE | NEAR_LATE | COMMITTED | INVALID),
        run("Q1c", "limit: R2 across nodes before D", EACH)
            .holds(R1 | R3 | HERE)
            .breaks(R2)
            .reaches(NEAR | INVALID),
        mutant("Q1d", "a node registers under the id of Redis", &[SharedRegistration], EACH)
            .breaks(R1),
        run("Q1e", "the first node makes the change: lost UNLINKs, late replies", OWN_EACH)
            .holds(R1 | R3 | HERE | OWN)
            .reaches(NEAR_LATE | COMMITTED | RETRIED),
        run("Q2", "D after the COMMIT: near caches on both nodes", D)
            .holds(RD)
            .reaches(NEAR_LATE | LATE | COMMITTED),
        run("Q2a", "the same: lost UNLINK and fence", LOST)
            .holds(RD)
            .reaches(NEAR_LATE | LATE | COMMITTED)
            .slow(),
        run("Q2b", "as Q2a, on one of the two nodes", Config { near: Near::First, ..LOST })
            .holds(RD)
            .reaches(NEAR_LATE | LATE | COMMITTED)
            .slow(),
        run("Q2c", "Redis replays any sealed entry, a node restarts, direct SQL", HOSTILE)
            .holds(RD)
            .reaches(NEAR_LATE | LATE)
            .slow(),
        run("Q2d", "as Q2, an update", UPDATE).holds(RD).reaches(NEAR_LATE | NEW_HIT | LATE),
        mutant("Q2e", "a near hit without the changed-set", &[NearWithoutSet], D).breaks(RD),
        mutant("Q2f", "the same, an update", &[NearWithoutSet], UPDATE).breaks(RD),
        mutant("Q2g", "a near hit without the journal's age", &[NearWithoutAge], D).breaks(RD),
    ]
}

fn near_one() -> Vec<Run> {
    const ONE: Config = Config { near: Near::Shared, monotone: true, late_replies: true, ..BUILT };
    const SQL: Config = Config { direct_sql: true, unlink_loss: true, ..ONE };
    const GONE: Config = Config { mode: Mode::Delete, crash: 1, save: 1, evict: 1, ..SQL };
    const OWN_NEAR: Config = Config { near: Near::Shared, monotone: true, ..OWN_CHANGE };
    const FAULTS: Config = Config { fence_loss: true, crash: 1, ..OWN_NEAR };
    const HELD: Config = Config { near: Near::Shared, ..OWN_HOSTILE };
    const FAILOVER: Config = Config { hostile: false, servers: 2, promote: 1, ..HELD };
    vec![
        run("Q3", "two validations of one node, direct SQL, lost UNLINKs", SQL)
            .holds(R3 | HERE)
            .reaches(NEAR_LATE | RETRIED | INVALID),
        run("Q3a", "a row is deleted by direct SQL: the same, an eviction, a crash, a dump", GONE)
            .holds(R3 | HERE)
            .reaches(NEAR_ALONE | NEAR_LATE | INVALID),
        mutant("Q3b", "no drop before Invalid", &[KeepsNear], SQL).breaks(HERE),
        mutant("Q3c", "the drop precedes the UNLINK", &[DropsNearBeforeUnlink], SQL).breaks(HERE),
        mutant("Q3d", "an insertion without a ticket", &[NoTicket], SQL).breaks(HERE),
        mutant("Q3e", "the ticket is taken after the GET", &[TicketAfterGet], SQL).breaks(HERE),
        mutant("Q3f", "as Q3, near hits ignore pending invalidations", &[NearWithoutPending], SQL)
            .holds(R3 | HERE),
        run("Q4", "the one node makes the change, lost UNLINKs", OWN_NEAR)
            .holds(R1 | R3 | HERE | OWN)
            .reaches(NEAR | PROPAGATED | COMMITTED | RETRIED),
        run("Q4a", "the same, and lost fences, a crash", FAULTS)
            .holds(R1 | R3 | HERE | OWN)
            .reaches(NEAR_ALONE | PROPAGATED | COMMITTED | RETRIED)
            .slow(),
        mutant("Q4b", "no drop after the change", &[KeepsOwnNear], OWN_NEAR).breaks(R1 | OWN),
        mutant("Q4c", "the drop precedes the UNLINK", &[DropsOwnNearBeforeUnlink], OWN_NEAR)
            .breaks(R1 | OWN),
        mutant("Q4d", "an insertion without a ticket", &[NoTicket], OWN_NEAR).breaks(R1 | OWN),
        run("Q4e", "as H7: a hostile Redis, no older entry until the journal is read", HELD)
            .holds(R1 | OWN)
            .reaches(NEAR | PROPAGATED),
        run("Q4f", "the same, an update", Config { mode: Mode::Update, ..HELD })
            .holds(R1 | OWN)
            .reaches(NEAR | NEW_HIT),
        mutant("Q4g", "Q4e needs neither drop nor ticket", &[KeepsOwnNear, NoTicket], HELD)
            .holds(R1 | OWN),
        mutant("Q4h", "older entries are served", &[KeepsOwnNear, OwnChangeServed], HELD)
            .breaks(R1 | OWN),
        run("Q4i", "a failover, and the registration stays the same", FAILOVER)
            .holds(R1 | OWN)
            .reaches(NEAR | PROPAGATED)
            .slow(),
    ]
}

/// W: nodes pause their journal without traffic, and wake with the next validation.
fn pauses() -> Vec<Run> {
    const LOST: Config = Config { pauses: true, ..UNREPORTED };
    const HOSTILE: Config =
        Config { pauses: true, direct_sql: true, hostile: true, evict: 1, ..BOUND };
    const HEALS: Config = Config { pauses: true, journal: true, evict: ANY, ..BUILT };
    const NEAR: Config = Config { near: Near::Each, pauses: true, ..BOUND };
    const UPDATE: Config = Config { mode: Mode::Update, pauses: true, unlink_loss: true, ..BOUND };
    vec![
        run("W1", "D after the COMMIT: nodes pause, lost UNLINK and fence", LOST)
            .holds(RD)
            .reaches(HIT | WOKEN | LATE | COMMITTED)
            .slow(),
        mutant("W1b", "a node that wakes serves before it has read", &[ServesOnWaking], LOST)
            .breaks(RD),
        run("W1c", "a node that wakes can hit again", HEALS)
            .holds(R1 | R3)
            .reaches(HIT | WOKEN)
            .heals(HIT),
        run("W2", "nodes pause, Redis replays any sealed entry, direct SQL", HOSTILE)
            .holds(RD)
            .reaches(HIT | WOKEN | LATE),
        run("W3", "as W1, near caches on both nodes, no lost messages", NEAR)
            .holds(RD)
            .reaches(NEAR_LATE | WOKEN | LATE | COMMITTED),
        mutant("W3b", "the same, served before the node has read", &[ServesOnWaking], NEAR)
            .breaks(RD),
        run("W4", "as W1, an update, no lost fence", UPDATE)
            .holds(RD)
            .reaches(NEW_HIT | WOKEN | LATE),
    ]
}
