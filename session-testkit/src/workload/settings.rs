//! The amount and the kind of load.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::history::{Parameters, millis};

/// The denominator of all shares.
pub const PER_MILLE: u32 = 1000;

/// The amount and the kind of load. The [`Plan`](super::Plan) is a function of these settings and
/// of the number of nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The seed that replays the plan.
    pub seed: u64,
    /// The number of requests due per second. Defaults to 2,000.
    pub rate: u32,
    /// The duration of the load. Defaults to 30 s.
    #[serde(rename = "duration_ms", with = "millis")]
    pub duration: Duration,
    /// The number of concurrent sessions. All are created before the clock starts. Defaults to
    /// 1,000.
    pub sessions: u32,
    /// The number of sessions per user. Defaults to 4.
    pub sessions_per_user: u32,
    /// The exponent of Zipf's law, by which sessions are selected. 0 is even. Defaults to 1.
    pub zipf: f64,
    /// The shares of the operations. Defaults to mostly validates.
    pub shares: Shares,
    /// The requests that their caller drops, per 1,000. It drops them at one of the first awaits,
    /// or within the budget. Requests with an earlier response are not dropped. Defaults to 20.
    pub dropped: u32,
    /// The time for which a revoked token is still sent, before a new login takes its slot. It
    /// should exceed D, because otherwise few cases of R1Δ occur. Defaults to 4 s.
    #[serde(rename = "linger_ms", with = "millis")]
    pub linger: Duration,
    /// The logins during the load with an absolute timeout, per 1,000. Defaults to 50.
    pub short_lived: u32,
    /// That absolute timeout. Zero means none. Defaults to 5 s.
    #[serde(rename = "lifetime_ms", with = "millis")]
    pub lifetime: Duration,
    /// The sessions with an idle timeout, per 1,000. Such sessions write touches to the database.
    /// Defaults to none.
    pub idle_limited: u32,
    /// That idle timeout. Defaults to 40 s.
    #[serde(rename = "idle_ms", with = "millis")]
    pub idle: Duration,
    /// The maximum grace of a rotation. Every second rotation has none. Defaults to 2 s.
    #[serde(rename = "grace_ms", with = "millis")]
    pub grace: Duration,
    /// The timeout of an operation, which then counts as hung. Defaults to 10 s.
    #[serde(rename = "patience_ms", with = "millis")]
    pub patience: Duration,
    /// The maximum number of operations in flight. When it is reached, due requests wait, and their
    /// latency includes the wait. Defaults to 8,192.
    pub in_flight: u32,
    /// The parameters of the promises, for the history's header.
    pub parameters: Parameters,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            rate: 2_000,
            duration: Duration::from_secs(30),
            sessions: 1_000,
            sessions_per_user: 4,
            zipf: 1.0,
            shares: Shares::default(),
            dropped: 20,
            linger: Duration::from_secs(4),
            short_lived: 50,
            lifetime: Duration::from_secs(5),
            idle_limited: 0,
            idle: Duration::from_secs(40),
            grace: Duration::from_secs(2),
            patience: Duration::from_secs(10),
            in_flight: 8_192,
            parameters: Parameters::default(),
        }
    }
}

impl Settings {
    /// Returns the defaults with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Returns a new seed. The caller should print it.
    pub fn fresh_seed() -> u64 {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        high ^ low
    }

    /// Returns the idle timeout of a session by its number. Idle timeouts are spread evenly over
    /// popular and rare sessions.
    pub(super) fn idle_of(&self, session: u32) -> Option<Duration> {
        // Coprime to 1,000, so that each thousand in a row has each number once.
        const SPREAD: u64 = 619;
        let place = u64::from(session) * SPREAD % u64::from(PER_MILLE);
        (place < u64::from(self.idle_limited)).then_some(self.idle)
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let positive = [
            ("rate", u64::from(self.rate)),
            ("sessions", u64::from(self.sessions)),
            ("sessions_per_user", u64::from(self.sessions_per_user)),
            ("in_flight", u64::from(self.in_flight)),
        ];
        if let Some((what, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(SettingsError::Zero(what));
        }
        if self.rate > 1_000_000 {
            return Err(SettingsError::Rate(self.rate));
        }
        let shares = [
            ("shares", self.shares.sum()),
            ("dropped", self.dropped),
            ("short_lived", self.short_lived),
            ("idle_limited", self.idle_limited),
        ];
        if let Some((what, share)) = shares.into_iter().find(|(_, share)| *share > PER_MILLE) {
            return Err(SettingsError::Share { what, share });
        }
        if !(self.zipf >= 0.0 && self.zipf.is_finite()) {
            return Err(SettingsError::Zipf(self.zipf));
        }
        Ok(())
    }
}

/// The requests of each kind per 1,000. The others are validates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// Logins. They must exceed the sessions that end, because otherwise slots stay without an
    /// active session. Defaults to 40.
    pub create: u32,
    /// Updates. Defaults to 30.
    pub update: u32,
    /// Revokes. Defaults to 20.
    pub revoke: u32,
    /// Revoke-alls of a user. Defaults to 2.
    pub revoke_all: u32,
    /// Rotations. Defaults to 10.
    pub rotate: u32,
    /// Validates of random tokens. Defaults to 20.
    pub random: u32,
}

impl Default for Shares {
    fn default() -> Self {
        Self { create: 40, update: 30, revoke: 20, revoke_all: 2, rotate: 10, random: 20 }
    }
}

impl Shares {
    /// Returns the sum of the shares, which excludes validates of issued tokens.
    fn sum(self) -> u32 {
        self.each().into_iter().fold(0, |sum, (_, share)| sum.saturating_add(share))
    }

    fn each(self) -> [(Kind, u32); 6] {
        [
            (Kind::Create, self.create),
            (Kind::Update, self.update),
            (Kind::Revoke, self.revoke),
            (Kind::RevokeAll, self.revoke_all),
            (Kind::Rotate, self.rotate),
            (Kind::Random, self.random),
        ]
    }

    /// Returns the kind for a number below [`PER_MILLE`].
    pub(super) fn kind(self, mut draw: u32) -> Kind {
        for (kind, share) in self.each() {
            if draw < share {
                return kind;
            }
            draw -= share;
        }
        Kind::Validate
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Create,
    Update,
    Revoke,
    RevokeAll,
    Rotate,
    Random,
    Validate,
}

/// The error for invalid settings.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A setting that must not be 0.
    #[error("`{0}` is 0, but must be at least 1")]
    Zero(&'static str),
    /// A rate with less than a microsecond between two requests.
    #[error("a rate of {0} per second is above the maximum of 1000000")]
    Rate(u32),
    /// A share above the whole.
    #[error("`{what}` is {share} of {PER_MILLE}")]
    Share {
        /// The name of the share.
        what: &'static str,
        /// Its value.
        share: u32,
    },
    /// An invalid exponent.
    #[error("`zipf` is {0}, but must be 0 or more")]
    Zipf(f64),
}
