//! How much load, of what.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::history::{Parameters, millis};

/// Shares are parts of this.
pub const PER_MILLE: u32 = 1000;

/// How much load, of what. Its seed and the subject's number of nodes make the [`Plan`](super::Plan).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What replays the plan.
    pub seed: u64,
    /// Requests due in a second. Defaults to 2,000.
    pub rate: u32,
    /// How long requests are due. Defaults to 30 s.
    #[serde(rename = "duration_ms", with = "millis")]
    pub duration: Duration,
    /// How many sessions are in use at a time: the keys. All are created before the clock starts.
    /// Defaults to 1,000.
    pub sessions: u32,
    /// How many sessions a user has. Defaults to 4.
    pub sessions_per_user: u32,
    /// How uneven the keys are: the exponent of Zipf's law. 0 is even. Defaults to 1.
    pub zipf: f64,
    /// What is asked. Defaults to mostly validates.
    pub shares: Shares,
    /// How many of all requests are to be dropped by their caller, of 1,000: at one of their first
    /// awaits, or at some time within the budget. Those that are answered before are not. Defaults to 20.
    pub dropped: u32,
    /// How long a revoked token is still presented before a new login takes its key. It should be longer
    /// than D, or R1Δ is hardly examined. Defaults to 4 s.
    #[serde(rename = "linger_ms", with = "millis")]
    pub linger: Duration,
    /// How many logins during the load get an absolute timeout, of 1,000. Defaults to 50.
    pub short_lived: u32,
    /// Which; zero: none. Defaults to 5 s.
    #[serde(rename = "lifetime_ms", with = "millis")]
    pub lifetime: Duration,
    /// How many sessions have an idle timeout, of 1,000, so that their use is noted in the database. Defaults to
    /// none.
    pub idle_limited: u32,
    /// Which. Defaults to 40 s.
    #[serde(rename = "idle_ms", with = "millis")]
    pub idle: Duration,
    /// The longest grace of a rotation; every second one has none. Defaults to 2 s.
    #[serde(rename = "grace_ms", with = "millis")]
    pub grace: Duration,
    /// After this an operation is given up as one that hangs. Defaults to 10 s.
    #[serde(rename = "patience_ms", with = "millis")]
    pub patience: Duration,
    /// How many operations may be under way. Where that is reached, what is due waits, and its latency
    /// with it. Defaults to 8,192.
    pub in_flight: u32,
    /// What goes into the history's header: the numbers of the promises.
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
    /// The defaults with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// A seed that was not used before. Print it.
    #[must_use]
    pub fn fresh_seed() -> u64 {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        high ^ low
    }

    /// The idle timeout of a session by its number: spread evenly, so that it is of popular and of rare ones.
    pub(super) fn idle_of(&self, session: u32) -> Option<Duration> {
        // Prime to 1,000: each thousand in a row has each number once.
        const SPREAD: u64 = 619;
        let place = u64::from(session) * SPREAD % u64::from(PER_MILLE);
        (place < u64::from(self.idle_limited)).then_some(self.idle)
    }

    /// Can this be run?
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

/// How many of 1,000 requests are of each kind. The rest are validates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// Logins. More than the sessions that end, or their keys stay dead. Defaults to 40.
    pub create: u32,
    /// New data. Defaults to 30.
    pub update: u32,
    /// Ends of sessions. Defaults to 20.
    pub revoke: u32,
    /// Ends of all of a user's sessions. Defaults to 2.
    pub revoke_all: u32,
    /// New tokens. Defaults to 10.
    pub rotate: u32,
    /// Validates of random tokens. Defaults to 20.
    pub random: u32,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            create: 40,
            update: 30,
            revoke: 20,
            revoke_all: 2,
            rotate: 10,
            random: 20,
        }
    }
}

impl Shares {
    /// All but validates of issued tokens.
    fn sum(self) -> u32 {
        self.each()
            .into_iter()
            .fold(0, |sum, (_, share)| sum.saturating_add(share))
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

    /// What a number below [`PER_MILLE`] stands for.
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

/// What is asked, without the particulars.
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

/// Settings that mean nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Something that must not be 0.
    #[error("`{0}` is 0; it must be 1 at least")]
    Zero(&'static str),
    /// Too much for the nanoseconds between two requests.
    #[error("a rate of {0} per second; at most 1000000 are possible")]
    Rate(u32),
    /// More than all.
    #[error("`{what}` is {share} of {PER_MILLE}")]
    Share {
        /// Which share.
        what: &'static str,
        /// How much.
        share: u32,
    },
    /// No exponent.
    #[error("`zipf` is {0}; it must be 0 or more")]
    Zipf(f64),
}
