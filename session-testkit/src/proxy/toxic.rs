//! What can be done to the bytes and connections of a proxy, as a value.

use std::time::Duration;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Requests; toxiproxy's upstream.
    ToServer,
    /// Answers; toxiproxy's downstream.
    ToClient,
}

/// Something harmful that a [`Proxy`](super::Proxy) does until its guard is dropped.
///
/// Names and meaning are toxiproxy's, except for [`hold`](Self::hold),
/// [`hold_from`](Self::hold_from), [`blackhole`](Self::blackhole), [`lose`](Self::lose),
/// [`lose_reply`](Self::lose_reply), [`idle`](Self::idle) and [`count`](Self::count), which it lacks. As
/// there, the default is all connections, and answers rather than requests; where it differs, it says so.
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
    /// Both where there is none.
    pub(super) direction: Option<Direction>,
    /// Connections opened later are spared.
    pub(super) established: bool,
    /// The share of connections that it happens to.
    pub(super) toxicity: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Latency {
        delay: Duration,
        jitter: Duration,
    },
    Down,
    Bandwidth {
        bytes_per_second: u64,
    },
    SlowClose {
        delay: Duration,
    },
    Timeout {
        after: Duration,
    },
    ResetPeer {
        after: Duration,
    },
    Slicer {
        average: usize,
        variation: usize,
        gap: Duration,
    },
    LimitData {
        bytes: u64,
    },
    Idle {
        after: Duration,
    },
    Count {
        pattern: Vec<u8>,
    },
    Hold {
        from: Option<Vec<u8>>,
    },
    Lose {
        pattern: Vec<u8>,
        /// What comes back after it, instead of the pattern itself.
        reply: bool,
        chance: f64,
        seed: u64,
    },
}

impl Toxic {
    fn new(kind: Kind, direction: Option<Direction>) -> Self {
        Self {
            kind,
            direction,
            established: false,
            toxicity: 1.0,
        }
    }

    /// Bytes come later by `delay`, give or take `jitter`. They keep their order and may overlap in
    /// flight, as on a long line: the rate is not limited. Of several the delays add up.
    pub fn latency(delay: Duration, jitter: Duration) -> Self {
        let kind = Kind::Latency { delay, jitter };
        Self::new(kind, Some(Direction::ToClient))
    }

    /// Connections are closed, new ones as soon as they are accepted (the port is kept, so they are
    /// not refused). Of the [`established`](Self::established) ones alone: they are closed once,
    /// also when the guard is dropped at once.
    pub fn down() -> Self {
        Self::new(Kind::Down, None)
    }

    /// At most so many bytes per second, for each connection; at least 1.
    pub fn bandwidth(bytes_per_second: u64) -> Self {
        let bytes_per_second = bytes_per_second.max(1);
        let kind = Kind::Bandwidth { bytes_per_second };
        Self::new(kind, Some(Direction::ToClient))
    }

    /// One side's end of file reaches the other later by `delay`; of the server's, unless
    /// [`to_server`](Self::to_server) is said.
    pub fn slow_close(delay: Duration) -> Self {
        Self::new(Kind::SlowClose { delay }, Some(Direction::ToClient))
    }

    /// Bytes are lost, and the connection is closed `after` that long; with zero it stays open.
    /// The time counts from the injection, or from a later connection's beginning.
    pub fn timeout(after: Duration) -> Self {
        Self::new(Kind::Timeout { after }, Some(Direction::ToClient))
    }

    /// Both sides get a RST `after` that long, counted as in [`timeout`](Self::timeout); zero resets
    /// what is open now also when the guard is dropped at once.
    pub fn reset_peer(after: Duration) -> Self {
        Self::new(Kind::ResetPeer { after }, None)
    }

    /// Bytes arrive in pieces of `average` bytes, give or take `variation`, with `gap` in between.
    pub fn slicer(average: usize, variation: usize, gap: Duration) -> Self {
        let kind = Kind::Slicer {
            average,
            variation,
            gap,
        };
        Self::new(kind, Some(Direction::ToClient))
    }

    /// The connection is closed when so many more bytes have passed: truncated answers.
    pub fn limit_data(bytes: u64) -> Self {
        Self::new(Kind::LimitData { bytes }, Some(Direction::ToClient))
    }

    /// The connection is closed when nothing has come by, either way, for so long: what a load balancer
    /// does, or a server with a limit for idle clients.
    pub fn idle(after: Duration) -> Self {
        Self::new(Kind::Idle { after }, None)
    }

    /// Does no harm: counts how often `pattern` comes by in answers (an error's code, say), as
    /// [`Report::occurrences`](super::Report::occurrences).
    pub fn count(pattern: impl Into<Vec<u8>>) -> Self {
        let pattern = pattern.into();
        Self::new(Kind::Count { pattern }, Some(Direction::ToClient))
    }

    /// No byte moves in either direction, and no connection is closed; new ones are accepted and
    /// get no answer. What was held is delivered at the end.
    pub fn hold() -> Self {
        Self::new(Kind::Hold { from: None }, None)
    }

    /// As [`hold`](Self::hold), but on each connection only from the first occurrence of `pattern`
    /// on: a command's name, a key. What stands before it passes. A pattern that arrives in two
    /// parts is held from the second part on, so that it is never complete on the other side.
    /// Counted as touched is what is held, so [`touched`](super::ToxicGuard::touched) waits for it.
    pub fn hold_from(pattern: impl Into<Vec<u8>>) -> Self {
        let from = Some(pattern.into());
        Self::new(Kind::Hold { from }, None)
    }

    /// The connection is closed where `pattern` (a command's name) comes by in a request: what stands
    /// before it is delivered, it and the rest are not. TCP loses nothing in the middle of a stream, so
    /// this is how a command is lost.
    pub fn lose(pattern: impl Into<Vec<u8>>) -> Self {
        Self::losing(pattern.into(), false, Some(Direction::ToServer))
    }

    /// Requests with `pattern` are delivered, and the connection is closed 20 ms later without another
    /// byte of an answer: the command was carried out, and nobody knows.
    pub fn lose_reply(pattern: impl Into<Vec<u8>>) -> Self {
        Self::losing(pattern.into(), true, None)
    }

    fn losing(pattern: Vec<u8>, reply: bool, direction: Option<Direction>) -> Self {
        let kind = Kind::Lose {
            pattern,
            reply,
            chance: 1.0,
            seed: 0,
        };
        Self::new(kind, direction)
    }

    /// Of a [`lose`](Self::lose) or [`lose_reply`](Self::lose_reply): happens to this share of the
    /// pattern's occurrences, 0 to 1, drawn from the seed. Defaults to 1. Of no effect on others.
    pub fn chance(mut self, share: f64, with_seed: u64) -> Self {
        if let Kind::Lose { chance, seed, .. } = &mut self.kind {
            (*chance, *seed) = (share, with_seed);
        }
        self
    }

    /// [`hold`](Self::hold) for the connections that are open now, while new ones work: what a
    /// firewall that lost its state does.
    pub fn blackhole() -> Self {
        Self::hold().established()
    }

    /// Happens to what goes to the server.
    pub fn to_server(mut self) -> Self {
        self.direction = Some(Direction::ToServer);
        self
    }

    /// Happens to what goes to clients.
    pub fn to_client(mut self) -> Self {
        self.direction = Some(Direction::ToClient);
        self
    }

    /// Happens in both directions.
    pub fn both_ways(mut self) -> Self {
        self.direction = None;
        self
    }

    /// Happens to connections that are open at the injection, and spares new ones.
    pub fn established(mut self) -> Self {
        self.established = true;
        self
    }

    /// Happens to this share of connections, 0 to 1, chosen by their number. Defaults to 1.
    pub fn toxicity(mut self, share: f64) -> Self {
        self.toxicity = share;
        self
    }
}
