//! lib
pub mod backends;
pub mod proxy;
pub mod url;
pub mod wait;
