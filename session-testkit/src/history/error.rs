//! What can be wrong with a history.

use std::io;

/// A history could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The file could not be read or written.
    #[error("the history can't be read or written")]
    Io(#[from] io::Error),
    /// A line that can't be used.
    #[error("line {number} of the history: {why}")]
    Line {
        /// Its number, from 1.
        number: usize,
        /// What is wrong with it.
        #[source]
        why: LineError,
    },
    /// Nothing at all, not even a header.
    #[error("the history is empty; its first line is the header")]
    Empty,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// No JSON, or none of the known lines: an unknown field counts.
    #[error("it is no entry of a history: {0}")]
    Json(#[from] serde_json::Error),
    /// The first line is something else.
    #[error("the first line must be the header")]
    NotAHeader,
    /// Written by another release.
    #[error("version {0} of the format; this release reads version {current}", current = super::VERSION)]
    Version(u32),
    /// A node that the header does not know.
    #[error("there is no node {node}: the header says {nodes} nodes, which count from 0")]
    NoSuchNode {
        /// The node.
        node: u32,
        /// How many there are.
        nodes: u32,
    },
    /// An end before its beginning.
    #[error("it ends before it begins")]
    EndsBeforeItBegins,
    /// `ret` without `answer`, or the other way round.
    #[error("an operation has both `ret` and `answer`, or neither")]
    AnswerAndTime,
    /// Both `ret` and `dropped`.
    #[error("an operation that was dropped has no answer")]
    AnsweredAndDropped,
    /// A second `create` of a session.
    #[error("session {0} is created a second time")]
    CreatedTwice(u32),
    /// A session without a `create`.
    #[error("session {0} is created nowhere in this history")]
    NeverCreated(u32),
    /// A token that nobody gave out.
    #[error("token {token} of session {session} is given out nowhere in this history")]
    NeverGivenOut {
        /// The session.
        session: u32,
        /// The token.
        token: u32,
    },
    /// The same token from two rotations, or token 0 from one.
    #[error("token {token} of session {session} is given out a second time")]
    GivenOutTwice {
        /// The session.
        session: u32,
        /// The token.
        token: u32,
    },
    /// A second end.
    #[error("the history ends a second time")]
    EndsTwice,
}
