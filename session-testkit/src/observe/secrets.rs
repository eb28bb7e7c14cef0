//! R12: a search for the issued raw tokens in every place where none may be.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;
use futures_util::TryStreamExt as _;
use sqlx::AssertSqlSafe;

use super::{Logs, ObserveError, dump::dump, keys};
use crate::{
    backends::{PostgresServer, RedisServer},
    deployment::Deployment,
    history::{Nanos, Place, Search},
    subject::{SessionLayerSubject, Subject as _},
    workload::IssuedToken,
};

/// The search patterns: each token as text, and as hex digits, because Postgres prints bytes so.
struct Needles {
    automaton: AhoCorasick,
    /// The session of each pattern.
    sessions: Vec<u32>,
}

impl Needles {
    fn new(issued: &[IssuedToken]) -> Result<Self, ObserveError> {
        let mut patterns = Vec::with_capacity(2 * issued.len());
        let mut sessions = Vec::with_capacity(2 * issued.len());
        for IssuedToken { session, token, .. } in issued {
            let hex = token.reveal().bytes().fold(String::new(), |mut hex, byte| {
                use std::fmt::Write as _;
                // A write into a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            patterns.extend([token.reveal().to_owned(), hex]);
            sessions.extend([*session; 2]);
        }
        Ok(Self { automaton: AhoCorasick::new(patterns).map_err(ObserveError::Search)?, sessions })
    }

    fn found_in(&self, text: &[u8]) -> BTreeSet<u32> {
        let found = self.automaton.find_overlapping_iter(text);
        found.filter_map(|each| self.sessions.get(each.pattern().as_usize()).copied()).collect()
    }
}

/// Searches for these tokens in Redis' keys and values, in its dump, and in all rows of the schema.
/// It also searches the logs and the nodes' metrics, states and errors.
///
/// Only a Redis that the testkit started is asked for its dump, because it has had a replica
/// afterwards.
///
/// # Errors
/// [`ObserveError`] if a server cannot be read.
pub async fn search(
    deployment: &Deployment,
    logs: Option<&Logs>,
    issued: &[IssuedToken],
    now: impl Fn() -> Nanos,
) -> Result<Vec<Search>, ObserveError> {
    let needles = Needles::new(issued)?;
    let mut searches = Vec::new();
    let mut looked = |place, text: &[u8]| {
        searches.push(Search {
            at: now(),
            place,
            bytes: text.len() as u64,
            found: needles.found_in(text).into_iter().collect(),
        });
    };
    let postgres = deployment.backends().postgres();
    for redis in deployment.redis_servers() {
        looked(Place::Redis, &entries(redis, deployment.namespace()).await?);
    }
    looked(Place::Postgres, &rows(postgres, deployment.schema()).await?);
    if let Some(logs) = logs {
        looked(Place::Logs, &logs.text());
    }
    looked(Place::Metrics, diagnostics(&deployment.subject()).as_bytes());
    for redis in deployment.redis_servers() {
        if redis.backend().is_some() {
            looked(Place::RedisDump, &dump(redis).await?);
        }
    }
    Ok(searches)
}

async fn entries(redis: &RedisServer, namespace: &str) -> Result<Vec<u8>, ObserveError> {
    let mut redis = redis.connect().await?;
    let mut text = Vec::new();
    for (key, value) in keys::entries(&mut redis, namespace).await? {
        // A value of another type was planted by a test. The dump contains it.
        for part in [key, value.unwrap_or_default()] {
            text.extend(part);
            text.push(b'\n');
        }
    }
    Ok(text)
}

async fn rows(postgres: &PostgresServer, schema: &str) -> Result<Vec<u8>, ObserveError> {
    let mut postgres = postgres.connect().await?;
    let tables = "SELECT format('SELECT t::text FROM %I.%I t', n.nspname, t.relname) \
        FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace \
        WHERE n.nspname = $1 AND t.relkind IN ('r', 'p') ORDER BY t.relname";
    let tables: Vec<String> =
        sqlx::query_scalar(tables).bind(schema).fetch_all(&mut postgres).await?;
    let mut text = Vec::new();
    for table in tables {
        let mut rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(table)).fetch(&mut postgres);
        while let Some(row) = rows.try_next().await? {
            text.extend_from_slice(row.as_bytes());
            text.push(b'\n');
        }
    }
    Ok(text)
}

fn diagnostics(subject: &SessionLayerSubject) -> String {
    let nodes = (0..subject.nodes()).filter_map(|node| subject.node(node));
    let shown = nodes.map(|node| {
        let (metrics, status, errors) = (node.metrics(), node.cache_status(), node.recent_errors());
        format!("{metrics:?}\n{status:?}\n{errors:?}\n{node:?}\n")
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Token;

    #[test]
    fn tokens_as_text_and_as_hex_are_found() {
        let given =
            |session, text: &str| IssuedToken { session, number: 0, token: Token::new(text) };
        let needles = Needles::new(&[given(1, "secret-1"), given(2, "secret-22"), given(3, "x3")]);
        let needles = needles.unwrap();
        assert_eq!(needles.found_in(b"nothing here: secret-"), BTreeSet::new());
        let text = b"a secret-1b \\x7365637265742d3232";
        assert_eq!(needles.found_in(text), BTreeSet::from([1, 2]));
        assert_eq!(Needles::new(&[]).unwrap().found_in(b"x"), BTreeSet::new());
    }
}
