//! The switch that turns the cache off at run time.

/// The switch that decides whether validations use the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheMode {
    /// Validations use the cache.
    On,
    /// Validations read Postgres directly. Changes still invalidate entries. After the cache is
    /// turned on again, it therefore serves no session that was revoked meanwhile.
    Bypass,
}
