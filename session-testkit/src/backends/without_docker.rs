//! In the place of `docker.rs` if the feature `docker` is off: there are no containers.

use super::{
    error::BackendError,
    kind::{Recipe, Stop},
};

const WITHOUT: &str = "session-testkit was built without its feature `docker`";

pub(crate) async fn missing<K: Recipe>() -> Option<String> {
    image::<K>().await.err()
}

pub(crate) async fn image<K: Recipe>() -> Result<String, String> {
    Err(WITHOUT.to_owned())
}

/// There is none.
#[derive(Debug)]
pub(crate) enum Container {}

impl Container {
    pub(crate) async fn start<K: Recipe>(
        _image: &str,
        _extra: &[String],
    ) -> Result<Self, BackendError> {
        Err(BackendError::docker("be used")(WITHOUT))
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

    pub(crate) async fn kill(&self) -> Result<(), BackendError> {
        match *self {}
    }

    pub(crate) async fn stop(&self) -> Result<(), BackendError> {
        match *self {}
    }

    pub(crate) async fn stop_by(&self, _stop: Stop) -> Result<(), BackendError> {
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
