//! The HTTP edge: the handling of requests and responses.
//!
//! It depends on HTTP and tower, and not on Redis or Postgres. It validates through
//! [`Sessions`](crate::Sessions).

#[cfg(feature = "axum")]
pub(crate) mod axum;
pub(crate) mod body;
pub(crate) mod caching;
pub(crate) mod config;
pub(crate) mod cookie;
pub(crate) mod extract;
pub(crate) mod finish;
pub(crate) mod future;
pub(crate) mod layer;
pub(crate) mod reject;
pub(crate) mod service;
pub(crate) mod verdict;

#[cfg(feature = "axum")]
pub use self::axum::SessionRejection;
pub use self::body::ResponseBody;
pub use self::future::ResponseFuture;
