//! Value types: sessions, tokens, timestamps, URLs and errors. This module does no I/O.

pub(crate) mod clock;
pub(crate) mod credentials;
pub(crate) mod error;
pub(crate) mod identity;
pub(crate) mod lock;
pub(crate) mod server_url;
pub(crate) mod session;
pub(crate) mod spans;
pub(crate) mod tls;
pub(crate) mod token;
