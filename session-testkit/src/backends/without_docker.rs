//! In the place of `docker.rs` if the feature `docker` is off: there are no containers.
#![expect(
    clippy::extra_unused_type_parameters,
    reason = "the signatures are those of the containers"
)]

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
}

macro_rules! methods {
    ($($name:ident($($argument:ident: $type:ty)?) -> $result:ty;)*) => {
        impl Container {
            $(pub(crate) async fn $name(&self, $($argument: $type)?) -> $result {
                match *self {}
            })*
        }
    };
}

methods! {
    disconnect() -> Result<Vec<String>, BackendError>;
    reconnect(_networks: &[String]) -> Result<(), BackendError>;
    address_for_peers() -> Result<String, BackendError>;
    running() -> Result<bool, BackendError>;
    start_again() -> Result<(), BackendError>;
    end(_signal: Signal) -> Result<(), BackendError>;
    pause() -> Result<(), BackendError>;
    resume() -> Result<(), BackendError>;
    logs() -> Vec<String>;
}
