//! The toxics of a proxy, as values.

use std::time::Duration;

/// The direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Requests. toxiproxy's upstream.
    ToServer,
    /// Responses. toxiproxy's downstream.
    ToClient,
}

/// A fault that a [`Proxy`](super::Proxy) injects until its guard is dropped.
///
/// Toxiproxy's toxics have its names and meaning. As there, a toxic by default affects responses on
/// all connections. Exceptions are documented.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use session_testkit::proxy::Toxic;
///
/// let slow_requests = Toxic::latency(Duration::from_millis(50), Duration::ZERO).to_server();
/// let old_connections_closed = Toxic::down().established();
/// let fill_in_mid_air = Toxic::hold_from("EVALSHA").to_server();
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "nothing happens before `Proxy::inject`"]
pub struct Toxic {
    pub(super) kind: Kind,
    /// `None`: both directions.
    pub(super) direction: Option<Direction>,
    /// Whether later connections are spared.
    pub(super) established: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Latency { delay: Duration, jitter: Duration },
    Down,
    ResetPeer { after: Duration },
    Slicer { average: usize, variation: usize, gap: Duration },
    LimitData { bytes: u64 },
    Idle { after: Duration },
    ForgetIdle { after: Duration },
    Count { pattern: Vec<u8> },
    Hold { from: Option<Vec<u8>> },
    Lose { pattern: Vec<u8>, reply: bool, chance: f64, seed: u64 },
}

impl Toxic {
    fn new(kind: Kind, direction: Option<Direction>) -> Self {
        Self { kind, direction, established: false }
    }

    /// Delays bytes by `delay`, plus or minus `jitter`. They keep their order and may overlap in
    /// flight, as on a long link: the rate is not limited. The delays of several toxics add up.
    pub fn latency(delay: Duration, jitter: Duration) -> Self {
        Self::new(Kind::Latency { delay, jitter }, Some(Direction::ToClient))
    }

    /// Closes connections, new ones as soon as they are accepted. The port is kept, so they are not
    /// refused. With [`established`](Self::established), the open connections are closed once, even
    /// if the guard is dropped at once.
    pub fn down() -> Self {
        Self::new(Kind::Down, None)
    }

    /// Sends a RST to both sides after this time, counted from the injection or from a later
    /// connection's beginning. Zero resets the open connections even if the guard is dropped at
    /// once.
    pub fn reset_peer(after: Duration) -> Self {
        Self::new(Kind::ResetPeer { after }, None)
    }

    /// Splits bytes into pieces of `average` bytes, plus or minus `variation`, with `gap` between
    /// them.
    pub fn slicer(average: usize, variation: usize, gap: Duration) -> Self {
        Self::new(Kind::Slicer { average, variation, gap }, Some(Direction::ToClient))
    }

    /// Closes the connection after this number of further bytes: truncated responses.
    pub fn limit_data(bytes: u64) -> Self {
        Self::new(Kind::LimitData { bytes }, Some(Direction::ToClient))
    }

    /// Closes the connection after this time without bytes in either direction, as a load balancer
    /// does, or a server that limits idle clients.
    pub fn idle(after: Duration) -> Self {
        Self::new(Kind::Idle { after }, None)
    }

    /// Passes no more bytes on a connection after this time without any in either direction, as a
    /// NAT does that forgets a flow. The connection is not closed, and its bytes are lost also
    /// after healing. It ends when one side closes it. New connections work.
    pub fn forget_idle(after: Duration) -> Self {
        Self::new(Kind::ForgetIdle { after }, None)
    }

    /// Counts how often `pattern` occurs in responses, such as an error's code. The count is
    /// [`Report::occurrences`](super::Report::occurrences). It has no other effect.
    pub fn count(pattern: impl Into<Vec<u8>>) -> Self {
        Self::new(Kind::Count { pattern: pattern.into() }, Some(Direction::ToClient))
    }

    /// Holds all bytes in both directions without closing a connection. New connections are
    /// accepted and get no response. The held bytes are delivered when the guard heals.
    pub fn hold() -> Self {
        Self::new(Kind::Hold { from: None }, None)
    }

    /// Holds like [`hold`](Self::hold), but on each connection only from the first occurrence of
    /// `pattern`: a command's name, a key. The bytes before it pass. If the pattern arrives in two
    /// parts, the second part is held, so that it is never complete on the other side. Only held
    /// bytes count as affected, and [`touched`](super::ToxicGuard::touched) waits for them.
    pub fn hold_from(pattern: impl Into<Vec<u8>>) -> Self {
        Self::new(Kind::Hold { from: Some(pattern.into()) }, None)
    }

    /// Closes the connection where `pattern`, a command's name, occurs in a request. The bytes
    /// before it are delivered. TCP loses no bytes in the middle of a stream, so a command can only
    /// be lost with the rest of its connection.
    pub fn lose(pattern: impl Into<Vec<u8>>) -> Self {
        let kind = Kind::Lose { pattern: pattern.into(), reply: false, chance: 1.0, seed: 0 };
        Self::new(kind, Some(Direction::ToServer))
    }

    /// Delivers requests with `pattern`, and closes the connection 20 ms later without another byte
    /// of a response. The command was executed, but the client cannot know.
    pub fn lose_reply(pattern: impl Into<Vec<u8>>) -> Self {
        let kind = Kind::Lose { pattern: pattern.into(), reply: true, chance: 1.0, seed: 0 };
        Self::new(kind, None)
    }

    /// Limits a [`lose`](Self::lose) or [`lose_reply`](Self::lose_reply) to this share of the
    /// occurrences, 0 to 1, drawn from the seed. Defaults to 1. It has no effect on other toxics.
    pub fn chance(mut self, share: f64, with_seed: u64) -> Self {
        if let Kind::Lose { chance, seed, .. } = &mut self.kind {
            (*chance, *seed) = (share, with_seed);
        }
        self
    }

    /// Holds like [`hold`](Self::hold), but only the connections that are open now. New ones work,
    /// as behind a firewall that lost its state.
    pub fn blackhole() -> Self {
        Self::hold().established()
    }

    /// Limits the toxic to requests.
    pub fn to_server(mut self) -> Self {
        self.direction = Some(Direction::ToServer);
        self
    }

    /// Limits the toxic to responses.
    pub fn to_client(mut self) -> Self {
        self.direction = Some(Direction::ToClient);
        self
    }

    /// Limits the toxic to connections that are open at the injection.
    pub fn established(mut self) -> Self {
        self.established = true;
        self
    }
}
