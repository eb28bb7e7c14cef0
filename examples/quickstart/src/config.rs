//! What the quickstart itself reads from the environment. What concerns sessions, Redis and Postgres
//! is read by [`Sessions::from_env`](session_layer::Sessions::from_env).

use std::env::{self, VarError};

use session_layer::SessionCookie;

/// The quickstart's own settings.
#[derive(Debug)]
pub(crate) struct Config {
    /// `ADDR`: where the app listens.
    pub(crate) addr: String,
    /// `ADMIN_ADDR`: where the administrator switches the cache on and off. Never a public address.
    pub(crate) admin_addr: String,
    /// The one description of the session cookie, for reading, issuing and clearing alike.
    pub(crate) cookie: SessionCookie,
}

impl Config {
    pub(crate) fn from_env() -> Result<Self, String> {
        // The cookie's name comes from here and never from the scheme that a request was seen with:
        // behind a proxy that ends TLS every request looks like plain HTTP.
        let cookie = if boolean("SECURE_COOKIES", false)? {
            SessionCookie::host_prefixed()
        } else {
            SessionCookie::named("session")
        };
        Ok(Self {
            addr: text("ADDR", "127.0.0.1:3000")?,
            admin_addr: text("ADMIN_ADDR", "127.0.0.1:3001")?,
            cookie,
        })
    }
}

fn boolean(name: &str, default: bool) -> Result<bool, String> {
    match text(name, "")?.as_str() {
        "" => Ok(default),
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!(
            "{name} is {other:?}; it may be true, false, 1 or 0"
        )),
    }
}

/// A variable that is empty counts as not set, as it does for `Sessions::from_env`.
fn text(name: &str, default: &str) -> Result<String, String> {
    match env::var(name) {
        Ok(value) if !value.trim().is_empty() => Ok(value.trim().to_owned()),
        Ok(_) | Err(VarError::NotPresent) => Ok(default.to_owned()),
        Err(VarError::NotUnicode(_)) => Err(format!("{name} is not valid UTF-8")),
    }
}
