//! The names of a run's sessions, which the seed determines. SQL can therefore create a million of
//! them, and a node can still validate each.
//!
//! A name such as `7 ended 12` determines the session's id and its token, both by SHA-256. Rust and
//! SQL compute the same. A token never leaves the process that computes it.

use serde::{Deserialize, Serialize};
use session_layer::TokenDigest;
use uuid::Uuid;

/// The purpose of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// SQL changes its row. No node has an entry of it.
    Changed,
    /// SQL ends it while nodes serve entries of it.
    Ended,
    /// It stays valid. Nodes validate it continuously.
    Kept,
    /// One of the many sessions of one user.
    Crowd,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Ended => "ended",
            Self::Kept => "kept",
            Self::Crowd => "crowd",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Who {
    pub(crate) kind: Kind,
    /// The number of the session, from 0.
    pub(crate) n: u64,
}

/// The names that one seed determines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    seed: u64,
}

impl Names {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Returns the text before the number in the names of a kind: `$1` of [`SQL_ID`] and
    /// [`SQL_DIGEST`].
    pub(crate) fn prefix(self, kind: Kind) -> String {
        format!("{} {} ", self.seed, kind.as_str())
    }

    fn name(self, who: Who) -> String {
        format!("{}{}", self.prefix(who.kind), who.n)
    }

    pub(crate) fn id(self, who: Who) -> Uuid {
        let digest = TokenDigest::of(&format!("id {}", self.name(who)));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.as_bytes()[..16]);
        Uuid::from_bytes(bytes)
    }

    /// Returns the session's token: 32 bytes as base64url, as the tokens that session-layer issues.
    pub(crate) fn token(self, who: Who) -> String {
        TokenDigest::of(&format!("token {}", self.name(who))).to_base64url()
    }

    pub(crate) fn digest(self, who: Who) -> TokenDigest {
        TokenDigest::of(&self.token(who))
    }
}

/// The id of the session number `n`, in SQL. `$1` is the prefix.
pub(crate) const SQL_ID: &str = "encode(substring(sha256(convert_to('id ' || $1::text || n, \
                                 'UTF8')) FROM 1 FOR 16), 'hex')::uuid";

/// The digest of the token of the session number `n`, in SQL. `$1` is the prefix.
pub(crate) const SQL_DIGEST: &str = "sha256(convert_to(rtrim(translate(encode(sha256(\
     convert_to('token ' || $1::text || n, 'UTF8')), 'base64'), '+/', '-_'), '='), 'UTF8'))";

#[cfg(test)]
mod tests {
    use session_layer::{OpaqueTokens, TokenScheme as _};

    use super::*;

    #[test]
    fn token_is_accepted_by_session_layer() {
        let names = Names::new(7);
        for n in 0..100 {
            let who = Who { kind: Kind::Ended, n };
            let accepted = OpaqueTokens.digest(&names.token(who));
            assert_eq!(accepted, Ok(names.digest(who)));
        }
    }

    #[test]
    fn each_seed_kind_and_number_has_its_own_id() {
        let of = |seed, kind, n| Names::new(seed).id(Who { kind, n });
        let first = of(1, Kind::Ended, 1);
        assert_eq!(first, of(1, Kind::Ended, 1));
        for other in [
            of(2, Kind::Ended, 1),
            of(1, Kind::Kept, 1),
            of(1, Kind::Ended, 11),
            of(11, Kind::Ended, 1),
        ] {
            assert_ne!(first, other);
        }
    }
}
