//! The errors of poolers and proxies, and the words of a server as they may be printed.
//!
//! `PgBouncer` 1.18 has one code (08P01) for all of its errors, Supavisor has XX000 and pgcat
//! 58000. Therefore their texts decide. Each is a part of a text in lower case.

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use url::form_urlencoded;

use crate::model::error::StoreErrorKind as Kind;

/// The maximum length of a server's words, in characters.
const LONGEST: usize = 200;

/// What stands for a value of ours in a server's words.
const HIDDEN: &str = "…";

/// The texts of poolers, the first that matches counts. A pooler repeats the error of its own login
/// at the server behind it. Therefore that comes before a login at the pooler.
const MEANINGS: [(&[&str], Kind, &str); 6] = [
    (
        &["unsupported startup parameter", "command-line options"],
        Kind::Denied,
        "a pooler (such as PgBouncer or RDS Proxy) is in between: set SESSION_DB_POOLED=true, or \
         PostgresStoreBuilder::pooled(true). If it is set, remove `options` from DATABASE_URL and \
         PGOPTIONS",
    ),
    (
        &[
            "server login",
            "cannot connect to server",
            "server conn crashed",
            "query_wait_timeout",
            "client_login_timeout",
        ],
        Kind::Unreachable,
        "a pooler has no connection to the Postgres behind it: check that this one runs, and the \
         log of the pooler",
    ),
    (
        &["no more connections allowed", "max_client_conn", "max client", "maxclients"],
        Kind::Unreachable,
        "a pooler has no connection left: raise its limit (max_client_conn), or lower \
         SESSION_DB_POOL_SIZE of the nodes",
    ),
    (
        &["tenant or user not found", "tenant/user"],
        Kind::Denied,
        "the pooler does not know the project: with Supabase the user is postgres.PROJECT, and the \
         host is the one of its console",
    ),
    (
        &["no such database", "no pool configured"],
        Kind::Schema,
        "the pooler does not know the database, or the user for it: check both in DATABASE_URL, \
         and the databases of the pooler",
    ),
    (
        &[
            "authentication failed",
            "no such user",
            "login rejected",
            "ssl required",
            "ssl connection is required",
        ],
        Kind::Denied,
        "the pooler rejected our user or password, or requires TLS: check DATABASE_URL, \
         DATABASE_PASSWORD_FILE, DATABASE_TLS_CA_FILE, and the users of the pooler (auth_file)",
    ),
];

/// Returns the meaning of a text, if it is that of a known pooler.
pub(super) fn meaning(text: &str) -> Option<(Kind, &'static str)> {
    let text = text.to_lowercase();
    let known = MEANINGS.iter().find(|(parts, ..)| parts.iter().any(|part| text.contains(part)));
    known.map(|(_, kind, meaning)| (*kind, *meaning))
}

/// Returns a server's words in one line of limited length, without our user, database and password.
pub(super) fn words(text: &str, options: &PgConnectOptions) -> String {
    let mut text = text.to_owned();
    if let Some(password) = password(options) {
        text = text.replace(&password, HIDDEN);
    }
    for name in [Some(options.get_username()), options.get_database()].into_iter().flatten() {
        text = without_word(&text, name);
    }
    let line = text.split(|c: char| c.is_control() || c.is_whitespace());
    let line = line.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}{HIDDEN}", &line[..end]),
        None => line,
    }
}

/// Returns the password. sqlx shows it only in a URL, with every other character encoded. It panics
/// at a user or a host that has no place in a URL, such as an IPv6 address.
fn password(options: &PgConnectOptions) -> Option<String> {
    let url = options.clone().username("user").host("host").to_url_lossy();
    let (password, _) = form_urlencoded::parse(url.password()?.as_bytes()).next()?;
    (!password.is_empty()).then(|| password.into_owned())
}

/// Replaces a name where it is a word of its own. The name `on` is also a part of `connection`.
fn without_word(text: &str, name: &str) -> String {
    if name.is_empty() {
        return text.to_owned();
    }
    let is_of_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let last = before.chars().next_back().or_else(|| kept.chars().next_back());
        let is_word = !is_of_word(last) && !is_of_word(after.chars().next());
        kept += before;
        kept += if is_word { HIDDEN } else { name };
        rest = after;
    }
    kept + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_a_pooler_has_its_own_meaning() {
        for (text, kind, named) in [
            ("unsupported startup parameter: extra_float_digits", Kind::Denied, "POOLED=true"),
            ("unsupported startup parameter in options: jit", Kind::Denied, "POOLED=true"),
            (
                "Feature not supported: RDS Proxy currently doesn’t support command-line options.",
                Kind::Denied,
                "POOLED=true",
            ),
            ("no more connections allowed (max_client_conn)", Kind::Unreachable, "connection left"),
            ("Max client connections reached", Kind::Unreachable, "connection left"),
            ("query_wait_timeout", Kind::Unreachable, "Postgres behind it"),
            ("pgbouncer cannot connect to server", Kind::Unreachable, "Postgres behind it"),
            (
                "server login has been failing, cached error: password authentication failed",
                Kind::Unreachable,
                "Postgres behind it",
            ),
            ("server conn crashed?", Kind::Unreachable, "Postgres behind it"),
            ("Tenant or user not found", Kind::Denied, "postgres.PROJECT"),
            ("no such database: app", Kind::Schema, "the database"),
            ("No pool configured for database: \"app\", user: \"u\"", Kind::Schema, "the database"),
            ("password authentication failed", Kind::Denied, "our user or password"),
            ("SASL authentication failed", Kind::Denied, "our user or password"),
            ("no such user", Kind::Denied, "our user or password"),
        ] {
            let (found, meaning) = meaning(text).unwrap();
            assert_eq!(found, kind, "{text}");
            assert!(meaning.contains(named), "{text}: {meaning}");
            let names_setting = meaning.contains("SESSION_DB_POOLED");
            assert_eq!(names_setting, named == "POOLED=true", "{text}: {meaning}");
        }
        assert_eq!(meaning("database \"app\" is disabled"), None);
    }

    #[test]
    fn words_of_a_server_are_one_short_line_without_our_values() {
        let url = "postgres://on:h+u%26n%20t@[::1]/app".parse().unwrap();
        let options = crate::store::PostgresStore::connect_options(&url).unwrap();
        for (text, printed) in [
            ("no connection of on to app", "no connection of … to …"),
            ("user \"on\",\r\n db=app: h+u&n t?", "user \"…\", db=…: …?"),
            ("apps\u{1b}[2J on-on", "apps [2J …-…"),
            ("", ""),
        ] {
            assert_eq!(words(text, &options), printed);
        }
        assert_eq!(words(&"ä".repeat(300), &options), format!("{}…", "ä".repeat(200)));
    }
}
