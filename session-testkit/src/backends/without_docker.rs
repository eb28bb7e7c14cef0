//! In the place of `docker.rs` if the feature `docker` is off: there are no containers.

use rustix::process::Signal;

use super::{error::BackendError, kind::Kind};

const WITHOUT: &str = "session-testkit was built without its feature `docker`";

pub(crate) async fn image<K: Kind>() -> Result<String, String> {
    Err(WITHOUT.to_owned())
}

/// There is none.
#[derive(Debug)]
pub(crate) enum Container {}

impl Container {
    pub(crate) async fn start<K: Kind>(
        _image: &str,
        _extra: &[String],
    ) -> Result<Self, BackendError> {
        Err(BackendError::failed("use Docker")(WITHOUT))
    }

    pub(crate) fn address(&self) -> &str {
        match *self {}
    }

    pub(crate) async fn disconnect(&self) -> Result<Vec<String>, BackendError> {
        match *self {}
    }

    pub(crate) async fn reconnect(&self, _networks: &[String]) -> Result<(), BackendError> {
        match *self {}
    }

    pub(crate) async fn address_for_peers(&self) -> Result<String, BackendError> {
        match *self {}
    }

    pub(crate) async fn running(&self) -> Result<bool, BackendError> {
        match *self {}
    }

    pub(crate) async fn start_again(&self) -> Result<(), BackendError> {
        match *self {}
    }

    pub(crate) async fn end(&self, _signal: Signal) -> Result<(), BackendError> {
        match *self {}
    }

    pub(crate) async fn pause(&self) -> Result<(), BackendError> {
        match *self {}
    }

    pub(crate) async fn resume(&self) -> Result<(), BackendError> {
        match *self {}
    }

    pub(crate) async fn logs(&self) -> Vec<String> {
        match *self {}
    }
}
