//! The quickstart's own environment variables.
//! [`Sessions::from_env`](session_layer::Sessions::from_env) reads those of sessions, Redis and
//! Postgres.

use std::env::{self, VarError};

use session_layer::SessionCookie;

/// The quickstart's own settings.
#[derive(Debug)]
pub(crate) struct Config {
    /// `ADDR`: the address of the app.
    pub(crate) addr: String,
    /// `ADMIN_ADDR`: the address of the cache's switch and of the metrics. It must not be public.
    pub(crate) admin_addr: String,
    /// The description of the session cookie, used for reading, issuing and clearing it.
    pub(crate) cookie: SessionCookie,
}

impl Config {
    pub(crate) fn from_env() -> Result<Self, String> {
        // The cookie's name does not depend on the scheme of requests, because behind a proxy that
        // terminates TLS every request is plain HTTP.
        let cookie = match text("SECURE_COOKIES", "false")?.as_str() {
            "true" | "1" => SessionCookie::host_prefixed(),
            "false" | "0" => SessionCookie::new(),
            other => {
                return Err(format!("SECURE_COOKIES is {other:?}: set it to true, false, 1 or 0"));
            }
        };
        Ok(Self {
            addr: text("ADDR", "127.0.0.1:3000")?,
            admin_addr: text("ADMIN_ADDR", "127.0.0.1:3001")?,
            cookie,
        })
    }
}

/// Reads a variable. An empty one counts as not set, as for `Sessions::from_env`.
fn text(name: &str, default: &str) -> Result<String, String> {
    match env::var(name) {
        Ok(value) if !value.trim().is_empty() => Ok(value.trim().to_owned()),
        Ok(_) | Err(VarError::NotPresent) => Ok(default.to_owned()),
        Err(VarError::NotUnicode(_)) => Err(format!("{name} is not valid UTF-8")),
    }
}
