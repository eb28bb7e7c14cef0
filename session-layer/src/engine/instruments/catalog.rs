//! Every metric: its name, kind, labels and meaning. `docs/metrics.md` has the same table.
//!
//! Names follow Prometheus: base units (seconds, bytes), and `_total` for a counter. Labels follow
//! OpenTelemetry: few values, and none that a user or an attacker chooses.

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetricKind {
    /// A number that only rises.
    Counter,
    /// A number that rises and falls.
    Gauge,
    /// Durations in seconds, within the bounds of
    /// [`LATENCY_BUCKETS`](crate::metrics::LATENCY_BUCKETS).
    Histogram,
}

impl MetricKind {
    /// Returns `counter`, `gauge` or `histogram`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The description of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MetricDescription {
    /// The name, which begins with `session_layer_`.
    pub name: &'static str,
    /// The kind.
    pub kind: MetricKind,
    /// The labels beside those of the publisher.
    pub labels: &'static [&'static str],
    /// The meaning.
    pub help: &'static str,
}

/// Declares the metrics, and [`METRICS`], which has them all.
macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal $labels:tt $help:literal;)*) => {
        $(pub(crate) const $id: MetricDescription = MetricDescription {
            name: concat!("session_layer_", $name),
            kind: MetricKind::$kind,
            labels: &$labels,
            help: $help,
        };)*

        /// Every metric, in the order of `docs/metrics.md`.
        pub const METRICS: &[MetricDescription] = &[$($id),*];
    };
}

metrics! {
    VALIDATIONS: Counter "validations_total" ["source", "result"]
        "Look-ups by where the answer came from (near, cache, store, none) and what it was (valid, \
         invalid, unavailable). A request with several tokens is one.";
    VALIDATION_DURATION: Histogram "validation_duration_seconds" ["source", "result"]
        "How long look-ups took. Of near hits, one in 16 is timed.";
    CACHE_LOOKUPS: Counter "cache_lookups_total" ["result"]
        "Look-ups by what the cache had: near_hit, hit, miss, error, skipped (the breaker is open) \
         or bypassed.";
    CACHE_OPERATIONS: Counter "cache_operations_total" ["operation"]
        "Calls of the cache: look_up, fence, fill, invalidate. The breaker's probes do not count.";
    CACHE_ERRORS: Counter "cache_errors_total" ["operation", "kind"]
        "Calls of the cache that failed, by kind of error.";
    CACHE_CONNECTED: Gauge "cache_connected" []
        "1 if the cache can execute commands, as far as known.";
    CACHE_MODE: Gauge "cache_mode" ["mode"]
        "1 for the mode in force: on or bypass.";
    CACHE_CONNECTIONS_MAX: Gauge "cache_connections_max" []
        "The most connections to the cache.";
    CACHE_CONNECTIONS_AVAILABLE: Gauge "cache_connections_available" []
        "Connections to the cache that could execute a command now.";
    CACHE_CONNECTIONS_PENDING: Gauge "cache_connections_pending" []
        "Callers that wait for a connection to the cache.";
    FILLS: Counter "fills_total" ["result"]
        "Entries by what became of them: stored, or refused because the lease was gone.";
    REJECTED_ENTRIES: Counter "rejected_entries_total" ["reason"]
        "Values in the cache that are never served: undecodable, unsealed, unknown_key, forged, \
         stale_incarnation, foreign.";
    NEAR_CACHE_ENTRIES: Gauge "near_cache_entries" []
        "Entries in the near cache.";
    NEAR_CACHE_SIZE: Gauge "near_cache_size_bytes" []
        "Bytes that the near cache takes.";
    BREAKER_STATE: Gauge "breaker_state" ["state"]
        "1 for the state of the breaker: closed, open or half_open.";
    BREAKER_TRANSITIONS: Counter "breaker_transitions_total" ["to"]
        "How often the breaker became open (from closed) or closed.";
    STORE_DURATION: Histogram "store_operation_duration_seconds" ["operation"]
        "How long calls of the store took, the wait for a turn included: load (validations), \
         touch, login_snapshot, create, list, digests, revoke, update, rotate, journal, register, \
         housekeeping.";
    STORE_ERRORS: Counter "store_errors_total" ["operation", "kind"]
        "Calls of the store that failed, by kind of error.";
    STORE_CONNECTIONS: Gauge "store_connections" ["pool", "state"]
        "Connections to the store, used and idle. Pools: validations, changes and journal, or \
         application. With fewer than 3 connections, changes has those of the journal, and with \
         one those of all.";
    STORE_CONNECTIONS_MAX: Gauge "store_connections_max" ["pool"]
        "The most connections to the store that a pool may have.";
    STORE_CONNECTIONS_PENDING: Gauge "store_connections_pending" ["pool"]
        "Callers that wait for a connection to the store.";
    READS_IN_FLIGHT: Gauge "reads_in_flight" []
        "Reads of the store for validations that are in flight.";
    READS_LIMIT: Gauge "reads_limit" []
        "The most reads of the store for validations that may be in flight.";
    READS_WAITING: Gauge "reads_waiting" []
        "Tokens that wait for a read of the store which has not begun.";
    TOKENS_READ: Counter "tokens_read_total" []
        "Tokens in all reads of the store. One read has one or many.";
    TOKENS_COALESCED: Counter "tokens_coalesced_total" []
        "Tokens that shared the read of another validation.";
    CHANGES_WAITING: Gauge "changes_waiting" []
        "Logins, changes and lists that wait for their turn.";
    SHED: Counter "shed_total" ["kind"]
        "Calls that failed at once because they would have waited too long: validation, or change \
         (logins and lists too).";
    CHANGES: Counter "changes_total" ["kind", "visibility"]
        "Changes (revoke, update, rotate) by visibility (nothing, propagated, committed), or why \
         they failed (rejected, unavailable, unknown).";
    SESSIONS_CREATED: Counter "sessions_created_total" []
        "Sessions created on this node.";
    SESSIONS_ENDED: Counter "sessions_ended_total" ["reason"]
        "Sessions revoked on this node: revoked, revoked all, revoked all others, or other for the \
         application's own reasons.";
    PENDING_INVALIDATIONS: Gauge "pending_invalidations" []
        "Tokens whose removal the cache has not acknowledged.";
    JOURNAL_AGE: Gauge "journal_age_seconds" []
        "Time since the last successful read of the journal began, or since the start. Over \
         staleness_bound_seconds the node is partitioned. 0 without a journal, and while the node \
         is paused.";
    PAUSED: Gauge "paused" []
        "1 while the node sends nothing to the store, because there is no traffic.";
    JOURNAL_LAG: Gauge "journal_lag_seconds" []
        "How long the last successful read of the journal took: how old the changes were when this \
         node learnt them, at most.";
    JOURNAL_READS: Counter "journal_reads_total" []
        "Reads of the journal that succeeded.";
    CHANGED_SESSIONS: Gauge "changed_sessions" []
        "Sessions and users in the changed set of this node.";
    STALENESS_BOUND: Gauge "staleness_bound_seconds" []
        "The staleness bound D: within it a connected node honors every change. 0 without a \
         journal.";
    CLOCK_OFFSET: Gauge "clock_offset_seconds" []
        "This machine's wall clock minus the store's. NaN before the store's first reply.";
    SETTINGS: Gauge "settings_info" ["version", "policy", "ttl", "staleness_bound", "sealed"]
        "1, with the settings that all nodes need alike.";
}
