//! Errors of histories.

use std::io;

/// The error of reading or writing a history.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The file is not readable or writable.
    #[error("could not read or write the history")]
    Io(#[from] io::Error),
    /// A line is not usable.
    #[error("line {number} of the history: {why}")]
    Line {
        /// The line's number, from 1.
        number: usize,
        /// The reason.
        #[source]
        why: LineError,
    },
    /// There is no header.
    #[error("the history is empty: the first line must be the header")]
    Empty,
}

/// The reason why a line is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The line is not JSON, or none of the known lines. An unknown field counts.
    #[error("not an entry of a history: {0}")]
    Json(#[from] serde_json::Error),
    /// The first line is not a header.
    #[error("the first line must be the header")]
    NotAHeader,
    /// Another release wrote the history.
    #[error("version {0} of the format, but this release reads versions 1 to {newest}: use the \
             release that wrote it", newest = super::VERSION)]
    Version(u32),
    /// The field is not part of the history's version.
    #[error(
        "the field `{field}` needs version {since} of the format, and the header has version \
             {version}: correct one of them"
    )]
    Newer {
        /// The field.
        field: &'static str,
        /// The first version with the field.
        since: u32,
        /// The version of the header.
        version: u32,
    },
    /// The header has too many nodes.
    #[error("the header has {0} nodes, but at most {max} are possible", max = super::MAX_NODES)]
    TooManyNodes(u32),
    /// The header does not have this node.
    #[error("there is no node {node}: the header has {nodes} nodes, numbered from 0")]
    NoSuchNode {
        /// The node.
        node: u32,
        /// The number of nodes.
        nodes: u32,
    },
    /// The end is before the beginning.
    #[error("the end is before the beginning")]
    EndsBeforeItBegins,
    /// The line has `ret` without `answer`, or the reverse.
    #[error("an operation must have both `ret` and `answer`, or neither")]
    AnswerAndTime,
    /// The line has both `ret` and `dropped`.
    #[error("a cancelled operation (`dropped`) can't have an `answer`")]
    AnsweredAndDropped,
    /// The session has a second `create`.
    #[error("session {0} is created a second time")]
    CreatedTwice(u32),
    /// The session has no `create`.
    #[error("session {0} is never created in this history")]
    NeverCreated(u32),
    /// The token was not issued.
    #[error("token {token} of session {session} is never issued in this history")]
    NeverIssued {
        /// The session.
        session: u32,
        /// The token.
        token: u32,
    },
    /// Two rotations issue the same token, or a rotation issues token 0.
    #[error("token {token} of session {session} is issued a second time")]
    IssuedTwice {
        /// The session.
        session: u32,
        /// The token.
        token: u32,
    },
    /// The history has a second end.
    #[error("the history ends a second time")]
    EndsTwice,
}
